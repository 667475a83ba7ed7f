"""How long the whole start of an engine will still take; no I/O.

The estimate has two sources: how long the phases of the engine's last complete start took, and the share of the current
phase that is done, by its output. That share says nothing about later phases: after a download the weights are loaded,
code is compiled, graphs are captured. So without an earlier start the time left is known only in a phase after which
nothing long follows (`output.LAST_PHASES`).
"""

from collections.abc import Mapping

from msgspec import Struct

from tidegate.engines.base import Progress
from tidegate.engines.output import LAST_PHASES


class Took(Struct, frozen=True):
    """How long one complete start took, in seconds since it began.

    Attributes:
        phases: when the output told each phase first and last, in order; the time before the first one is the phase "".
        whole_s: when the engine was ready.
    """

    phases: Mapping[str, tuple[float, float]]
    whole_s: float


def left_s(phase: str, since_s: float, phase_left_s: float | None, earlier: Took | None) -> float | None:
    """The time left of the whole start, in seconds; None where it cannot be known, never negative.

    Args:
        phase: the current one.
        since_s: how long ago its share was told last or, if none was, the phase was told first.
        phase_left_s: what was left of the phase then, by its share; None: no share was told.
        earlier: the last complete start.
    """
    if earlier is None or phase not in earlier.phases:
        is_all = phase_left_s is not None and phase in LAST_PHASES
        return max(0.0, (phase_left_s or 0.0) - since_s) if is_all else None
    first_s, last_s = earlier.phases[phase]
    following = list(earlier.phases)[list(earlier.phases).index(phase) + 1 :]
    rest_s = earlier.whole_s - earlier.phases[following[0]][0] if following else 0.0
    left_then_s = earlier.whole_s - first_s if phase_left_s is None else phase_left_s + earlier.whole_s - last_s
    return max(0.0, rest_s, left_then_s - since_s)


class Estimate:
    """Owner of the phases of one engine's start, and of how long those of its last complete one took.

    Starts and wakes from sleep are compared only with their like. Times are seconds of a monotonic clock.
    """

    def __init__(self) -> None:
        self._earlier: dict[bool, Took] = {}  # by whether it was a wake
        self._is_wake = False
        self._is_going_on = False
        self._started_s = self._heard_s = self._began_s = 0.0
        self._phases: dict[str, tuple[float, float]] = {"": (0.0, 0.0)}
        self._share: tuple[float, float] | None = None  # when it was told, and the seconds left of the phase then

    def begin(self, now_s: float, *, is_wake: bool = False) -> None:
        """A start or a wake begins; what was told by one that did not finish is forgotten."""
        self._is_wake, self._is_going_on = is_wake, True
        self._started_s = self._heard_s = now_s
        self._phases = {"": (0.0, 0.0)}
        self._share = None

    def tell(self, progress: Progress, now_s: float) -> None:
        """The engine has told how far it is; a phase that is told again later counts as part of the last one."""
        at_s = now_s - self._started_s
        if progress.phase not in self._phases:
            # its rate counts from the last line of the phase before: a progress bar appears after its first step
            self._began_s = self._heard_s
            self._phases[progress.phase] = (at_s, at_s)
            self._share = None
        if progress.phase == self._phase:
            self._phases[self._phase] = (self._phases[self._phase][0], at_s)
            if progress.done:
                taken_s = now_s - self._began_s
                self._share = now_s, max(0.0, taken_s / progress.done - taken_s)
        self._heard_s = now_s

    def end(self, now_s: float) -> None:
        """It is ready."""
        self._earlier[self._is_wake] = Took(self._phases, now_s - self._started_s)
        self._is_going_on = False

    def left_s(self, now_s: float) -> float | None:
        """The time left of the whole start; None where it is unknown, or no start goes on."""
        if not self._is_going_on:
            return None
        told_s, phase_left_s = self._share or (self._started_s + self._phases[self._phase][0], None)
        return left_s(self._phase, now_s - told_s, phase_left_s, self._earlier.get(self._is_wake))

    def phase_left_s(self, now_s: float) -> float | None:
        """The time left of the current phase, by its share: the start takes at least this long. None where unknown."""
        if self._share is None or not self._is_going_on:
            return None
        told_s, phase_left_s = self._share
        return max(0.0, phase_left_s - (now_s - told_s))

    @property
    def _phase(self) -> str:
        return next(reversed(self._phases))
