"""The composition root: a `Config` in, a running `App` out. The only package that names every concrete class.

house     the app: everything that runs, and how a config becomes a front door
hosts     upstreams: wires, credentials, gates
names     models: what names mean, and what is known of them
keys      who may call
"""
