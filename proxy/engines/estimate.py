"""How long the whole start of an engine will still take, from what is known; no I/O.

Known are the phases of the last whole start of the same engine in this process, and the share of a phase that its
output tells. A share says nothing of the phases that follow: after a download the weights are loaded, code is compiled,
graphs are captured. So without an earlier start the time left is known only in a phase after which nothing long comes.
"""

from collections.abc import Mapping

from msgspec import Struct

from proxy.engines.base import Progress
from proxy.engines.output import LAST_PHASES


class Took(Struct, frozen=True):
    """A whole start, in seconds since it began.

    Attributes:
        phases: when each was told first and last, in their order; what comes before the first one has no name.
        whole_s: when it was ready.
    """

    phases: Mapping[str, tuple[float, float]]
    whole_s: float


def left_s(phase: str, since_s: float, phase_left_s: float | None, earlier: Took | None) -> float | None:
    """Of the whole start, in seconds; None where nothing honest can be said, never negative.

    Args:
        phase: the one that goes on.
        since_s: how long ago it was told first, or its share last.
        phase_left_s: what was left of it then, by its share; None: it has told none.
        earlier: the start before.
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
    """Owner of the phases of one engine's start, and of how long those of the last whole one took.

    A wake from sleep is no start: each of the two has its own earlier one. Times are those of a monotonic clock, in
    seconds.
    """

    def __init__(self) -> None:
        self._earlier: dict[bool, Took] = {}  # of wakes and of starts
        self._is_wake = False
        self._is_going_on = False
        self._started_s = self._heard_s = self._began_s = 0.0
        self._phases: dict[str, tuple[float, float]] = {"": (0.0, 0.0)}
        self._share: tuple[float, float] | None = None  # when it was told, and what was left of the phase then

    def begin(self, now_s: float, *, is_wake: bool = False) -> None:
        """A start begins, or a wake; what an unfinished one has told is forgotten."""
        self._is_wake, self._is_going_on = is_wake, True
        self._started_s = self._heard_s = now_s
        self._phases = {"": (0.0, 0.0)}
        self._share = None

    def tell(self, progress: Progress, now_s: float) -> None:
        """The engine has told how far it is; a phase that it comes back to is taken for a part of the last one."""
        at_s = now_s - self._started_s
        if progress.phase not in self._phases:
            # for its rate it begins where the one before was last heard of: a bar is shown when something is done
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
        """Of the whole start; None where that is unknown, or none goes on."""
        if not self._is_going_on:
            return None
        told_s, phase_left_s = self._share or (self._started_s + self._phases[self._phase][0], None)
        return left_s(self._phase, now_s - told_s, phase_left_s, self._earlier.get(self._is_wake))

    def phase_left_s(self, now_s: float) -> float | None:
        """Of the phase that goes on, by the share that it has told: the start takes at least so long."""
        if self._share is None or not self._is_going_on:
            return None
        told_s, phase_left_s = self._share
        return max(0.0, phase_left_s - (now_s - told_s))

    @property
    def _phase(self) -> str:
        return next(reversed(self._phases))
