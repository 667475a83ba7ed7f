"""`Adapters`: LoRA adapters of a running vLLM, through the routes that it has for them and no caller reaches."""

from collections.abc import Mapping, Sequence

import msgspec

from tidegate.errors import ProxyError, UpstreamFailed, UpstreamRejected
from tidegate.telemetry.logs import Log
from tidegate.transport.wire import Transport

_MAX_WORDS = 500
_NO_ROUTE = "Not Found"

_encode = msgspec.json.Encoder().encode


class _Words(msgspec.Struct):
    message: str


class _AdapterRefusal(msgspec.Struct):
    """An error in OpenAI's form or, where the server has no such route, in its web framework's."""

    error: _Words | None = None
    detail: str = ""


class Adapters:
    """Owner of the list of those that were loaded here: an engine forgets them when it ends.

    Args:
        wire: to the engine's `/v1`.
        log: for those that could not be brought back.
    """

    def __init__(self, wire: Transport, log: Log) -> None:
        self._wire = wire
        self._log = log
        self._paths: dict[str, str] = {}

    @property
    def names(self) -> Sequence[str]:
        """Of those that were loaded here."""
        return list(self._paths)

    async def load(self, name: str, path: str) -> str:
        """Load one under a name that callers can ask for; what the engine says to that.

        Raises:
            UpstreamRejected: there is one of that name, none at that path, or it does not fit.
            UpstreamError: the engine failed.
        """
        told = await self._ask("/load_lora_adapter", {"lora_name": name, "lora_path": path})
        self._paths[name] = path
        return told

    async def unload(self, name: str) -> str:
        """Unload one; what the engine says to that.

        Raises:
            UpstreamRejected: there is none of that name.
            UpstreamError: the engine failed.
        """
        told = await self._ask("/unload_lora_adapter", {"lora_name": name})
        self._paths.pop(name, None)
        return told

    @property
    def paths(self) -> Mapping[str, str]:
        """The paths of the adapters that were loaded by `load`, by name."""
        return self._paths

    def adopt(self, paths: Mapping[str, str]) -> None:
        """Load these too at the next start; they are those of another replica."""
        self._paths |= paths

    async def restore(self) -> None:
        """Load them into an engine that has just started; one that it does not take is given up. Never raises."""
        for name, path in list(self._paths.items()):
            try:
                await self.load(name, path)
            except ProxyError as error:
                self._log.warning("adapter lost", adapter=name, reason=error.message)
                if isinstance(error, UpstreamRejected):  # else the engine itself has failed, and will start again
                    del self._paths[name]

    async def _ask(self, path: str, fields: dict[str, str]) -> str:
        response = await self._wire.post(path, _encode(fields), is_stream=False)
        try:
            body = await response.read_all()
        finally:
            response.close()
        if response.status == 200:
            return _text(body)
        raise _failure(path, response.status, body)


def _failure(path: str, status: int, body: bytes) -> ProxyError:
    try:
        told = msgspec.json.decode(body, type=_AdapterRefusal)
    except msgspec.DecodeError:
        told = _AdapterRefusal()
    if told.detail == _NO_ROUTE:
        return UpstreamFailed(f"The engine has no {path}: it was not started for adapters that come and go.")
    words = told.error.message[:_MAX_WORDS] if told.error is not None else _text(body)
    if status in {400, 404}:
        return UpstreamRejected(words, status=status)
    return UpstreamFailed(f"POST {path} answered {status}: {words}")


def _text(body: bytes) -> str:
    return body[:_MAX_WORDS].decode("utf-8", "replace").strip()
