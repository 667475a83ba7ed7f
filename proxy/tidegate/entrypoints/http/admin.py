"""`/admin`: for the administrator alone. What is there is the table `_AdminRequest.answer`."""

from collections.abc import Mapping
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from tidegate.deadline import Deadline
from tidegate.engines.base import Goal
from tidegate.entrypoints.http.exchange import Exchange, Receive, Scope, Send
from tidegate.entrypoints.http.health import status_of
from tidegate.entrypoints.http.services import Services
from tidegate.entrypoints.options import read_options
from tidegate.errors import ConfigError, Conflict, PathNotFound, ProxyError
from tidegate.protocol import chat, request

_ORDERS: Mapping[str, Goal] = {"start": "run", "stop": "stop", "sleep": "sleep", "wake": "run"}
_TEXT = b"text/plain; charset=utf-8"
_encode = msgspec.json.Encoder().encode


class AdapterRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """A LoRA adapter to load: the name that callers will ask for, and a folder or a hub id."""

    name: Annotated[str, Meta(min_length=1, max_length=128)]
    path: Annotated[str, Meta(min_length=1, max_length=4096)]


_adapter_request = msgspec.json.Decoder(AdapterRequest)


class _AdminAnswer(Struct, frozen=True):
    status: int
    body: bytes
    content_type: bytes | None = None


class AdminHandler:
    """An ASGI application for everything under `/admin`: the key is looked at first, the path after."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, receive, send, endpoint="admin", clock=self._services.clock)
        try:
            self._services.readiness.check_admin(exchange.credentials)
            # mounted: what stands behind /admin
            answer = await _AdminRequest(self._services, exchange).answer(scope["path"].strip("/").split("/"))
        except ProxyError as error:
            self._services.pipeline.note(exchange.context, error)
            await exchange.send_error(error)
            return
        self._services.pipeline.note(exchange.context)
        if answer.content_type is None:
            await exchange.send_json(answer.status, answer.body)
        else:
            await exchange.send_text(answer.body, answer.content_type)


class _AdminRequest:
    """One request of the administrator's."""

    def __init__(self, services: Services, exchange: Exchange) -> None:
        self._services = services
        self._exchange = exchange
        self._administration = services.administration

    async def answer(self, path: list[str]) -> _AdminAnswer:
        """Do what is asked; raises `ProxyError`."""
        match path:
            case ["status"]:
                return self._read(status_of(self._services, has_details=True))
            case ["targets"]:
                return self._read(self._services.explaining.targets())
            case ["reload"]:
                await self._read_body()
                return await self._reload()
            case ["explain"]:
                return await self._explain()
            case ["engines", *rest]:
                return await self._engines(rest)
        raise PathNotFound("Unknown request URL. Check the path.")

    async def _engines(self, path: list[str]) -> _AdminAnswer:
        match path:
            case []:
                return self._read(self._administration.list())
            case [name]:
                return self._read(self._administration.report(name))
            case [name, "logs"]:
                self._exchange.allow("GET", "HEAD")
                return _AdminAnswer(200, self._administration.output(name).encode(), _TEXT)
            case [name, "adapters"]:
                wanted = request.decode(await self._read_body(), _adapter_request)
                said = await self._administration.load_adapter(name, wanted.name, wanted.path)
                return _said(said)
            case [name, "adapters", *parts]:  # the name of an adapter may hold slashes
                self._exchange.allow("DELETE")
                return _said(await self._administration.unload_adapter(name, "/".join(parts)))
            case [name, order] if order in _ORDERS:
                await self._read_body()
                return _AdminAnswer(202, _encode(self._administration.tell(name, _ORDERS[order])))
        raise PathNotFound("Unknown request URL. Check the path.")

    def _read(self, told: object) -> _AdminAnswer:
        self._exchange.allow("GET", "HEAD")
        return _AdminAnswer(200, _encode(told))

    async def _reload(self) -> _AdminAnswer:
        try:
            return _AdminAnswer(200, _encode(await self._services.reload()))
        except ConfigError as error:  # the administrator's own; nothing has changed
            raise Conflict(f"The config is refused, the one before stays: {error}") from error

    async def _explain(self) -> _AdminAnswer:
        """Where a chat request would go, from the caller whose headers and body these are; nothing is sent."""
        context = self._exchange.context
        context.options = read_options(self._exchange.headers)
        asked = chat.parse_request(await self._read_body())
        return _AdminAnswer(200, _encode(await self._services.explaining.explain(asked, context)))

    async def _read_body(self) -> bytes:
        """What was sent, declared to be JSON, though nothing be in it: a page in a browser may not send that unasked.

        Raises:
            RequestError: as `Exchange.read_json`; another method than POST.
        """
        self._exchange.allow("POST")
        limits = self._services.limits
        deadline = Deadline(self._services.deadlines, limits.body_timeout_s)
        return await self._exchange.read_json(max_bytes=limits.max_body_bytes, deadline=deadline)


def _said(words: str) -> _AdminAnswer:
    return _AdminAnswer(200, _encode({"message": words}))
