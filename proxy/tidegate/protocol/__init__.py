"""The OpenAI wire: what callers send, what they get back, and the framing of both. Pure: no I/O, no policy."""
