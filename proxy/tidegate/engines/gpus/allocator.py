"""`GpuAllocator`: which engine holds how much of the GPUs, and which ones make room for another."""

import asyncio
import contextlib
from typing import Protocol

from msgspec import Struct, structs

from tidegate.config.swap import SwapConfig
from tidegate.engines.base import EngineStatus, PermanentEngineError
from tidegate.engines.gpus.eviction import GpuFootprint, Shares, State
from tidegate.engines.gpus.swap import Decision, Move, SwapCandidate, decide
from tidegate.engines.slots import Slots

_LOOK_S = 0.25
_SWAP = SwapConfig()


class GpuNeeds(Struct, frozen=True, kw_only=True):
    """What an engine takes of the GPUs, see `plan.GpuFootprint`."""

    awake: Shares = {}
    asleep: Shares = {}
    can_sleep: bool = False
    is_pinned: bool = False


class GpuEngine(Protocol):
    """An engine that can make room (see `supervisor.Supervisor`)."""

    name: str

    @property
    def status(self) -> EngineStatus:
        """What it does now."""

    @property
    def slots(self) -> Slots:
        """Who is in it, and who waits for it."""

    def close_for(self, wanted: str) -> None:
        """Let new requests wait, as it is to make room for the engine `wanted`, until it has or is reopened.

        May be called again.
        """

    def reopen(self) -> None:
        """Take requests again: it need not make room any more."""

    def make_room(self, *, may_sleep: bool = True) -> None:
        """Sleep if it can and may, or stop, and release what was claimed.

        May be called again.
        """


class GpuAllocator:
    """Implements `base.GpuClaims`; owner of which engine holds what, and of which engines are closed to make room.

    `turns.decide` has the rules and decides; this class carries its decisions out.

    Args:
        swap: how engines take turns; see `use`.
        look_s: seconds between two decisions while claims wait: no event tells that an engine has become idle.
    """

    def __init__(self, swap: SwapConfig = _SWAP, *, look_s: float = _LOOK_S) -> None:
        self._swap = swap
        self._look_s = look_s
        self._needs: dict[str, GpuNeeds] = {}
        self._engines: dict[str, GpuEngine] = {}
        self._held: dict[str, State] = {}
        self._claims: list[str] = []
        self._closed: set[str] = set()
        self._changed = asyncio.Event()

    def use(self, swap: SwapConfig) -> None:
        """Follow these settings from now on; engines that are loaded already stay loaded."""
        self._swap = swap
        self._changed.set()

    def admit(self, engine: GpuEngine, needs: GpuNeeds) -> None:
        """Let an engine take part, before it claims; or change what it needs."""
        self._engines[engine.name] = engine
        self._needs[engine.name] = needs
        self._changed.set()

    def unpin(self, engine: GpuEngine) -> None:
        """An engine is about to go: nobody need despair of the room that it still takes."""
        if self._engines.get(engine.name) is engine:
            self.admit(engine, structs.replace(self._needs[engine.name], is_pinned=False))

    def dismiss(self, engine: GpuEngine) -> None:
        """An engine is gone for good; nothing happens where it does not take part, or another one has its name."""
        if self._engines.get(engine.name) is engine:
            del self._engines[engine.name], self._needs[engine.name]
            self._held.pop(engine.name, None)
            self._closed.discard(engine.name)
            self._changed.set()

    async def claim(self, name: str) -> bool:
        """Wait until there is room for the engine; others make room by the rules of `turns`.

        Returns:
            False where it was asleep and has to stop first, so that another one can come: it may claim again then.

        Raises:
            Hopeless: there will be none.
        """
        self._claims.append(name)
        try:
            while True:
                decision = self._look()
                if name in decision.never:
                    raise PermanentEngineError(self._why_never(name))
                if name in decision.load:
                    self._held[name] = "loaded"
                    return True
                if (move := decision.moves.get(name)) is not None:
                    self._ask(name, move)
                    return False
                await self._wait_change(decision.look_in_s)
        finally:
            self._claims.remove(name)
            self._reopen_others(self._decide())
            self._changed.set()

    def release(self, name: str, *, is_asleep: bool = False) -> None:
        """The engine holds nothing any more, or only what it holds asleep."""
        self._held[name] = "asleep" if is_asleep else "out"
        self._closed.discard(name)
        self._changed.set()

    def _look(self) -> Decision:
        """Decide, and ask the engines that are to make room. A claiming one is asked by its own `claim`."""
        decision = self._decide()
        self._reopen_others(decision)
        for name, move in decision.moves.items():
            if name not in self._claims:
                self._ask(name, move)
        return decision

    def _decide(self) -> Decision:
        claims = [name for name in self._claims if name in self._engines]
        return decide(claims, {name: self._snapshot(name) for name in self._engines}, self._swap)

    def _ask(self, name: str, move: Move) -> None:
        engine = self._engines[name]
        self._closed.add(name)
        engine.close_for(move.wanted)
        if not engine.slots.taken:
            engine.make_room(may_sleep=move.to == "asleep")

    def _reopen_others(self, decision: Decision) -> None:
        """Reopen those that need not make room any more; one that has begun to do so finishes while claims wait."""
        for name in [name for name in self._closed if name not in decision.moves]:
            if self._is_settled(name) or not self._claims:
                self._closed.discard(name)
                self._engines[name].reopen()

    async def _wait_change(self, limit_s: float | None) -> None:
        self._changed.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._look_s if limit_s is None else min(self._look_s, limit_s)):
                await self._changed.wait()

    def _why_never(self, name: str) -> str:
        if self._needs[name].awake:
            return f"no room for {name} beside the pinned engines: lower its gpu_memory_utilization, or theirs"
        return f"{name} may not be loaded beside a pinned engine: see swap.exclusive"

    def _is_settled(self, name: str) -> bool:
        state = self._engines[name].status.state
        settled = {"loaded": "ready", "asleep": "sleeping"}.get(self._held.get(name, "out"))
        return settled is None or state == settled

    def _snapshot(self, name: str) -> SwapCandidate:
        engine, needs = self._engines[name], self._needs[name]
        footprint = GpuFootprint(
            name=name,
            state=self._held.get(name, "out"),
            awake=needs.awake,
            asleep=needs.asleep,
            can_sleep=needs.can_sleep,
            is_pinned=needs.is_pinned,
            last_used_s=engine.slots.last_used_s,
        )
        return SwapCandidate(
            footprint=footprint,
            is_settled=self._is_settled(name),
            is_closed=name in self._closed,
            in_flight=engine.slots.taken,
            waited_s=engine.slots.waited_s,
            loaded_s=engine.slots.open_s,
            has_new_requests=engine.slots.has_new_requests,
        )
