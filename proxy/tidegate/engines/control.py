"""`HttpControl`: an engine's own routes, over the connection that only we have."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

import msgspec

from tidegate.engines.base import Load
from tidegate.engines.supervision.due_check import NO_ANSWER, REFUSED, UNHEALTHY, is_refusal
from tidegate.errors import ProxyError, UpstreamFailed, UpstreamTimeout, UpstreamUnreachable
from tidegate.protocol import models

_LOOK_S = 5.0
_TRIES = 3  # of a health route whose connection breaks, as when the server closes idle connections
_MOVE_S = 120.0  # weights to the machine's memory and back, or from the disk anew
_EMPTY = b"{}"  # SGLang refuses a POST that has no body


class Wire(Protocol):
    """What is needed of `tidegate.transport.wire.Transport`."""

    async def get(self, path: str) -> bytes:
        """The body at `path`; raises `ProxyError`."""

    async def ask(self, path: str, body: bytes) -> bytes:
        """The body of the answer to a POST; raises `ProxyError`."""

    def use_keys(self, api_keys: list[str]) -> None:
        """The keys from now on."""

    def use_port(self, port: int) -> None:
        """The port from now on."""


class HttpControl:
    """Implements `base.Control`.

    Args:
        root: its base URL is the server's root.
        api: its base URL is where the models are, `/v1`.
        health_path, metrics_path: of the kind.
        read_load: what its metrics say, see `scrape`.
        model: what it calls the model that it is tried with; None: the first that it lists.
        sleep_paths: the paths of the POST requests that put it to sleep and wake it; None: vLLM's.
        restore: see `base.Control`.

    Attributes:
        metrics: the body of its metrics as it last gave them, in this start.
    """

    def __init__(
        self,
        root: Wire,
        api: Wire,
        *,
        health_path: str,
        metrics_path: str | None,
        read_load: Callable[[bytes], Load],
        model: str | None,
        sleep_paths: tuple[str, str] | None = None,
        restore: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.metrics = b""
        self._root = root
        self._api = api
        self._health_path = health_path
        self._metrics_path = metrics_path
        self._read_load = read_load
        self._model = model
        self._sleep_paths = sleep_paths
        self._restore = restore

    def use_key(self, api_key: str) -> None:
        self.metrics = b""
        self._root.use_keys([api_key])
        self._api.use_keys([api_key])

    def use_port(self, port: int) -> None:
        self._root.use_port(port)
        self._api.use_port(port)

    async def answers(self) -> bool:
        try:
            await self._get(self._health_path)
        except ProxyError:
            return False
        return True

    async def fault(self) -> str | None:
        for _ in range(_TRIES):
            try:
                await self._get(self._health_path)
            except UpstreamFailed:
                return UNHEALTHY
            except UpstreamUnreachable as error:
                if is_refusal(error):
                    return REFUSED
            except ProxyError:
                return None
            else:
                return None
        return NO_ANSWER

    async def load(self) -> Load:
        if self._metrics_path is None:
            await self._get(self._health_path)
            return Load()
        self.metrics = await self._get(self._metrics_path)
        return self._read_load(self.metrics)

    async def restore(self) -> None:
        if self._restore is not None:
            await self._restore()

    async def sleep(self, level: int) -> None:
        if self._sleep_paths is not None:
            await self._tell(self._sleep_paths[0], _EMPTY)
            return
        await self._tell(f"/sleep?level={level}")

    async def wake(self, level: int) -> None:
        if self._sleep_paths is not None:
            await self._tell(self._sleep_paths[1], _EMPTY)
            return
        if level == 1:
            await self._tell("/wake_up")
            return
        # its weights are gone: it would answer with what happens to be in the memory (vLLM's page on sleep mode)
        await self._tell("/wake_up?tags=weights")
        await self._tell("/collective_rpc", b'{"method":"reload_weights"}')
        await self._tell("/wake_up?tags=kv_cache")

    async def generate(self) -> None:
        # as plain text: not every model has a chat template
        asked = {"model": self._model or await self._first_model(), "prompt": "1", "max_tokens": 1}
        await self._api.ask("/completions", msgspec.json.encode(asked))

    async def _first_model(self) -> str:
        try:
            return models.parse_list(await self._api.get("/models"), owned_by="")[0].id
        except (IndexError, msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UpstreamFailed("it does not list its models") from error

    async def _tell(self, path: str, body: bytes = b"") -> None:
        await _in_time(self._root.ask(path, body), f"POST {path}", _MOVE_S)

    async def _get(self, path: str) -> bytes:
        return await _in_time(self._root.get(path), f"GET {path}", _LOOK_S)


async def _in_time(asking: Awaitable[bytes], asked: str, limit_s: float) -> bytes:
    try:
        async with asyncio.timeout(limit_s):
            return await asking
    except TimeoutError as error:
        raise UpstreamTimeout(f"{asked} took more than {limit_s:g} s.") from error
