"""`Cooldown`: how long a host asked not to be sent requests, and the trial before that time is over.

A trial is one request that is sent during the cooldown, to see whether the host accepts requests again.

    free ── extend ──> cooling down ── the time is over ──> free
                         │       ^
          time for a ──  v       │ ── the trial ended without an outcome, or the host asked to wait again
          trial        on trial ─┘
                         └── succeeded ──> free

A cooldown reads no clock: the time is an argument, in monotonic seconds.
"""

import math

_TRIAL_AFTER = 0.1  # as a share of the wait


class Cooldown:
    """The cooldown of one credential, account or target.

    A request calls `enter`, and passes the number that it returns to `extend`, `succeeded` and `ended`.

    Args:
        max_s: the longest cooldown; a longer wait is shortened to it.
        trial_s: the least time before a trial; a trial begins after a tenth of the wait, if that is longer.

    Attributes:
        until_s: when the cooldown is over.
    """

    __slots__ = ("_last_number", "_max_s", "_next_trial_s", "_trial", "_trial_every_s", "_trial_s", "until_s")

    def __init__(self, *, max_s: float, trial_s: float) -> None:
        self._max_s = max_s
        self._trial_s = trial_s
        self._trial_every_s = 0.0  # the time between two trials
        self._next_trial_s = math.inf  # when the next trial may begin
        self._trial = 0  # the number of the trial that is running; 0: none
        self._last_number = 0
        self.until_s = -math.inf

    def configure(self, *, max_s: float, trial_s: float) -> None:
        """Change the limits, for later waits."""
        self._max_s, self._trial_s = max_s, trial_s

    def is_over(self, now_s: float) -> bool:
        """Whether there is no cooldown now."""
        return now_s >= self.until_s

    def may_enter(self, now_s: float) -> bool:
        """Whether a request may be sent now, also as the trial; changes nothing."""
        return now_s >= self.until_s or (now_s >= self._next_trial_s and not self._trial)

    def remaining_s(self, now_s: float) -> float:
        """0 if a request may be sent now; else the seconds until the cooldown is over."""
        return 0.0 if self.may_enter(now_s) else self.until_s - now_s

    def enter(self, now_s: float) -> int:
        """Begin a request, after `may_enter`; returns the number of the trial, or 0 if the request is no trial."""
        if now_s >= self.until_s:
            return 0
        self._last_number += 1
        self._trial = self._last_number
        return self._trial

    def extend(self, seconds: float, now_s: float, trial: int = 0) -> bool:
        """The host asked to wait. The answer to the trial replaces the earlier wait; otherwise the longer wait counts.

        A wait of 0 or less, or NaN, changes nothing. Returns whether a cooldown covers this wait.
        """
        if not seconds > 0:
            return False
        wait_s = min(seconds, self._max_s)
        is_trial = trial != 0 and trial == self._trial
        if self.is_over(now_s) or is_trial:
            self._trial = 0
        elif now_s + wait_s <= self.until_s:
            return True
        self.until_s = now_s + wait_s
        self._trial_every_s = max(self._trial_s, wait_s * _TRIAL_AFTER)
        self._next_trial_s = now_s + self._trial_every_s
        return True

    def succeeded(self, trial: int) -> None:
        """The trial succeeded, so the cooldown is over. Other requests change nothing, as they were sent before it."""
        if trial and trial == self._trial:
            self._trial = 0
            self.until_s = -math.inf

    def ended(self, trial: int, now_s: float) -> None:
        """The trial has ended. If it reported no outcome, the cooldown goes on, and the next trial is later."""
        if trial and trial == self._trial:
            self._trial = 0
            self._next_trial_s = now_s + self._trial_every_s
