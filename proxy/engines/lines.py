"""`KeptLines`: what is kept of an engine's output."""

from collections import deque
from collections.abc import Sequence

_KEPT = 400


class KeptLines:
    """Owner of the last lines of an engine, over all its starts, and of those since it was last seen well.

    Of the latter the first ones are kept too: the cause of an end stands before what follows from it, and a vLLM whose
    core is gone writes 28 lines for each request that it had.

    Attributes:
        was_well: whether it was seen well in this start.
        number: of all lines until now; see `saw_well`.
    """

    def __init__(self) -> None:
        self.was_well = False
        self.number = 0
        self._last: deque[str] = deque(maxlen=_KEPT)
        self._first: list[str] = []  # since `_since`, as many as are kept
        self._since = 0

    @property
    def last(self) -> Sequence[str]:
        """The last lines, also of earlier starts: the last words of one that has ended stay readable."""
        return list(self._last)

    @property
    def since_well(self) -> Sequence[str]:
        """The first and the last lines since it was last seen well, or since this start began."""
        later = self.number - self._since - len(self._first)
        return [*self._first, *(list(self._last)[-later:] if later else ())]

    def begin(self) -> None:
        """A start begins."""
        self.was_well = False
        self._forget(self.number)

    def saw_well(self, at: int) -> None:
        """It was seen well, so nothing that it has said before is about its end.

        Args:
            at: `number` before it was asked: it may have told its end while it answered.
        """
        self.was_well = True
        self._forget(max(at, self._since))

    def add(self, line: str) -> None:
        """It has said another line."""
        self._last.append(line)
        self.number += 1
        if len(self._first) < _KEPT:
            self._first.append(line)

    def _forget(self, until: int) -> None:
        later = self.number - until
        self._first = list(self._last)[-later:] if later else []
        self._since = until
