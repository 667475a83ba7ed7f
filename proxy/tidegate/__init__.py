"""Tidegate: an OpenAI-compatible drop-in proxy in front of one's own engines and everyone else's hosts.

The packages are the road of a request, top to bottom, and imports may only point down it (the contracts stand in
`pyproject.toml`). `tidegate.pipeline` tells the life of a request; start reading there.
"""
