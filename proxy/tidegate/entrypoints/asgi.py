"""The Litestar application: paths, and the last word on errors outside them.

Litestar's routes are raw `@asgi` handlers: a typed Litestar handler costs 40 µs more (DESIGN 9), and everything between
the wire and the pipeline is ours anyway.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from litestar import Litestar, MediaType, Request, Response, asgi
from litestar.exceptions import HTTPException
from litestar.handlers import ASGIRouteHandler

from tidegate.entrypoints.http.admin import AdminHandler
from tidegate.entrypoints.http.exchange import Exchange, Receive, Scope, Send
from tidegate.entrypoints.http.feedback import FeedbackHandler
from tidegate.entrypoints.http.health import HealthHandler
from tidegate.entrypoints.http.inference import InferenceHandler
from tidegate.entrypoints.http.models import ModelsHandler
from tidegate.entrypoints.http.services import Services
from tidegate.errors import InternalError, PathNotFound, ProxyError
from tidegate.protocol import chat, completions, embeddings, errors

AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]


class Application:
    """The whole front door: a request for a model goes straight to its handler, everything else through Litestar.

    What Litestar does for a request (routing, host check, state, an exception handler) took a tenth of a JSON answer's
    CPU; the handlers of these paths do all of it themselves.
    """

    def __init__(self, direct: Mapping[str, AsgiApp], rest: AsgiApp) -> None:
        self._direct = direct
        self._rest = rest

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        return self._direct.get(scope["path"], self._rest)(scope, receive, send)


class AppReference:
    """Where everybody comes in; owner of the application that is current.

    Requests in flight keep the one that they came in by.
    """

    def __init__(self, application: Application) -> None:
        self.application = application

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        return self.application(scope, receive, send)


def build(services: Services) -> Application:
    """Every path, with and without `/v1` (DeepSeek's SDK style)."""
    inference = {
        "/chat/completions": InferenceHandler("chat", chat.parse_request, services),
        "/completions": InferenceHandler("completions", completions.parse_request, services),
        "/embeddings": InferenceHandler("embeddings", embeddings.parse_request, services),
    }
    direct = {prefix + path: handler for path, handler in inference.items() for prefix in ("", "/v1")}
    return Application(direct, _litestar(inference, services))


def _litestar(inference: Mapping[str, AsgiApp], services: Services) -> Litestar:
    routes = [
        # for the same paths with a slash at the end
        *(_route(path, handler) for path, handler in inference.items()),
        # a mount, because Litestar 2.25 answers KeyError for an @asgi handler with a path parameter
        _route("/models", ModelsHandler(services), is_mount=True),
        _route("/feedback", FeedbackHandler(services)),
        asgi("/admin", copy_scope=False, is_mount=True)(AdminHandler(services).__call__),
        asgi(["/livez", "/readyz", "/metrics"], copy_scope=False)(HealthHandler(services).__call__),
    ]
    return Litestar(
        route_handlers=routes,
        exception_handlers={Exception: _Fallback(services)},
        openapi_config=None,
        logging_config=None,
        debug=False,
    )


def _route(path: str, handler: Any, *, is_mount: bool = False) -> ASGIRouteHandler:  # noqa: ANN401 - an ASGI application
    return asgi([path, f"/v1{path}"], copy_scope=False, is_mount=is_mount)(handler.__call__)


class _Fallback:
    """Renders what happens outside the endpoints: no such path, or a crash of ours at the door."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def __call__(self, request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
        exchange = Exchange(
            request.scope, request.receive, request.send, endpoint="unknown", clock=self._services.clock
        )
        failure: ProxyError
        if isinstance(error, HTTPException) and error.status_code < 500:
            path = request.scope["path"][:200]
            failure = PathNotFound(f"Unknown request URL: {exchange.method} {path}. Check the path and the method.")
        else:
            failure = InternalError(f"{type(error).__name__}: {error}")
            failure.__cause__ = error
        self._services.pipeline.note(exchange.context, failure)
        return Response(
            errors.to_json(failure, exchange.context.id),
            status_code=failure.status,
            media_type=MediaType.JSON,
            headers={"x-request-id": exchange.context.id},
        )
