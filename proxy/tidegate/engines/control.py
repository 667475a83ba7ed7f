"""`HttpControl`: an engine's own routes for health, metrics, sleep and a test request, which no caller can reach."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

import msgspec

from tidegate.engines.base import Load
from tidegate.engines.supervision.health_recheck import NO_ANSWER, REFUSED, UNHEALTHY, is_refusal
from tidegate.errors import ProxyError, UpstreamFailed, UpstreamTimeout, UpstreamUnreachable
from tidegate.protocol import models

_CHECK_S = 5.0
_TRIES = 3  # for a health check whose connection breaks, as happens when the server has closed an idle connection
_SLEEP_S = 120.0  # weights are moved between GPU and main memory, or read from the disk again
_EMPTY_OBJECT = b"{}"  # SGLang refuses a POST that has no body


class Wire(Protocol):
    """The methods of `tidegate.transport.wire.Transport` that are used here."""

    async def get(self, path: str) -> bytes:
        """Send a GET and return the body of the answer; raises `ProxyError`."""

    async def post_and_read(self, path: str, body: bytes) -> bytes:
        """Send a POST and return the body of the answer; raises `ProxyError`."""

    def use_keys(self, api_keys: list[str]) -> None:
        """Use these API keys from now on."""

    def use_port(self, port: int) -> None:
        """Use this port from now on."""


class HttpControl:
    """Implements `base.Control`.

    Args:
        root: the transport to the server's root.
        api: the transport to the server's `/v1`.
        health_path, metrics_path: see `base.EngineKind`.
        read_load: reads the load from the metrics, see `scrape`.
        model: the model's name in the server, for the test request; None: the first model that the server lists.
        sleep_paths: the paths of the POST requests that put the engine to sleep and wake it; None: those of vLLM.
        restore: does the work of `Control.restore`; None: there is nothing to load again.

    Attributes:
        metrics: the body of the metrics as they were last read since the engine's start; empty: not read yet.
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
            await self._post(self._sleep_paths[0], _EMPTY_OBJECT)
            return
        await self._post(f"/sleep?level={level}")

    async def wake(self, level: int) -> None:
        if self._sleep_paths is not None:
            await self._post(self._sleep_paths[1], _EMPTY_OBJECT)
            return
        if level == 1:
            await self._post("/wake_up")
            return
        # level 2 has discarded the weights; without a reload the engine would compute with whatever the memory holds
        # (vLLM's page on sleep mode)
        await self._post("/wake_up?tags=weights")
        await self._post("/collective_rpc", b'{"method":"reload_weights"}')
        await self._post("/wake_up?tags=kv_cache")

    async def generate(self) -> None:
        # a plain text completion, as not every model has a chat template
        request = {"model": self._model or await self._first_model(), "prompt": "1", "max_tokens": 1}
        await self._api.post_and_read("/completions", msgspec.json.encode(request))

    async def _first_model(self) -> str:
        try:
            return models.parse_list(await self._api.get("/models"), owned_by="")[0].id
        except (IndexError, msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UpstreamFailed("it does not list its models") from error

    async def _post(self, path: str, body: bytes = b"") -> None:
        await _in_time(self._root.post_and_read(path, body), f"POST {path}", _SLEEP_S)

    async def _get(self, path: str) -> bytes:
        return await _in_time(self._root.get(path), f"GET {path}", _CHECK_S)


async def _in_time(response: Awaitable[bytes], request: str, limit_s: float) -> bytes:
    try:
        async with asyncio.timeout(limit_s):
            return await response
    except TimeoutError as error:
        raise UpstreamTimeout(f"{request} took more than {limit_s:g} s.") from error
