"""Each upstream's accent of the OpenAI API: translation only, no I/O.

A dialect is a row of facts (`base.Dialect`) over one translator; code of its own only where the structure differs.
Adding a host is one file and one line in `registry`.
"""
