"""The road of `POST /feedback`: what callers say of answers they were given; and what is thought of each answer.

Only who made a request may score its answer: answers are remembered beside the caller's name, so an id that two callers
chose alike is two requests. What is said in words may quote the prompt, so it is neither kept nor logged.
"""

import sys
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Annotated

from msgspec import Meta, Struct

from tidegate.auth import Credentials
from tidegate.clock import Clock
from tidegate.errors import AnswerNotFound
from tidegate.pipeline.admission import Admission
from tidegate.pipeline.context import RequestContext
from tidegate.pipeline.settlement import Settlement
from tidegate.protocol.routing import Task
from tidegate.routing.quality import Qualities

_MAX_ANSWERS = 100_000
_KEEP_S = 3600.0


class Score(Struct, frozen=True):
    """What a caller says of an answer: from -1, useless, to 1, just right."""

    request_id: Annotated[str, Meta(min_length=1, max_length=64)]
    score: Annotated[float, Meta(ge=-1, le=1)]
    comment: Annotated[str, Meta(max_length=16_384)] | None = None


class _ScoredAnswer(Struct, gc=False):
    """Who gave it, and how good it was found, 0 to 1; None: nobody has said."""

    target_name: str
    task: Task
    until_s: float
    good: float | None = None


class Answered:
    """Owner of what is remembered of answers. The oldest go first when it is full.

    Args:
        qualities: told what callers say, and what the checks say.
        clock: tells when an answer is too old to be scored.
        max_answers: with a hundred thousand, some 30 MB.
    """

    def __init__(
        self, qualities: Qualities, clock: Clock, *, max_answers: int = _MAX_ANSWERS, keep_s: float = _KEEP_S
    ) -> None:
        self._qualities = qualities
        self._clock = clock
        self._max = max_answers
        self._keep_s = keep_s
        self._answers: OrderedDict[str, _ScoredAnswer] = OrderedDict()

    def __len__(self) -> int:
        return len(self._answers)

    def note(self, context: RequestContext) -> None:
        """A request has its answer, or a piece of it that the caller had seen enough of."""
        record = context.record
        target_name = f"{record.upstream}/{record.model}"
        self.on_answered(context.id, context.caller, target_name, context.task)
        verdict = None if record.checking is None else record.checking.verdict()
        if verdict is not None:
            self._qualities.note(target_name, context.task, verdict, "checks")

    def on_answered(self, request_id: str, principal: str, target_name: str, task: Task) -> None:
        """Remember who answered, so that it can be scored."""
        answers, key, now_s = self._answers, _key(principal, request_id), self._clock.monotonic_s()
        answers[key] = _ScoredAnswer(sys.intern(target_name), task, now_s + self._keep_s)
        answers.move_to_end(key)
        while len(answers) > self._max or next(iter(answers.values())).until_s <= now_s:
            answers.popitem(last=False)

    def score(self, request_id: str, principal: str, score: float) -> None:
        """Take what `principal` says of its answer, -1 to 1; a later word replaces the one before.

        Raises:
            AnswerNotFound: none of its own, or none any more.
        """
        answer = self._answers.get(_key(principal, request_id))
        if answer is None or answer.until_s <= self._clock.monotonic_s():
            raise AnswerNotFound(
                f"No answer of yours has the id '{request_id}'. It is the x-request-id of an answer of the last "
                f"{self._keep_s / 60:.0f} minutes.",
                param="request_id",
            )
        good = (score + 1) / 2
        if answer.good is None:
            self._qualities.note(answer.target_name, answer.task, good, "feedback")
        else:
            self._qualities.correct(answer.target_name, answer.task, answer.good, good, "feedback")
        answer.good = good


class Feedback:
    """Takes scores; shared by all requests."""

    def __init__(self, admission: Admission, answered: Answered, settlement: Settlement) -> None:
        self._admission = admission
        self._answered = answered
        self._settlement = settlement

    async def take(
        self, credentials: Credentials, read: Callable[[], Awaitable[Score]], context: RequestContext
    ) -> Score:
        """The score that was taken. `read` is the front door's own; its errors are settled like ours.

        Raises:
            ProxyError: not from this caller, no such answer, or what `read` says.
        """
        with self._settlement.settle(context):
            self._admission.authenticate(credentials, context)
            told = await read()
            self._answered.score(told.request_id, context.caller, told.score)
            return told


def _key(principal: str, request_id: str) -> str:
    return f"{request_id}\0{principal}"
