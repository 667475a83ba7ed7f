"""Front doors: wire in, wire out, no policy. `asgi` puts the HTTP ones together."""
