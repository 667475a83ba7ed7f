"""`FakeTimers`: timers that expire when a test advances the fake clock."""

from collections.abc import Callable

from tests.fakes.clock import FakeClock


class FakeTimer:
    """A scheduled call."""

    def __init__(self, due_s: float, callback: Callable[[], None]) -> None:
        self.due_s = due_s
        self.callback = callback
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class FakeTimers:
    """Has the method `call_later` of an event loop, on a `FakeClock`."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self._timers: list[FakeTimer] = []

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> FakeTimer:
        timer = FakeTimer(self._clock.monotonic_s() + delay_s, callback)
        self._timers.append(timer)
        return timer

    def advance(self, seconds: float) -> None:
        """Advance the clock; each timer that becomes due is called at its own time, in order."""
        end_s = self._clock.monotonic_s() + seconds
        while due := sorted((timer for timer in self.pending if timer.due_s <= end_s), key=lambda timer: timer.due_s):
            self._timers.remove(due[0])
            self._clock.advance(max(0.0, due[0].due_s - self._clock.monotonic_s()))
            due[0].callback()
        self._clock.advance(max(0.0, end_s - self._clock.monotonic_s()))

    @property
    def pending(self) -> list[FakeTimer]:
        """The timers that are neither called nor cancelled."""
        return [timer for timer in self._timers if not timer.is_cancelled]
