"""`RetryBudget`: how many tries beyond the first a model may have, so that no outage is multiplied.

As Finagle's RetryBudget: a share of the requests seen lately, and some a second for who has few requests. What is
deposited expires, and what is withdrawn is forgiven, after the same time; hedges take from a budget of their own.
"""

from tidegate.clock import Clock

_STEPS = 10  # in which `keep_s` passes
_SLACK = 1e-9  # a share of 0.29 makes 29 of 100 deposits, though floats say a little less


class RetryBudget:
    """One model's; owner of its counts, which lie in a ring: a slot for the step that runs, and one for each before.

    Over any time, withdrawals are at most `share` of the deposits in it and in the `keep_s` and one step before it,
    and `per_s` for each second of it and of `keep_s`.

    Args:
        share: of a withdrawal that one deposit allows.
        per_s: withdrawals a second that need no deposit; for as many as `keep_s` allows, at once.
        keep_s: how long a deposit may be drawn upon, in seconds.
    """

    def __init__(self, clock: Clock, share: float, per_s: float, keep_s: float = 10.0) -> None:
        self._clock = clock
        self._share = share
        self._floor = per_s * keep_s
        self._step_s = keep_s / _STEPS
        self._step = 0
        self._deposits = [0] * (_STEPS + 1)
        self._withdrawals = [0] * (_STEPS + 1)

    @property
    def left(self) -> float:
        """Withdrawals that are to be had now; below 0 where deposits have expired that were drawn upon."""
        self._now()
        return self._share * sum(self._deposits) + self._floor - sum(self._withdrawals)

    def deposit(self) -> None:
        """A request has come."""
        self._deposits[self._now()] += 1

    def withdraw(self) -> bool:
        """Take one further try; False where there is none left."""
        if self.left < 1 - _SLACK:
            return False
        self._withdrawals[self._now()] += 1
        return True

    def _now(self) -> int:
        """The slot of the step that runs; what has expired is emptied."""
        step = int(self._clock.monotonic_s() / self._step_s)
        slots = len(self._deposits)
        for past in range(max(self._step + 1, step - slots + 1), step + 1):
            self._deposits[past % slots] = self._withdrawals[past % slots] = 0
        self._step = step
        return step % slots
