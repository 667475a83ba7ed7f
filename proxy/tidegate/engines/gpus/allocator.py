"""`GpuAllocator`: which engine holds how much GPU memory, and which engines are unloaded for another."""

import asyncio
import contextlib
from typing import Protocol

from msgspec import Struct, structs

from tidegate.config.swap import SwapConfig
from tidegate.engines.base import EngineStatus, PermanentEngineError
from tidegate.engines.gpus.eviction import GpuFootprint, Shares, State
from tidegate.engines.gpus.swap import Decision, EngineUse, Move, decide
from tidegate.engines.requests import EngineRequests

_DECIDE_EVERY_S = 0.25
_SWAP = SwapConfig()


class GpuNeeds(Struct, frozen=True, kw_only=True):
    """What an engine takes of the GPUs; the fields are described at `eviction.GpuFootprint`."""

    awake: Shares = {}
    asleep: Shares = {}
    can_sleep: bool = False
    is_pinned: bool = False


class EvictableEngine(Protocol):
    """An engine that can give up its GPU memory (see `supervision.supervisor.Supervisor`)."""

    name: str

    @property
    def status(self) -> EngineStatus:
        """The current status."""

    @property
    def requests(self) -> EngineRequests:
        """The requests in the engine, and those that wait for it."""

    def pause_for(self, other: str) -> None:
        """Let new requests wait until the engine was unloaded so that `other` can be loaded, or until `reopen`.

        May be called again.
        """

    def reopen(self) -> None:
        """Accept requests again: no other engine needs this one to be unloaded any more."""

    def unload(self, *, may_sleep: bool = True) -> None:
        """Sleep if the engine can and may, else stop, and release the claimed GPUs.

        May be called again.
        """


class GpuAllocator:
    """Implements `base.GpuClaims`; owns which engine holds GPU memory, and which engines are closed to be unloaded.

    `swap.decide` has the rules and decides; this class executes its decisions.

    Args:
        swap: when an engine is unloaded for another; see `set_swap`.
        decide_every_s: seconds between two decisions while claims wait, since no event reports that an engine became
            idle.
    """

    def __init__(self, swap: SwapConfig = _SWAP, *, decide_every_s: float = _DECIDE_EVERY_S) -> None:
        self._swap = swap
        self._decide_every_s = decide_every_s
        self._needs: dict[str, GpuNeeds] = {}
        self._engines: dict[str, EvictableEngine] = {}
        self._states: dict[str, State] = {}
        self._claims: list[str] = []
        self._closed: set[str] = set()
        self._changed = asyncio.Event()

    def set_swap(self, swap: SwapConfig) -> None:
        """Use these settings from now on; engines that are loaded already stay loaded."""
        self._swap = swap
        self._changed.set()

    def register(self, engine: EvictableEngine, needs: GpuNeeds) -> None:
        """Register an engine, which is required before it claims; or change the needs of a registered one."""
        self._engines[engine.name] = engine
        self._needs[engine.name] = needs
        self._changed.set()

    def unpin(self, engine: EvictableEngine) -> None:
        """Count an engine that is being removed as not pinned, so that claims wait for its memory and do not fail."""
        if self._engines.get(engine.name) is engine:
            self.register(engine, structs.replace(self._needs[engine.name], is_pinned=False))

    def unregister(self, engine: EvictableEngine) -> None:
        """Unregister an engine that has ended for good; does nothing if it is not the registered one of its name."""
        if self._engines.get(engine.name) is engine:
            del self._engines[engine.name], self._needs[engine.name]
            self._states.pop(engine.name, None)
            self._closed.discard(engine.name)
            self._changed.set()

    async def claim(self, name: str) -> bool:
        """Wait until the engine may be loaded; others are unloaded for it by the rules of `swap`.

        Returns:
            False where the engine was asleep and has to stop first, so that another engine can be loaded. It may claim
            again after that.

        Raises:
            PermanentEngineError: pinned engines never leave enough memory for it, or exclude it.
        """
        self._claims.append(name)
        try:
            while True:
                decision = self._decide_and_evict()
                if name in decision.never:
                    raise PermanentEngineError(self._refusal(name))
                if name in decision.load:
                    self._states[name] = "loaded"
                    return True
                if (move := decision.moves.get(name)) is not None:
                    self._evict(name, move)
                    return False
                await self._wait_change(decision.decide_again_in_s)
        finally:
            self._claims.remove(name)
            self._reopen_others(self._decide())
            self._changed.set()

    def release(self, name: str, *, is_asleep: bool = False) -> None:
        """Record that the engine holds nothing any more, or only what it holds asleep."""
        self._states[name] = "asleep" if is_asleep else "out"
        self._closed.discard(name)
        self._changed.set()

    def _decide_and_evict(self) -> Decision:
        """Decide, and evict the engines of the decision, except claiming ones, which their own `claim` evicts."""
        decision = self._decide()
        self._reopen_others(decision)
        for name, move in decision.moves.items():
            if name not in self._claims:
                self._evict(name, move)
        return decision

    def _decide(self) -> Decision:
        claims = [name for name in self._claims if name in self._engines]
        return decide(claims, {name: self._snapshot(name) for name in self._engines}, self._swap)

    def _evict(self, name: str, move: Move) -> None:
        engine = self._engines[name]
        self._closed.add(name)
        engine.pause_for(move.for_engine)
        if not engine.requests.taken:
            engine.unload(may_sleep=move.to == "asleep")

    def _reopen_others(self, decision: Decision) -> None:
        """Reopen closed engines that need not be unloaded; one that is unloading finishes first if claims wait."""
        for name in [name for name in self._closed if name not in decision.moves]:
            if self._is_settled(name) or not self._claims:
                self._closed.discard(name)
                self._engines[name].reopen()

    async def _wait_change(self, limit_s: float | None) -> None:
        self._changed.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._decide_every_s if limit_s is None else min(self._decide_every_s, limit_s)):
                await self._changed.wait()

    def _refusal(self, name: str) -> str:
        if self._needs[name].awake:
            return f"no GPU memory for {name} beside the pinned engines: lower its own or their gpu_memory_utilization"
        return f"{name} may not be loaded beside a pinned engine: see swap.exclusive"

    def _is_settled(self, name: str) -> bool:
        """Whether the engine is in the state for which it holds memory, and not on the way there; out: always."""
        state = self._engines[name].status.state
        settled = {"loaded": "ready", "asleep": "sleeping"}.get(self._states.get(name, "out"))
        return settled is None or state == settled

    def _snapshot(self, name: str) -> EngineUse:
        engine, needs = self._engines[name], self._needs[name]
        footprint = GpuFootprint(
            name=name,
            state=self._states.get(name, "out"),
            awake=needs.awake,
            asleep=needs.asleep,
            can_sleep=needs.can_sleep,
            is_pinned=needs.is_pinned,
            last_used_s=engine.requests.last_used_s,
        )
        return EngineUse(
            footprint=footprint,
            is_settled=self._is_settled(name),
            is_closed=name in self._closed,
            in_flight=engine.requests.taken,
            waited_s=engine.requests.waited_s,
            loaded_s=engine.requests.ready_s,
            has_new_requests=engine.requests.has_new_requests,
        )
