"""Tidegate: an OpenAI-compatible proxy in front of engines that it starts itself and of hosted upstreams.

The packages follow the path of a request, top to bottom. Imports may only point down; the contracts that check this are
in `pyproject.toml`. `tidegate.pipeline` describes all the phases of a request; start reading there.
"""
