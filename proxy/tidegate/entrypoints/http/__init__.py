"""The HTTP front door: one file per endpoint, and what the endpoints share.

`inference` serves chat, completions and embeddings, which differ only in their parsers. Shared parts: `exchange` reads
a request from the wire and writes its answer, `request_scope` ends the work for a request when its caller disconnects,
`event_stream` sends the body of a streamed answer, and `services` holds what the endpoints depend on.
"""
