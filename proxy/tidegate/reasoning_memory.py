"""The reasoning of turns that called tools, stored for a while so that it can be put back (contract C.7).

DeepSeek refuses a conversation without it, and most clients drop it. `ReasoningMemory` is an interface, so that a
shared store can replace the one in this process.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Protocol

from tidegate.clock import Clock

MAX_BYTES = 64 * 1024 * 1024
KEEP_S = 3600.0
_ENTRY_BYTES = 400  # of Python objects for one entry, including its share of the table
_MAX_CHARACTER_BYTES = 8  # Python may keep a string both as characters and as UTF-8


class ReasoningMemory(Protocol):
    """Reasoning by caller and tool-call id. A store that fails returns nothing; it never raises."""

    async def remember(self, caller: str, call_ids: Sequence[str], reasoning: str) -> None:
        """Store `reasoning` under each of the ids."""

    async def recall(self, caller: str, call_ids: Sequence[str]) -> Mapping[str, str]:
        """The reasoning stored for this caller, by id; ids without any are missing."""


class _Turn:
    """The reasoning of one turn, shared by the ids of the turn's tool calls.

    Attributes:
        text: the reasoning as UTF-8, because the size of a `str` depends on its widest character.
        entry_count: the number of entries that share it, one for each id.
        until_s: when it expires, in monotonic seconds.
    """

    __slots__ = ("entry_count", "text", "until_s")

    def __init__(self, reasoning: str, until_s: float) -> None:
        self.text = reasoning.encode("utf-8", "surrogatepass")
        self.entry_count = 0
        self.until_s = until_s

    @property
    def reasoning(self) -> str:
        return self.text.decode("utf-8", "surrogatepass")


class ProcessReasoningMemory:
    """A `ReasoningMemory` in this process, which owns its entries. When it is full, the oldest are dropped first.

    Args:
        clock: for the age of entries.
        max_bytes: the bound of everything held; a text counts until the last of its ids is dropped.
        keep_s: how long an entry is kept after it was last written.
    """

    def __init__(self, clock: Clock, *, max_bytes: int = MAX_BYTES, keep_s: float = KEEP_S) -> None:
        self._clock = clock
        self._max_bytes = max_bytes
        self._keep_s = keep_s
        self._turns: OrderedDict[tuple[str, str], _Turn] = OrderedDict()  # by caller and id
        self._size = 0

    @property
    def size_bytes(self) -> int:
        """The number of bytes held."""
        return self._size

    async def remember(self, caller: str, call_ids: Sequence[str], reasoning: str) -> None:
        now_s = self._clock.monotonic_s()
        turn = _Turn(reasoning, now_s + self._keep_s)
        for call_id in call_ids:
            self._drop((caller, call_id))
            self._keep((caller, call_id), turn)
        while self._turns and (self._size > self._max_bytes or next(iter(self._turns.values())).until_s <= now_s):
            self._drop(next(iter(self._turns)))

    async def recall(self, caller: str, call_ids: Sequence[str]) -> Mapping[str, str]:
        now_s = self._clock.monotonic_s()
        found = {call_id: self._turns.get((caller, call_id)) for call_id in call_ids}
        return {call_id: turn.reasoning for call_id, turn in found.items() if turn and turn.until_s > now_s}

    def _keep(self, key: tuple[str, str], turn: _Turn) -> None:
        self._turns[key] = turn
        self._size += _size_of(key) + (0 if turn.entry_count else len(turn.text))
        turn.entry_count += 1

    def _drop(self, key: tuple[str, str]) -> None:
        turn = self._turns.pop(key, None)
        if turn is not None:
            turn.entry_count -= 1
            self._size -= _size_of(key) + (0 if turn.entry_count else len(turn.text))


def _size_of(key: tuple[str, str]) -> int:
    """An upper bound for the size of an entry without its text; the same for equal keys."""
    return _ENTRY_BYTES + sum(len(name) * (1 if name.isascii() else _MAX_CHARACTER_BYTES) for name in key)
