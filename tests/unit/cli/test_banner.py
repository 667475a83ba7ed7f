"""What `serve` prints at the start."""

import io
from pathlib import Path

from tidegate.cli.banner import explain_nothing_found, show
from tidegate.config.environment import discover


def no_package(_package: str) -> bool:
    return False


def test_the_message_without_anything_to_serve_names_what_was_looked_for_and_the_fix():
    text = explain_nothing_found(discover({}, has_package=no_package), None)
    assert "OPENAI_API_KEY" in text
    assert "OLLAMA_HOST" in text
    assert "pip install 'tidegate[embedded]'" in text
    assert "--config FILE" in text


def test_a_config_file_with_nothing_to_serve_is_named():
    assert "mine.yaml: no upstreams and no engines" in explain_nothing_found(
        discover({}, has_package=no_package), Path("mine.yaml")
    )


def test_the_table_shows_no_secret_and_the_curl_line_sends_the_key_from_the_environment():
    discovery = discover({"OPENAI_API_KEY": "sk-1", "TIDEGATE_API_KEY": "sk-2"}, has_package=no_package)
    out = io.StringIO()
    show(discovery.config, discovery, ("::1", 8000), out)
    assert "http://[::1]:8000/v1" in out.getvalue()
    assert "openai (https://api.openai.com/v1)" in out.getvalue()
    assert "authorization: Bearer $TIDEGATE_API_KEY" in out.getvalue()
    assert "sk-" not in out.getvalue()
