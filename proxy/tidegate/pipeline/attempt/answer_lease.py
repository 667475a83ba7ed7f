"""`AnswerLease`: the answer of one attempt, with everything that must be given back when the attempt ends."""

from collections.abc import Callable, Coroutine
from typing import Any

from tidegate.errors import ProxyError
from tidegate.limits.concurrency import Slot
from tidegate.pipeline.attempt.attempt import Answer
from tidegate.pipeline.context import AttemptRecord, RequestContext
from tidegate.routing.request import RoutingRequest
from tidegate.routing.target_registry import InFlightRequest


class AnswerLease:
    """An `attempt.Answer` that owns everything one attempt holds at its target, from before the request is sent.

    That is the count of requests in flight in the target registry, the slot of the concurrency limit, and the answer
    with its connection and its slot in an engine. A failed attempt ends with `release`, an answer with `close`. The
    first of these calls gives everything back, even if closing the answer raises; further calls do nothing.

    Attributes:
        record: the record of the attempt.
        slot: the slot of the concurrency limit, set when it was acquired; None if the target has no limit.
        read, heartbeat: the answer's own methods (see `attempt.Answer`), set by `set_answer`.
    """

    __slots__ = (
        "_answer",
        "_context",
        "_in_flight",
        "_is_released",
        "_reading_s_before",
        "_routing_request",
        "heartbeat",
        "read",
        "record",
        "slot",
    )

    read: Callable[[], Coroutine[Any, Any, list[bytes]]]
    heartbeat: Callable[[], bytes]

    def __init__(
        self,
        record: AttemptRecord,
        in_flight: InFlightRequest,
        routing_request: RoutingRequest,
        context: RequestContext,
    ) -> None:
        self.record = record
        self.slot: Slot | None = None
        self._in_flight = in_flight
        self._routing_request = routing_request
        self._context = context
        self._reading_s_before = 0.0  # `context.reading_s` when the answer began
        self._answer: Answer | None = None
        self._is_released = False

    def set_answer(self, answer: Answer) -> None:
        """Store the answer that the attempt has returned."""
        self._answer = answer
        self.read, self.heartbeat = answer.read, answer.heartbeat
        self._reading_s_before = self._context.reading_s
        if self.slot is not None and self.record.first_content_s:
            self.slot.record_first_token(
                self.record.first_content_s - self.record.sent_s, self._routing_request.prompt_tokens
            )

    def close(self) -> None:
        """The answer has ended, complete or not; `record` holds the outcome."""
        self.release(self.record.failure)

    def release(self, error: ProxyError | None = None) -> None:
        """Give everything back, and report the outcome to the target registry.

        Args:
            error: the failure of the attempt; None if it succeeded or was cancelled.
        """
        if self._is_released:
            return
        self._is_released = True
        try:
            if self._answer is not None:
                self._answer.close()
        finally:
            self._report(error)

    def _report(self, error: ProxyError | None) -> None:
        record, slot = self.record, self.slot
        try:
            ttft_s = self._in_flight.end(
                error,
                sent_s=record.sent_s,
                first_s=record.first_content_s,
                reading_s=self._context.reading_s - self._reading_s_before,
                usage=record.usage,
                is_whole=record.is_whole and self._answer is not None,
            )
            # if the time of the first content is known, `set_answer` has already reported it
            if slot is not None and ttft_s is not None and not record.first_content_s:
                slot.record_first_token(ttft_s, self._routing_request.prompt_tokens)
        finally:
            if slot is not None:
                slot.release()
