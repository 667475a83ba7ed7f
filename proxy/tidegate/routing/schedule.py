"""`AttemptSchedule`: which target to try next, by the outcome of the attempts before. It decides; it does not wait.

Every target is tried once, in the order of the plan, before any is tried twice. A target that could not take the
request (its engine is loading, its slots are taken) does not count as tried: the request waits for it only when no
other target is left. But if the first targets are favoured (local engines, `local_first`), and one of them is only
full, the request waits in its queue before it goes to the targets that are not favoured. A failed target may be tried
again after a random pause, unless it took long to fail, asks for a longer pause than Tidegate makes, or would fail
again.

An attempt at the next target is free if the target before does no work for the request: it was unreachable, died,
hangs, had no free slot, is not loaded, lacks the operation, or reported that it is over its limit. Every other attempt
after the first is taken from the model's retry budget, so that retries do not multiply an outage.
"""

from collections.abc import Callable, Sequence
from random import Random

from msgspec import Struct

from tidegate.config.routing import RetryConfig
from tidegate.errors import (
    EngineDied,
    EngineStalled,
    EngineUnavailable,
    ProxyError,
    SchemaMismatch,
    TargetBusy,
    UpstreamLacksModel,
    UpstreamLacksOperation,
    UpstreamRateLimited,
    UpstreamRefusedUs,
    UpstreamUnreachable,
)
from tidegate.routing.backoff import delay_s
from tidegate.routing.targets import Target

MAX_REPEATABLE_S = 10.0  # a target that took longer to fail is not tried again for the same request

_NOT_TRIED = (EngineUnavailable, TargetBusy)  # the target could not take the request
_NEEDS_NO_BUDGET = (
    *_NOT_TRIED,
    UpstreamUnreachable,
    UpstreamRateLimited,
    UpstreamLacksOperation,
    EngineStalled,
    EngineDied,
)
_NEVER_REPEATED = (SchemaMismatch, UpstreamLacksModel, UpstreamLacksOperation, UpstreamRefusedUs)


class NextAttempt(Struct, frozen=True):
    """What to do next: wait `pause_s`, then try `target`.

    Attributes:
        can_wait: the target is the last resort: the request may wait in the target's queue, or until its engine has
            started.
        may_leave: another target is left, so the attempt may be ended before its first token, to try that one.
        can_queue: the request may wait in the target's queue, until going to another target is better.
    """

    target: Target
    can_wait: bool = False
    may_leave: bool = False
    can_queue: bool = False
    pause_s: float = 0.0


class _TargetProgress(Struct):
    """One target of the plan, and what became of the attempts at it.

    Attributes:
        is_busy: it could not take the request, and may still be waited for.
        is_full: all its slots were taken.
        retry_at_s: when it may be tried again, in monotonic seconds.
    """

    target: Target
    tries: int = 0
    is_busy: bool = False
    is_full: bool = False
    may_repeat: bool = False
    retry_at_s: float = 0.0


class AttemptSchedule:
    """The attempts of one request.

    Args:
        targets: in order of preference, at least one.
        withdraw: takes one attempt from the model's retry budget; returns False if it is empty.
        favoured_count: the number of favoured targets, which are the first ones: the request may wait in the queue of
            one of them before the other targets are tried.

    Attributes:
        tries: the number of attempts, without those that a target could not take (it was full or loading).
        is_exhausted: every target was tried, or the budget is empty: the caller need not repeat the request.
    """

    def __init__(
        self,
        targets: Sequence[Target],
        *,
        retry: RetryConfig,
        withdraw: Callable[[], bool],
        rng: Random,
        favoured_count: int = 0,
    ) -> None:
        self.tries = 0
        self.is_exhausted = False
        self._progress = [_TargetProgress(target) for target in targets]
        self._retry = retry
        self._withdraw = withdraw
        self._rng = rng
        self._favoured = favoured_count
        self._next = 0  # the position in `_progress` of the next target that was not tried yet
        self._repeats = 0
        self._next_is_free = True  # the next first attempt at a target needs no budget

    def next_attempt(self, now_s: float) -> NextAttempt | None:
        """The next attempt; None if nothing is left to try."""
        if self._next < len(self._progress):
            return (self._queued_attempt() if self._next == self._favoured else None) or self._first_attempt()
        return self._repeated_attempt(now_s) or self._waiting_attempt()

    def failed(
        self, attempt: NextAttempt, error: ProxyError, *, now_s: float, took_s: float, has_other_key: bool = False
    ) -> None:
        """Record that `attempt` failed after `took_s` seconds.

        `has_other_key`: the target has another credential than the one that it refused or limited.
        """
        progress = next(progress for progress in self._progress if progress.target is attempt.target)
        self._next_is_free = isinstance(error, _NEEDS_NO_BUDGET)
        progress.is_busy = isinstance(error, _NOT_TRIED) and not attempt.can_wait
        progress.is_full = isinstance(error, TargetBusy)
        if isinstance(error, _NOT_TRIED):
            progress.may_repeat = False
            return
        self.tries += 1
        progress.tries += 1
        if isinstance(error, UpstreamRefusedUs | UpstreamRateLimited) and has_other_key:
            progress.may_repeat, progress.retry_at_s = True, now_s
            return
        retry_after_s = error.retry_after_s or 0.0
        is_soon = retry_after_s <= self._retry.max_backoff_s and took_s < MAX_REPEATABLE_S
        progress.may_repeat = is_soon and not isinstance(error, _NEVER_REPEATED)
        pause_s = delay_s(progress.tries - 1, self._retry.backoff_s, self._retry.max_backoff_s, self._rng)
        progress.retry_at_s = now_s + max(retry_after_s, pause_s)

    def _queued_attempt(self) -> NextAttempt | None:
        """The first of the favoured targets that is only full; returned at most once."""
        full = next((progress for progress in self._progress[: self._favoured] if progress.is_full), None)
        self._favoured = 0
        return (
            None
            if full is None
            else NextAttempt(full.target, can_queue=True, may_leave=self._next < len(self._progress))
        )

    def _first_attempt(self) -> NextAttempt | None:
        if not (self._next_is_free or self._withdraw()):
            self.is_exhausted = True
            return None
        progress = self._progress[self._next]
        self._next += 1
        return NextAttempt(
            progress.target, can_wait=len(self._progress) == 1, may_leave=self._next < len(self._progress)
        )

    def _repeated_attempt(self, now_s: float) -> NextAttempt | None:
        repeatable = [progress for progress in self._progress if progress.may_repeat]
        if not repeatable or self._repeats >= self._retry.repeats or not self._withdraw():
            self.is_exhausted = self.tries > 0
            return None
        self._repeats += 1
        # of several with as few tries, `min` returns the preferred one
        progress = min(repeatable, key=lambda progress: progress.tries)
        progress.may_repeat = False
        return NextAttempt(progress.target, can_wait=True, pause_s=max(0.0, progress.retry_at_s - now_s))

    def _waiting_attempt(self) -> NextAttempt | None:
        for progress in self._progress:
            if progress.is_busy:
                progress.is_busy = False
                return NextAttempt(progress.target, can_wait=True)
        return None
