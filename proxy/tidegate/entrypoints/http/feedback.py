"""`POST /feedback`: a caller scores an answer that it received."""

import msgspec

from tidegate.deadline import Deadline
from tidegate.entrypoints.http.exchange import Exchange, Receive, Scope, Send
from tidegate.entrypoints.http.services import Services
from tidegate.errors import ClientGone, ProxyError
from tidegate.operations.feedback import Score
from tidegate.protocol import request

_score = msgspec.json.Decoder(Score)
_encode = msgspec.json.Encoder().encode


class FeedbackHandler:
    """An ASGI application for `/feedback`."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, receive, send, endpoint="feedback", clock=self._services.clock)
        limits = self._services.limits

        async def read() -> Score:
            exchange.allow("POST")
            deadline = Deadline(self._services.deadlines, limits.body_timeout_s)
            body = await exchange.read_json(max_bytes=limits.max_body_bytes, deadline=deadline)
            return request.decode(body, _score)

        try:
            score = await self._services.feedback.take(exchange.credentials, read, exchange.context)
        except ClientGone:
            return
        except ProxyError as error:
            await exchange.send_error(error)
        else:
            body = {"object": "feedback", "request_id": score.request_id, "score": score.score}
            await exchange.send_json(200, _encode(body))
