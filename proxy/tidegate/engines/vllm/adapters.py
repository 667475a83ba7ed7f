"""`Adapters`: loads and unloads LoRA adapters of a running vLLM, by routes of the engine that callers cannot reach."""

from collections.abc import Mapping, Sequence

import msgspec

from tidegate.errors import ProxyError, UpstreamFailed, UpstreamRejected
from tidegate.telemetry.logs import Log
from tidegate.transport.wire import Transport

_MAX_TEXT = 500
_NO_ROUTE = "Not Found"

_encode = msgspec.json.Encoder().encode


class _ErrorBody(msgspec.Struct):
    message: str


class _AdapterRefusal(msgspec.Struct):
    """The body of an error: OpenAI's (`error`), or the web framework's if the server has no such route (`detail`)."""

    error: _ErrorBody | None = None
    detail: str = ""


class Adapters:
    """Owner of the list of adapters that were loaded at run time; an engine loses them when it ends.

    Args:
        wire: the transport to the engine's `/v1`.
        log: for adapters that could not be loaded again after a restart.
    """

    def __init__(self, wire: Transport, log: Log) -> None:
        self._wire = wire
        self._log = log
        self._paths: dict[str, str] = {}

    @property
    def names(self) -> Sequence[str]:
        """The names of the adapters that were loaded by `load`."""
        return list(self._paths)

    async def load(self, name: str, path: str) -> str:
        """Load an adapter under a name that requests can use; returns the text of the engine's answer.

        Raises:
            UpstreamRejected: an adapter of that name is loaded, there is none at that path, or it does not fit.
            UpstreamError: the engine failed.
        """
        answer = await self._post("/load_lora_adapter", {"lora_name": name, "lora_path": path})
        self._paths[name] = path
        return answer

    async def unload(self, name: str) -> str:
        """Unload an adapter; returns the text of the engine's answer.

        Raises:
            UpstreamRejected: there is no adapter of that name.
            UpstreamError: the engine failed.
        """
        answer = await self._post("/unload_lora_adapter", {"lora_name": name})
        self._paths.pop(name, None)
        return answer

    @property
    def paths(self) -> Mapping[str, str]:
        """The paths of the adapters that were loaded by `load`, by name."""
        return self._paths

    def adopt(self, paths: Mapping[str, str]) -> None:
        """Load these adapters of another replica too at the next start."""
        self._paths |= paths

    async def restore(self) -> None:
        """Load all adapters into an engine that has just started; one that it refuses is removed. Never raises."""
        for name, path in list(self._paths.items()):
            try:
                await self.load(name, path)
            except ProxyError as error:
                self._log.warning("adapter lost", adapter=name, reason=error.message)
                if isinstance(error, UpstreamRejected):  # any other error: the engine has failed and will restart
                    del self._paths[name]

    async def _post(self, path: str, fields: dict[str, str]) -> str:
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
        refusal = msgspec.json.decode(body, type=_AdapterRefusal)
    except msgspec.DecodeError:
        refusal = _AdapterRefusal()
    if refusal.detail == _NO_ROUTE:
        return UpstreamFailed(f"The engine has no {path}: it was not started with runtime_adapters.")
    message = refusal.error.message[:_MAX_TEXT] if refusal.error is not None else _text(body)
    if status in {400, 404}:
        return UpstreamRejected(message, status=status)
    return UpstreamFailed(f"POST {path} answered {status}: {message}")


def _text(body: bytes) -> str:
    return body[:_MAX_TEXT].decode("utf-8", "replace").strip()
