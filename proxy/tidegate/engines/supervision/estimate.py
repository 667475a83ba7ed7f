"""How long the whole start of an engine will still take; no I/O.

The estimate has two sources: how long the phases of the engine's last complete start took, and the share of the current
phase that is done, which the engine writes to its output. That share says nothing about later phases: after a download
the weights are loaded, code is compiled, graphs are captured. So without an earlier start the time left is known only
in a phase that no long phase follows (`output.LAST_PHASES`).
"""

from collections.abc import Mapping

from msgspec import Struct

from tidegate.engines.base import Progress
from tidegate.engines.output import LAST_PHASES


class StartTimes(Struct, frozen=True):
    """When the phases of one complete start were reported, in seconds since the start began.

    Attributes:
        phases: when the output reported each phase first and last, in order; the time before the first phase is the
            phase "".
        total_s: when the engine was ready.
    """

    phases: Mapping[str, tuple[float, float]]
    total_s: float


def left_s(phase: str, since_s: float, phase_left_s: float | None, previous: StartTimes | None) -> float | None:
    """The time left of the whole start, in seconds, never negative; None where it cannot be known.

    Args:
        phase: the current phase.
        since_s: seconds since the phase's share was last reported or, without a share, since the phase was first
            reported.
        phase_left_s: the time left of the phase at that moment, computed from its share; None: no share was reported.
        previous: the last complete start; None: there was none.
    """
    if previous is None or phase not in previous.phases:
        is_known = phase_left_s is not None and phase in LAST_PHASES
        return max(0.0, (phase_left_s or 0.0) - since_s) if is_known else None
    first_s, last_s = previous.phases[phase]
    following = list(previous.phases)[list(previous.phases).index(phase) + 1 :]
    # at least what the later phases took; `left_then_s` is the time left when the phase or its share was reported
    rest_s = previous.total_s - previous.phases[following[0]][0] if following else 0.0
    left_then_s = previous.total_s - first_s if phase_left_s is None else phase_left_s + previous.total_s - last_s
    return max(0.0, rest_s, left_then_s - since_s)


class Estimate:
    """Owns the phases of one engine's current start, and the times of its last complete start.

    A start is compared only with an earlier start, and a wake from sleep only with an earlier wake. Times are seconds
    of a monotonic clock.
    """

    def __init__(self) -> None:
        self._previous: dict[bool, StartTimes] = {}  # by `is_wake`
        self._is_wake = False
        self._is_running = False
        self._started_s = self._last_report_s = self._phase_began_s = 0.0
        self._phases: dict[str, tuple[float, float]] = {"": (0.0, 0.0)}
        self._share: tuple[float, float] | None = None  # when it was reported, and the seconds left of the phase then

    def begin(self, now_s: float, *, is_wake: bool = False) -> None:
        """Begin a start or a wake; discard the reports of one that did not finish."""
        self._is_wake, self._is_running = is_wake, True
        self._started_s = self._last_report_s = now_s
        self._phases = {"": (0.0, 0.0)}
        self._share = None

    def record(self, progress: Progress, now_s: float) -> None:
        """Store the engine's progress; an earlier phase that is reported again counts as part of the current one."""
        at_s = now_s - self._started_s
        if progress.phase not in self._phases:
            # its rate counts from the last report of the earlier phase, as a progress bar appears after its first step
            self._phase_began_s = self._last_report_s
            self._phases[progress.phase] = (at_s, at_s)
            self._share = None
        if progress.phase == self._phase:
            self._phases[self._phase] = (self._phases[self._phase][0], at_s)
            if progress.done:
                taken_s = now_s - self._phase_began_s
                self._share = now_s, max(0.0, taken_s / progress.done - taken_s)
        self._last_report_s = now_s

    def end(self, now_s: float) -> None:
        """End the start: the engine is ready."""
        self._previous[self._is_wake] = StartTimes(self._phases, now_s - self._started_s)
        self._is_running = False

    def left_s(self, now_s: float) -> float | None:
        """The time left of the whole start; None where it is unknown, or no start is running."""
        if not self._is_running:
            return None
        reported_s, phase_left_s = self._share or (self._started_s + self._phases[self._phase][0], None)
        return left_s(self._phase, now_s - reported_s, phase_left_s, self._previous.get(self._is_wake))

    def phase_left_s(self, now_s: float) -> float | None:
        """The time left of the current phase, a minimum for the whole start; None where no share was reported."""
        if self._share is None or not self._is_running:
            return None
        reported_s, phase_left_s = self._share
        return max(0.0, phase_left_s - (now_s - reported_s))

    @property
    def _phase(self) -> str:
        return next(reversed(self._phases))
