"""The composition root: a `Config` in, a running `App` out. The only package that names every concrete class.

app          `App`: builds everything that runs from a config, and replaces it at a reload
upstreams    connections, credentials, concurrency limits and pipeline views of upstreams and engines
models       from model names to targets and their cards
keys         the keys of callers and of external engines; whether keys are required
advice       notes on settings that are valid but have no effect, or an unintended one
"""
