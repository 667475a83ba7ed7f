"""What `serve` says to the person who started it."""

import io
from pathlib import Path

from tidegate.cli.banner import nothing_found, show
from tidegate.config.environment import discover


def nothing(_package: str) -> bool:
    return False


def test_nothing_found_names_what_was_looked_for_and_the_cure():
    told = nothing_found(discover({}, has_package=nothing), None)
    assert "OPENAI_API_KEY" in told
    assert "OLLAMA_HOST" in told
    assert "pip install 'tidegate[embedded]'" in told
    assert "--config FILE" in told


def test_a_file_with_nothing_to_serve_is_named():
    assert "mine.yaml: no upstreams and no engines" in nothing_found(
        discover({}, has_package=nothing), Path("mine.yaml")
    )


def test_the_table_shows_no_secret_and_a_line_with_the_key_to_send():
    discovery = discover({"OPENAI_API_KEY": "sk-1", "TIDEGATE_API_KEY": "sk-2"}, has_package=nothing)
    out = io.StringIO()
    show(discovery.config, discovery, ("::1", 8000), out)
    assert "http://[::1]:8000/v1" in out.getvalue()
    assert "openai (https://api.openai.com/v1)" in out.getvalue()
    assert "authorization: Bearer $TIDEGATE_API_KEY" in out.getvalue()
    assert "sk-" not in out.getvalue()
