"""`/admin`: for the administrator alone; what is there is `GET /admin/status`."""

import msgspec

from proxy.entrypoints.http.door import Door
from proxy.entrypoints.http.exchange import Exchange, Receive, Scope, Send
from proxy.entrypoints.http.health import status_of
from proxy.errors import PathNotFound, ProxyError

_encode = msgspec.json.Encoder().encode


class AdminHandler:
    """An ASGI application for everything under `/admin`: the key is looked at first, the path after."""

    def __init__(self, door: Door) -> None:
        self._door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, receive, send, endpoint="admin", clock=self._door.clock)
        try:
            self._door.readiness.check_admin(exchange.credentials)
            if scope["path"].strip("/") != "status":  # mounted: what stands behind /admin
                raise PathNotFound("Unknown request URL. Check the path.")
            exchange.allow("GET", "HEAD")
        except ProxyError as error:
            self._door.pipeline.note(exchange.context, error)
            await exchange.send_error(error)
        else:
            self._door.pipeline.note(exchange.context)
            await exchange.send_json(200, _encode(status_of(self._door, has_details=True)))
