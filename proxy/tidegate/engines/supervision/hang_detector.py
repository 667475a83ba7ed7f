"""Whether an engine makes progress; decides, and acts on nothing.

A health route says that a web server lives, not that the engine behind it moves: hung engines have answered 200 for
hours, and busy ones were restarted for being slow (reference `peers.md`, 36). So progress is what counts: while there
is work, a counter of steps has to move. What cannot be known is no evidence: a scrape that fails says nothing, and an
engine without such a counter is never said to stand still. One that answers too slowly is busy, for a while.

A hung engine and one whose step takes a minute look the same, until the step is made. Suspicion therefore only costs an
engine its new requests, and comes early enough that the worst of scrapes leave it below a minute; being wrong makes us
more patient with that engine; and only `Watch`, after its second look, calls it dead.
"""

from tidegate.clock import Clock
from tidegate.engines.base import Load
from tidegate.errors import ProxyError, UpstreamTimeout, UpstreamUnreachable

STILL_S = 40.0  # without a step while there is work; with two scrapes of 5 s at each end it stays below a minute
FIRST_S = 120.0  # the same until the first step, which may compile kernels; and as patient as we ever get
MISSES = 3  # looks in a row that have to agree


class HangDetector:
    """What the looks at one engine add up to, since its start or the last `reset`.

    Attributes:
        in_flight: requests that we have in it, which its own numbers may not show yet.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.in_flight = 0
        self._patience_s = STILL_S
        self._steps: float | None = None
        self.reset()

    def reset(self) -> None:
        """It was seen to work, or has nothing to do."""
        self._moved_s = self._clock.monotonic_s()
        self._still_s = 0.0
        self._looks = self._refusals = 0

    def was_slow(self) -> None:
        """It made a step after all: it was suspected for being slow, and is not to be again."""
        if self._steps:
            self._patience_s = min(2 * self._patience_s, FIRST_S)
        self.reset()

    def saw(self, load: Load) -> None:
        """Its metrics came."""
        self._refusals = 0
        is_still = load.steps is not None and load.steps == self._steps
        self._steps = load.steps
        if is_still and (self.in_flight or load.running or load.waiting):
            self._stands()
        else:
            self.reset()

    def missed(self, error: ProxyError) -> None:
        """They did not."""
        if isinstance(error, UpstreamUnreachable):
            self._refusals += 1
        elif not self.in_flight:
            self._moved_s = self._clock.monotonic_s()
        elif isinstance(error, UpstreamTimeout):
            self._stands()

    def complaint(self) -> str | None:
        """What is wrong with it, in words; None where nothing is known to be."""
        if self._refusals >= MISSES:
            return f"it refused the connection {self._refusals} times"
        if self._looks >= MISSES and self._still_s >= (self._patience_s if self._steps else FIRST_S):
            return f"it has work, but has not made a step for {self._still_s:.0f} s"
        return None

    def _stands(self) -> None:
        self._looks += 1
        self._still_s = self._clock.monotonic_s() - self._moved_s
