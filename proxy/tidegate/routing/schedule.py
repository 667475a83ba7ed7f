"""`AttemptSchedule`: which target to try next, by what has become of those before. Decides; waits for nothing.

Every target comes once, in the order of the plan, before any comes twice. One that could not take the request (its
engine loads, its places are taken) has not been tried: it is waited for only when nobody else is left. But where the
first targets are favoured (engines of ours, `local_first`), and one of them is merely full, the request waits in its
queue before it goes to those that are not. What failed may be repeated after a random pause, unless it took long to
fail, asks for a longer pause than we make, or would fail again.

Going on to another target costs nothing where the first one does no work for the request (it was not there, died,
hangs, or said that it is over its limit); every other try takes from the model's budget, so that an outage is not
multiplied.
"""

from collections.abc import Callable, Sequence
from random import Random

from msgspec import Struct

from tidegate.config.routing import RetryConfig
from tidegate.errors import (
    AnswerMisfit,
    EngineDied,
    EngineStalled,
    EngineUnavailable,
    ProxyError,
    TargetBusy,
    UpstreamLacksModel,
    UpstreamLacksOperation,
    UpstreamRateLimited,
    UpstreamRefusedUs,
    UpstreamUnreachable,
)
from tidegate.routing.backoff import delay_s
from tidegate.routing.targets import Target

PATIENCE_S = 10.0  # who takes longer to fail is not asked again for the same request

_NOT_TRIED = (EngineUnavailable, TargetBusy)
_FREE = (*_NOT_TRIED, UpstreamUnreachable, UpstreamRateLimited, UpstreamLacksOperation, EngineStalled, EngineDied)
_FINAL = (AnswerMisfit, UpstreamLacksModel, UpstreamLacksOperation, UpstreamRefusedUs)


class NextAttempt(Struct, frozen=True):
    """What to do next: wait `pause_s`, then try `target`.

    Attributes:
        can_wait: it is the last resort, and may be waited for: in its queue, or until its engine has started.
        can_move: another target is left, so the request may leave this one before its first token.
        can_queue: it may be waited for in its queue, for as long as others are not to be preferred.
    """

    target: Target
    can_wait: bool = False
    can_move: bool = False
    can_queue: bool = False
    pause_s: float = 0.0


class _Stop(Struct):
    """A target on the way; `free_s` is when it may be tried again."""

    target: Target
    tries: int = 0
    is_busy: bool = False
    is_full: bool = False
    may_repeat: bool = False
    free_s: float = 0.0


class AttemptSchedule:
    """The way of one request.

    Args:
        targets: in order of preference, at least one.
        withdraw: takes one try from the model's budget; False where it is empty.
        favoured: so many of the first targets are queued for before the others are tried.

    Attributes:
        tries: how often a target was really tried.
        is_exhausted: every target was tried, or the budget is empty: the caller need not try the same again.
    """

    def __init__(
        self,
        targets: Sequence[Target],
        *,
        retry: RetryConfig,
        withdraw: Callable[[], bool],
        rng: Random,
        favoured: int = 0,
    ) -> None:
        self.tries = 0
        self.is_exhausted = False
        self._stops = [_Stop(target) for target in targets]
        self._retry = retry
        self._withdraw = withdraw
        self._rng = rng
        self._favoured = favoured
        self._next = 0
        self._repeats = 0
        self._is_free = True

    def step(self, now_s: float) -> NextAttempt | None:
        """The next thing to do; None where nothing is left."""
        if self._next < len(self._stops):
            return (self._queue() if self._next == self._favoured else None) or self._visit()
        return self._repeat(now_s) or self._wait()

    def failed(
        self, step: NextAttempt, error: ProxyError, *, now_s: float, took_s: float, has_other_key: bool = False
    ) -> None:
        """The step came to nothing, after `took_s` seconds.

        `has_other_key` says that the target can be asked with another credential than the one it refused or limited.
        """
        stop = next(stop for stop in self._stops if stop.target is step.target)
        self._is_free = isinstance(error, _FREE)
        stop.is_busy = isinstance(error, _NOT_TRIED) and not step.can_wait
        stop.is_full = isinstance(error, TargetBusy)
        if isinstance(error, _NOT_TRIED):
            stop.may_repeat = False
            return
        self.tries += 1
        stop.tries += 1
        if isinstance(error, UpstreamRefusedUs | UpstreamRateLimited) and has_other_key:
            stop.may_repeat, stop.free_s = True, now_s
            return
        asked_s = error.retry_after_s or 0.0
        is_soon = asked_s <= self._retry.max_backoff_s and took_s < PATIENCE_S
        stop.may_repeat = is_soon and not isinstance(error, _FINAL)
        pause_s = delay_s(stop.tries - 1, self._retry.backoff_s, self._retry.max_backoff_s, self._rng)
        stop.free_s = now_s + max(asked_s, pause_s)

    def _queue(self) -> NextAttempt | None:
        """The first of the favoured ones that is merely full; once."""
        full = next((stop for stop in self._stops[: self._favoured] if stop.is_full), None)
        self._favoured = 0
        return (
            None if full is None else NextAttempt(full.target, can_queue=True, can_move=self._next < len(self._stops))
        )

    def _visit(self) -> NextAttempt | None:
        if not (self._is_free or self._withdraw()):
            self.is_exhausted = True
            return None
        stop = self._stops[self._next]
        self._next += 1
        return NextAttempt(stop.target, can_wait=len(self._stops) == 1, can_move=self._next < len(self._stops))

    def _repeat(self, now_s: float) -> NextAttempt | None:
        repeatable = [stop for stop in self._stops if stop.may_repeat]
        if not repeatable or self._repeats >= self._retry.repeats or not self._withdraw():
            self.is_exhausted = self.tries > 0
            return None
        self._repeats += 1
        stop = min(repeatable, key=lambda stop: stop.tries)  # of several the preferred one
        stop.may_repeat = False
        return NextAttempt(stop.target, can_wait=True, pause_s=max(0.0, stop.free_s - now_s))

    def _wait(self) -> NextAttempt | None:
        for stop in self._stops:
            if stop.is_busy:
                stop.is_busy = False
                return NextAttempt(stop.target, can_wait=True)
        return None
