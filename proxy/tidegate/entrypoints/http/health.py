"""`/livez`, `/readyz` and `/metrics`; not logged, because probes request them every few seconds."""

import msgspec

from tidegate.entrypoints.http.exchange import Exchange, Receive, Scope, Send
from tidegate.entrypoints.http.services import Services
from tidegate.errors import ProxyError

_encode = msgspec.json.Encoder().encode
_PROMETHEUS = b"text/plain; version=0.0.4; charset=utf-8"


class HealthHandler:
    """An ASGI application for `/livez`, `/readyz` and `/metrics`."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, receive, send, endpoint="health", clock=self._services.clock)
        try:
            exchange.allow("GET", "HEAD")
            if scope["path"] == "/metrics":
                await exchange.send_text(self._services.readiness.metrics(exchange.credentials), _PROMETHEUS)
            elif scope["path"] == "/readyz":
                await self._readyz(exchange)
            else:
                await exchange.send_json(200, b'{"status":"ok"}')
        except ProxyError as error:
            await exchange.send_error(error)

    async def _readyz(self, exchange: Exchange) -> None:
        status = status_of(self._services, has_details=self._services.readiness.may_see_details(exchange.credentials))
        await exchange.send_json(200 if status["status"] == "ready" else 503, _encode(status))


def status_of(services: Services, *, has_details: bool) -> dict[str, object]:
    """Whether requests can be served; with details, also the states of the engines and upstreams."""
    report = services.readiness.report()
    is_ready = report.is_ready and not services.running.is_draining
    status: dict[str, object] = {"status": "ready" if is_ready else "not ready"}
    if has_details:
        status |= {"engines": report.engines, "upstreams": report.upstreams, "is_offline": report.is_offline}
    return status
