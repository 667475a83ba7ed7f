"""`Cooldown`: for how long a host asked to be left alone, and the single request that asks again before that is over.

    free ── rest ──> resting ── its time is over ─────────────────────────────> free
                     │    ^  ^                                                   ^
      long enough ── │    │  └── nothing was learnt, or the host said it again ──┤
                     v    │                                                      │
                    a request tries it ── worked ────────────────────────────────┘

No clock: the time is an argument, in seconds that never step back.
"""

import math

_TRIED_AFTER = 0.1  # of the wait


class Cooldown:
    """One credential's, account's or target's; whoever uses it enters first and reports with the number it got.

    Args:
        max_s: the longest wait that is kept.
        trial_s: the least time before the single request (it is a tenth of the wait, if that is more).
    """

    __slots__ = ("_every_s", "_max_s", "_numbers", "_trial", "_trial_s", "_tried_at_s", "until_s")

    def __init__(self, *, max_s: float, trial_s: float) -> None:
        self._max_s = max_s
        self._trial_s = trial_s
        self._every_s = 0.0  # between two trials
        self._tried_at_s = math.inf  # when the next one may begin
        self._trial = 0  # the number of the request that tries it now; 0: none
        self._numbers = 0
        self.until_s = -math.inf

    def configure(self, *, max_s: float, trial_s: float) -> None:
        """Other limits, for waits to come."""
        self._max_s, self._trial_s = max_s, trial_s

    def is_over(self, now_s: float) -> bool:
        """Nothing is to be waited for."""
        return now_s >= self.until_s

    def may_enter(self, now_s: float) -> bool:
        """Whether a request may go now, also as the single one; changes nothing."""
        return now_s >= self.until_s or (now_s >= self._tried_at_s and not self._trial)

    def left_s(self, now_s: float) -> float:
        """0 where a request may go; else the seconds until all may."""
        return 0.0 if self.may_enter(now_s) else self.until_s - now_s

    def enter(self, now_s: float) -> int:
        """Begin a request, which may: 0, or the number to report with where it is the single one."""
        if now_s >= self.until_s:
            return 0
        self._numbers += 1
        self._trial = self._numbers
        return self._trial

    def rest(self, seconds: float, now_s: float, trial: int = 0) -> bool:
        """The host asks for it; what the single request was told replaces what was known, else the longer wait holds.

        A time that is none (0 or less, or no number) changes nothing. True where it rests.
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
        self._every_s = max(self._trial_s, wait_s * _TRIED_AFTER)
        self._tried_at_s = now_s + self._every_s
        return True

    def worked(self, trial: int) -> None:
        """The single request was taken: the wait is over. Of others, which were sent before it, nothing follows."""
        if trial and trial == self._trial:
            self._trial = 0
            self.until_s = -math.inf

    def left(self, trial: int, now_s: float) -> None:
        """The single request has ended; where nothing was reported, the wait goes on, and the next one tries later."""
        if trial and trial == self._trial:
            self._trial = 0
            self._tried_at_s = now_s + self._every_s
