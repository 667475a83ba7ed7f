"""Each upstream's variant of the OpenAI API: translation only, no I/O.

A dialect is an instance of `base.Dialect`: a set of facts that one shared translator reads. A dialect has code of its
own only where a host's structure differs. Adding a host takes one file here and one line in `registry`.
"""
