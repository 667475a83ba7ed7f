"""`RetryBudget`: how many attempts after the first a model may have, so that retries do not multiply an outage.

As in Finagle's RetryBudget, it is a share of the recent requests, plus some per second for models with few requests.
Deposits and withdrawals both expire after the same time. Hedged attempts use a budget of their own.
"""

from tidegate.clock import Clock

_STEPS = 10  # steps in `keep_s`
_SLACK = 1e-9  # a share of 0.29 of 100 deposits is 29, but a little less as a float


class RetryBudget:
    """The retry budget of one model; owns its counts.

    The counts are in a ring, with one slot for the current step and one for each step before it.

    In any period, withdrawals are at most `share` of the deposits in it and in the `keep_s` and one step before it,
    plus `per_s` for each second of it and of `keep_s`.

    Args:
        share: how many withdrawals one deposit allows, such as 0.2: five deposits allow one.
        per_s: withdrawals per second that need no deposit; as many as `keep_s` allows may be made at once.
        keep_s: how long a deposit counts, in seconds.
    """

    def __init__(self, clock: Clock, share: float, per_s: float, keep_s: float = 10.0) -> None:
        self._clock = clock
        self._share = share
        self._free_withdrawals = per_s * keep_s
        self._step_s = keep_s / _STEPS
        self._step = 0
        self._deposits = [0] * (_STEPS + 1)
        self._withdrawals = [0] * (_STEPS + 1)

    @property
    def available_withdrawals(self) -> float:
        """The withdrawals available now; below 0 where deposits that were used have expired."""
        self._current_slot()
        return self._share * sum(self._deposits) + self._free_withdrawals - sum(self._withdrawals)

    def deposit(self) -> None:
        """Count one request."""
        self._deposits[self._current_slot()] += 1

    def withdraw(self) -> bool:
        """Take one further attempt; returns False, and takes none, if there is none available."""
        if self.available_withdrawals < 1 - _SLACK:
            return False
        self._withdrawals[self._current_slot()] += 1
        return True

    def _current_slot(self) -> int:
        """The slot of the current step; empties the slots of expired steps first."""
        step = int(self._clock.monotonic_s() / self._step_s)
        slots = len(self._deposits)
        for past in range(max(self._step + 1, step - slots + 1), step + 1):
            self._deposits[past % slots] = self._withdrawals[past % slots] = 0
        self._step = step
        return step % slots
