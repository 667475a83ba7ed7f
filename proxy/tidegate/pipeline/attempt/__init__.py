"""One attempt at one target: translate the request, send it, read the answer."""
