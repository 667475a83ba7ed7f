"""`/admin`: the endpoints for the administrator; `_AdminRequest.answer` lists the paths."""

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
    """A LoRA adapter to load: the name for callers to use, and a folder or a hub id."""

    name: Annotated[str, Meta(min_length=1, max_length=128)]
    path: Annotated[str, Meta(min_length=1, max_length=4096)]


_adapter_request = msgspec.json.Decoder(AdapterRequest)


class _AdminAnswer(Struct, frozen=True):
    status: int
    body: bytes
    content_type: bytes | None = None


class AdminHandler:
    """An ASGI application for everything under `/admin`; it checks the key before the path."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, receive, send, endpoint="admin", clock=self._services.clock)
        try:
            self._services.readiness.check_admin(exchange.credentials)
            # the handler is mounted, so the path is the part after /admin
            answer = await _AdminRequest(self._services, exchange).answer(scope["path"].strip("/").split("/"))
        except ProxyError as error:
            self._services.pipeline.settle_without_answer(exchange.context, error)
            await exchange.send_error(error)
            return
        self._services.pipeline.settle_without_answer(exchange.context)
        if answer.content_type is None:
            await exchange.send_json(answer.status, answer.body)
        else:
            await exchange.send_text(answer.body, answer.content_type)


class _AdminRequest:
    """One request to `/admin`, after authentication."""

    def __init__(self, services: Services, exchange: Exchange) -> None:
        self._services = services
        self._exchange = exchange
        self._administration = services.administration

    async def answer(self, path: list[str]) -> _AdminAnswer:
        """Perform the request, and return the answer.

        Raises:
            ProxyError: the path is unknown, the request is invalid, or it cannot be performed.
        """
        match path:
            case ["status"]:
                return self._answer_get(status_of(self._services, has_details=True))
            case ["targets"]:
                return self._answer_get(self._services.explainer.targets())
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
                return self._answer_get(self._administration.list())
            case [name]:
                return self._answer_get(self._administration.report(name))
            case [name, "logs"]:
                self._exchange.allow("GET", "HEAD")
                return _AdminAnswer(200, self._administration.output(name).encode(), _TEXT)
            case [name, "adapters"]:
                adapter = request.decode(await self._read_body(), _adapter_request)
                message = await self._administration.load_adapter(name, adapter.name, adapter.path)
                return _message_answer(message)
            case [name, "adapters", *parts]:  # the name of an adapter may contain slashes
                self._exchange.allow("DELETE")
                return _message_answer(await self._administration.unload_adapter(name, "/".join(parts)))
            case [name, order] if order in _ORDERS:
                await self._read_body()
                return _AdminAnswer(202, _encode(self._administration.set_goal(name, _ORDERS[order])))
        raise PathNotFound("Unknown request URL. Check the path.")

    def _answer_get(self, report: object) -> _AdminAnswer:
        self._exchange.allow("GET", "HEAD")
        return _AdminAnswer(200, _encode(report))

    async def _reload(self) -> _AdminAnswer:
        try:
            return _AdminAnswer(200, _encode(await self._services.reload()))
        except ConfigError as error:  # its message may be shown to the administrator
            raise Conflict(f"The new config is refused, the old one stays in force: {error}") from error

    async def _explain(self) -> _AdminAnswer:
        """Show where a chat request with these headers and this body would go; nothing is sent."""
        context = self._exchange.context
        context.options = read_options(self._exchange.headers)
        chat_request = chat.parse_request(await self._read_body())
        return _AdminAnswer(200, _encode(await self._services.explainer.explain(chat_request, context)))

    async def _read_body(self) -> bytes:
        """The body of a POST request, which must be declared to be JSON even if it is empty.

        A web page in a browser cannot send that declaration to another origin without the server's consent.

        Raises:
            RequestError: the method is not POST, or an error of `Exchange.read_json`.
        """
        self._exchange.allow("POST")
        limits = self._services.limits
        deadline = Deadline(self._services.deadlines, limits.body_timeout_s)
        return await self._exchange.read_json(max_bytes=limits.max_body_bytes, deadline=deadline)


def _message_answer(message: str) -> _AdminAnswer:
    return _AdminAnswer(200, _encode({"message": message}))
