"""`Held`: the answer of one attempt, as failover hands it on, with all that has to be given back at its end."""

from collections.abc import Callable, Coroutine
from typing import Any

from proxy.errors import ProxyError
from proxy.pipeline.attempt import Answer
from proxy.pipeline.context import RequestContext, Tried
from proxy.pipeline.upstream import Place
from proxy.routing.ask import Ask
from proxy.routing.board import Flight


class Held:
    """An `attempt.Answer`; owner of all that one attempt holds at its target, from before the request is sent.

    That is its count at the board, its place at the gate, and the answer with its connection and its place in an
    engine. An attempt that fails ends with `give_back`, an answer with `close`. The first of these calls gives
    everything back, also where a part of that raises; further ones do nothing.

    Attributes:
        tried: the record of the attempt.
        place: set when the gate has given one; None where the target has no gate.
        read, heartbeat: the answer's own (see `attempt.Answer`); there after `take`.
    """

    __slots__ = ("_answer", "_ask", "_context", "_flight", "_is_over", "_read_s", "heartbeat", "place", "read", "tried")

    read: Callable[[], Coroutine[Any, Any, list[bytes]]]
    heartbeat: Callable[[], bytes]

    def __init__(self, tried: Tried, flight: Flight, ask: Ask, context: RequestContext) -> None:
        self.tried = tried
        self.place: Place | None = None
        self._flight = flight
        self._ask = ask
        self._context = context
        self._read_s = 0.0  # `context.reading_s` when the answer came
        self._answer: Answer | None = None
        self._is_over = False

    def take(self, answer: Answer) -> None:
        """What the attempt has yielded."""
        self._answer = answer
        self.read, self.heartbeat = answer.read, answer.heartbeat
        self._read_s = self._context.reading_s
        if self.place is not None and self.tried.first_content_s:
            self.place.began(self.tried.first_content_s - self.tried.sent_s, self._ask.prompt_tokens)

    def close(self) -> None:
        """The answer is over, whole or not; `tried` says how it went."""
        self.give_back(self.tried.failure)

    def give_back(self, error: ProxyError | None = None) -> None:
        """The attempt is over.

        Args:
            error: what it failed with; None where it did not, or was given up.
        """
        if self._is_over:
            return
        self._is_over = True
        try:
            if self._answer is not None:
                self._answer.close()
        finally:
            self._leave(error)

    def _leave(self, error: ProxyError | None) -> None:
        tried, place = self.tried, self.place
        try:
            ttft_s = self._flight.end(
                error,
                sent_s=tried.sent_s,
                first_s=tried.first_content_s,
                reading_s=self._context.reading_s - self._read_s,
                usage=tried.usage,
                is_whole=tried.is_whole and self._answer is not None,
            )
            if place is not None and ttft_s is not None and not tried.first_content_s:  # else it has been told
                place.began(ttft_s, self._ask.prompt_tokens)
        finally:
            if place is not None:
                place.leave()
