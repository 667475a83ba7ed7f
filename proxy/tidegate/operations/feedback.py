"""`POST /feedback`: callers' scores of the answers they received, which count towards the quality of the targets.

Only the caller that made a request may score its answer: answers are remembered under the caller's name, so that the
same request id of two callers means two requests. A comment may quote the prompt, so it is neither stored nor logged.
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
    """A caller's score of an answer, from -1 (useless) to 1 (just right)."""

    request_id: Annotated[str, Meta(min_length=1, max_length=64)]
    score: Annotated[float, Meta(ge=-1, le=1)]
    comment: Annotated[str, Meta(max_length=16_384)] | None = None


class _ScoredAnswer(Struct, gc=False):
    """The target that gave an answer, and the quality by the caller's score, 0 to 1; None until it is scored."""

    target_name: str
    task: Task
    until_s: float
    quality: float | None = None


class ScorableAnswers:
    """The answers that can be scored; owner of their records. When it is full, the oldest are dropped.

    Args:
        qualities: receives the scores of callers and the verdicts of the automatic checks.
        clock: decides when an answer is too old to be scored.
        max_answers: how many answers are remembered; a hundred thousand take about 30 MB.
        keep_s: for how many seconds an answer can be scored.
    """

    def __init__(
        self, qualities: Qualities, clock: Clock, *, max_answers: int = _MAX_ANSWERS, keep_s: float = _KEEP_S
    ) -> None:
        self._qualities = qualities
        self._clock = clock
        self._max_answers = max_answers
        self._keep_s = keep_s
        self._answers: OrderedDict[str, _ScoredAnswer] = OrderedDict()

    def __len__(self) -> int:
        return len(self._answers)

    def record(self, context: RequestContext) -> None:
        """Remember the answer of a request, also a partial one, and report the verdict of its checks."""
        record = context.record
        target_name = f"{record.upstream}/{record.model}"
        self.remember(context.id, context.caller, target_name, context.task)
        verdict = None if record.answer_check is None else record.answer_check.verdict()
        if verdict is not None:
            self._qualities.note(target_name, context.task, verdict, "checks")

    def remember(self, request_id: str, principal: str, target_name: str, task: Task) -> None:
        """Remember which target answered the request, so that the answer can be scored."""
        answers, key, now_s = self._answers, _key(principal, request_id), self._clock.monotonic_s()
        answers[key] = _ScoredAnswer(sys.intern(target_name), task, now_s + self._keep_s)
        answers.move_to_end(key)
        while len(answers) > self._max_answers or next(iter(answers.values())).until_s <= now_s:
            answers.popitem(last=False)

    def score(self, request_id: str, principal: str, score: float) -> None:
        """Record the score of `principal`, -1 to 1, for its own answer; a later score replaces an earlier one.

        Raises:
            AnswerNotFound: the caller got no such answer, or it is no longer remembered.
        """
        answer = self._answers.get(_key(principal, request_id))
        if answer is None or answer.until_s <= self._clock.monotonic_s():
            raise AnswerNotFound(
                f"No answer of yours has the id '{request_id}'. It is the x-request-id of an answer of the last "
                f"{self._keep_s / 60:.0f} minutes.",
                param="request_id",
            )
        quality = (score + 1) / 2
        if answer.quality is None:
            self._qualities.note(answer.target_name, answer.task, quality, "feedback")
        else:
            self._qualities.correct(answer.target_name, answer.task, answer.quality, quality, "feedback")
        answer.quality = quality


class Feedback:
    """Receives scores; one object for all requests."""

    def __init__(self, admission: Admission, answered: ScorableAnswers, settlement: Settlement) -> None:
        self._admission = admission
        self._answered = answered
        self._settlement = settlement

    async def take(
        self, credentials: Credentials, read: Callable[[], Awaitable[Score]], context: RequestContext
    ) -> Score:
        """Authenticate the caller, read its score, record and return it; settle the request.

        Args:
            credentials: the credentials that the caller sent.
            read: reads and parses the body, for the front door; its errors are settled too.
            context: the context of the request.

        Raises:
            ProxyError: the caller is not authenticated, there is no such answer, or an error of `read`.
        """
        with self._settlement.settle(context):
            self._admission.authenticate(credentials, context)
            score = await read()
            self._answered.score(score.request_id, context.caller, score.score)
            return score


def _key(principal: str, request_id: str) -> str:
    return f"{request_id}\0{principal}"
