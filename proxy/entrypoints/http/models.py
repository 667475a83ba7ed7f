"""`GET` the list of models, or one of them."""

from urllib.parse import unquote

from proxy.entrypoints.http.door import Door
from proxy.entrypoints.http.exchange import Exchange, Receive, Scope, Send
from proxy.errors import ProxyError
from proxy.protocol import models


class ModelsHandler:
    """An ASGI application for `/models` and `/models/{id}`; ids hold slashes, percent-encoded or not."""

    def __init__(self, door: Door) -> None:
        self._door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, receive, send, endpoint="models", clock=self._door.clock)
        listing, credentials, context = self._door.listing, exchange.credentials, exchange.context
        model = unquote(scope["path"].partition("/models")[2].strip("/"))

        def check() -> None:
            exchange.allow("GET", "HEAD")

        try:
            if model:
                body = (await listing.one(model, credentials, check, context)).to_json()
            else:
                body = models.list_to_json(list(await listing.all(credentials, check, context)))
        except ProxyError as error:
            await exchange.send_error(error)
        else:
            await exchange.send_json(200, body)
