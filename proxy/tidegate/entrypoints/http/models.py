"""`GET /models`: the list of models, or one model."""

from urllib.parse import unquote

from tidegate.entrypoints.http.exchange import Exchange, Receive, Scope, Send
from tidegate.entrypoints.http.services import Services
from tidegate.errors import PathNotFound, ProxyError
from tidegate.protocol import models


class ModelsHandler:
    """An ASGI application for `/models` and `/models/{id}`; an id may contain slashes, percent-encoded or not."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, receive, send, endpoint="models", clock=self._services.clock)
        listing, credentials, context = self._services.listing, exchange.credentials, exchange.context
        # the handler is mounted, so it receives every path that begins with /models, also /modelsfoo
        suffix = unquote(scope["raw_path"].decode("latin-1")).partition("/models")[2]
        model = suffix.strip("/")

        def check() -> None:
            exchange.allow("GET", "HEAD")
            if suffix and not suffix.startswith("/"):
                raise PathNotFound("Unknown request URL. Check the path.")

        try:
            if model:
                body = (await listing.one(model, credentials, check, context)).to_json()
            else:
                body = models.list_to_json(list(await listing.all(credentials, check, context)))
        except ProxyError as error:
            await exchange.send_error(error)
        else:
            await exchange.send_json(200, body)
