"""The HTTP front door: one file per thing that callers can ask for, and what they share.

`exchange` is one request and its answer on the wire, `request_scope` notices a caller who leaves, `event_stream` is the body
of a streamed answer. `inference` serves chat, completions and embeddings alike, as they differ in nothing but the
parser.
"""
