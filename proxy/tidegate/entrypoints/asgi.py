"""The ASGI application: the paths, and the answer to errors outside the endpoints.

Litestar's routes are raw `@asgi` handlers: a typed Litestar handler costs 40 µs more for each request, and the
endpoints do all the work between the wire and the pipeline themselves.
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
    """All HTTP endpoints: model requests go directly to their handler, all others through Litestar.

    Litestar's work for a request (routing, host check, state, an exception handler) took a tenth of a JSON answer's
    CPU time; the handlers of model requests do all of it themselves.

    Args:
        direct: the handlers of model requests, by path.
        fallback: the application for all other paths.
    """

    def __init__(self, direct: Mapping[str, AsgiApp], fallback: AsgiApp) -> None:
        self._direct = direct
        self._fallback = fallback

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        return self._direct.get(scope["path"], self._fallback)(scope, receive, send)


class AppReference:
    """The ASGI application that the server calls: forwards each request to the current `Application`.

    A reload sets `application`. Running requests keep the application that they were forwarded to.
    """

    def __init__(self, application: Application) -> None:
        self.application = application

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        return self.application(scope, receive, send)


def build(services: Services) -> Application:
    """Build the application; every API path is served with and without `/v1` (DeepSeek's base URL has no `/v1`)."""
    inference = {
        "/chat/completions": InferenceHandler("chat", chat.parse_request, services),
        "/completions": InferenceHandler("completions", completions.parse_request, services),
        "/embeddings": InferenceHandler("embeddings", embeddings.parse_request, services),
    }
    direct = {prefix + path: handler for path, handler in inference.items() for prefix in ("", "/v1")}
    return Application(direct, _litestar(inference, services))


def _litestar(inference: Mapping[str, AsgiApp], services: Services) -> Litestar:
    routes = [
        # these match the same paths with a trailing slash
        *(_route(path, handler) for path, handler in inference.items()),
        # mounted, because Litestar 2.25 raises KeyError for an @asgi handler with a path parameter
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
    """Renders errors outside the endpoints: an unknown path, or an unexpected exception in the routing."""

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
        self._services.pipeline.settle_without_answer(exchange.context, failure)
        return Response(
            errors.to_json(failure, exchange.context.id),
            status_code=failure.status,
            media_type=MediaType.JSON,
            headers={"x-request-id": exchange.context.id},
        )
