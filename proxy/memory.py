"""What models thought in turns that called tools, kept for a while so that it can be put back (contract C.7).

DeepSeek refuses a conversation in which it is missing, and most clients drop it. The memory is behind `Memory`, so that
a shared store can take its place.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Protocol

from proxy.clock import Clock

MAX_BYTES = 64 * 1024 * 1024
KEEP_S = 3600.0
_ENTRY_BYTES = 400  # of Python objects around one entry


class Memory(Protocol):
    """Reasoning by caller and tool-call id. A memory that fails remembers nothing; it never raises."""

    async def remember(self, caller: str, call_ids: Sequence[str], reasoning: str) -> None:
        """Keep `reasoning` under each of the ids."""

    async def recall(self, caller: str, call_ids: Sequence[str]) -> Mapping[str, str]:
        """What is kept of these ids for this caller."""


class _Entry:
    __slots__ = ("reasoning", "size", "until_s")

    def __init__(self, reasoning: str, size: int, until_s: float) -> None:
        self.reasoning = reasoning
        self.size = size
        self.until_s = until_s


class ProcessMemory:
    """Kept in this process; owner of its entries. The oldest go first when it is full.

    Args:
        clock: tells when an entry is too old.
        max_bytes: of all entries together, about.
        keep_s: how long an entry is kept after it was last written.
    """

    def __init__(self, clock: Clock, *, max_bytes: int = MAX_BYTES, keep_s: float = KEEP_S) -> None:
        self._clock = clock
        self._max_bytes = max_bytes
        self._keep_s = keep_s
        self._entries: OrderedDict[tuple[str, str], _Entry] = OrderedDict()
        self._size = 0

    @property
    def size_bytes(self) -> int:
        """What is kept, about."""
        return self._size

    async def remember(self, caller: str, call_ids: Sequence[str], reasoning: str) -> None:
        now_s = self._clock.monotonic_s()
        for number, call_id in enumerate(call_ids):
            # one text is shared by the ids of its turn
            size = _ENTRY_BYTES + len(call_id) + (len(reasoning.encode()) if number == 0 else 0)
            self._drop((caller, call_id))
            self._entries[caller, call_id] = _Entry(reasoning, size, now_s + self._keep_s)
            self._size += size
        while self._entries and (self._size > self._max_bytes or next(iter(self._entries.values())).until_s <= now_s):
            self._drop(next(iter(self._entries)))

    async def recall(self, caller: str, call_ids: Sequence[str]) -> Mapping[str, str]:
        now_s = self._clock.monotonic_s()
        found = {call_id: self._entries.get((caller, call_id)) for call_id in call_ids}
        return {call_id: entry.reasoning for call_id, entry in found.items() if entry and entry.until_s > now_s}

    def _drop(self, key: tuple[str, str]) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._size -= entry.size
