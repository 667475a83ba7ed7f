"""`OutputTail`: the lines of an engine's output that are kept."""

from collections import deque
from collections.abc import Sequence

_MAX_LINES = 400


class OutputTail:
    """Owns an engine's last lines, over all its starts, and the first lines since its last good health check.

    The first lines are kept because the cause of an end comes before its consequences, and a vLLM whose core has ended
    writes 28 lines for each request that it had.

    Attributes:
        was_healthy: whether a health check was good in this start.
        number: how many lines were written, over all starts; see `mark_healthy`.
    """

    def __init__(self) -> None:
        self.was_healthy = False
        self.number = 0
        self._last: deque[str] = deque(maxlen=_MAX_LINES)
        self._first: list[str] = []  # since line number `_since`, at most `_MAX_LINES`
        self._since = 0

    @property
    def last(self) -> Sequence[str]:
        """The last lines, those of earlier starts included."""
        return list(self._last)

    @property
    def since_healthy(self) -> Sequence[str]:
        """The first and the last lines since the last good health check, or since this start began."""
        later = self.number - self._since - len(self._first)
        return [*self._first, *(list(self._last)[-later:] if later else ())]

    def begin(self) -> None:
        """Begin a new start: no health check was good yet."""
        self.was_healthy = False
        self._forget(self.number)

    def mark_healthy(self, at: int) -> None:
        """Record a good health check: earlier lines do not say why the engine ends.

        Args:
            at: `number` before the check; lines written during the check may already be about the end.
        """
        self.was_healthy = True
        self._forget(max(at, self._since))

    def add(self, line: str) -> None:
        """Store another line of output."""
        self._last.append(line)
        self.number += 1
        if len(self._first) < _MAX_LINES:
            self._first.append(line)

    def _forget(self, until: int) -> None:
        later = self.number - until
        self._first = list(self._last)[-later:] if later else []
        self._since = until
