"""`POST` what a caller thinks of an answer."""

import msgspec

from tidegate.deadline import Deadline
from tidegate.entrypoints.http.exchange import Exchange, Receive, Scope, Send
from tidegate.entrypoints.http.services import Door
from tidegate.errors import ClientGone, ProxyError
from tidegate.operations.feedback import Score
from tidegate.protocol import request

_score = msgspec.json.Decoder(Score)
_encode = msgspec.json.Encoder().encode


class FeedbackHandler:
    """An ASGI application for `/feedback`."""

    def __init__(self, door: Door) -> None:
        self._door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, receive, send, endpoint="feedback", clock=self._door.clock)
        limits = self._door.limits

        async def read() -> Score:
            exchange.allow("POST")
            deadline = Deadline(self._door.deadlines, limits.body_timeout_s)
            body = await exchange.read_json(max_bytes=limits.max_body_bytes, deadline=deadline)
            return request.decode(body, _score)

        try:
            told = await self._door.feedback.take(exchange.credentials, read, exchange.context)
        except ClientGone:
            return
        except ProxyError as error:
            await exchange.send_error(error)
        else:
            said = {"object": "feedback", "request_id": told.request_id, "score": told.score}
            await exchange.send_json(200, _encode(said))
