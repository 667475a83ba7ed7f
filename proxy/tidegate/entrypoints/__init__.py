"""Front doors: they read requests from the wire and write answers to it; they decide nothing about them.

`asgi` combines the HTTP endpoints into one application.
"""
