"""`Sharing`: who holds how much of the GPUs, and who goes so that another can come."""

import asyncio
import contextlib
from typing import Protocol

from msgspec import Struct, structs

from proxy.engines.base import EngineStatus, Hopeless
from proxy.engines.places import Places
from proxy.engines.plan import Seat, Shares, State, plan

_LOOK_S = 0.25


class Needs(Struct, frozen=True, kw_only=True):
    """What an engine takes of the GPUs, see `plan.Seat`."""

    awake: Shares = {}
    asleep: Shares = {}
    is_pinned: bool = False


class Tenant(Protocol):
    """An engine that can make room (see `supervisor.Supervisor`)."""

    name: str
    status: EngineStatus
    places: Places

    def make_room(self, *, may_sleep: bool = True) -> None:
        """Sleep if it can and may, or stop, and release what was claimed, unless a request comes first.

        May be asked again.
        """


class Sharing:
    """Implements `base.Room`; owner of who holds what.

    Claims for the same GPUs are met in the order of their coming, except that those who sleep go before those who are
    out: they hold memory that nobody could take from them while they wait, so that each might wait for the other.

    Args:
        look_s: between two looks at whether somebody has fallen idle, which nobody tells.
    """

    def __init__(self, *, look_s: float = _LOOK_S) -> None:
        self._look_s = look_s
        self._needs: dict[str, Needs] = {}
        self._tenants: dict[str, Tenant] = {}
        self._held: dict[str, State] = {}
        self._claims: list[str] = []
        self._changed = asyncio.Event()

    def admit(self, tenant: Tenant, needs: Needs) -> None:
        """Let an engine take part, before it claims; or change what it needs."""
        self._tenants[tenant.name] = tenant
        self._needs[tenant.name] = needs
        self._changed.set()

    def unpin(self, tenant: Tenant) -> None:
        """An engine is about to go: nobody need despair of the room that it still takes."""
        if self._tenants.get(tenant.name) is tenant:
            self.admit(tenant, structs.replace(self._needs[tenant.name], is_pinned=False))

    def dismiss(self, tenant: Tenant) -> None:
        """An engine is gone for good; nothing happens where it does not take part, or another one has its name."""
        if self._tenants.get(tenant.name) is tenant:
            del self._tenants[tenant.name], self._needs[tenant.name]
            self._held.pop(tenant.name, None)
            self._changed.set()

    async def claim(self, name: str) -> None:
        """Wait until there is room for the engine; the longest idle ones go first, none with requests.

        Raises:
            Hopeless: there will be none.
        """
        self._claims.append(name)
        try:
            while not self._has_room(name):
                self._changed.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._look_s):
                        await self._changed.wait()
            self._held[name] = "loaded"
        finally:
            self._claims.remove(name)
            self._changed.set()

    def release(self, name: str, *, is_asleep: bool = False) -> None:
        """The engine holds nothing any more, or only what it holds asleep."""
        self._held[name] = "asleep" if is_asleep else "out"
        self._changed.set()

    def _has_room(self, name: str) -> bool:
        """Whether it may come now; where others have to go first, they are asked to."""
        if not self._needs[name].awake:
            return True
        if not self._is_first(name):
            return False
        made = plan(name, [self._seat(other) for other in self._tenants])
        if made.verdict == "never":
            raise Hopeless(f"no room for {name} beside the pinned engines: lower its gpu_memory_utilization, or theirs")
        for other, state in made.moves.items():
            self._tenants[other].make_room(may_sleep=state == "asleep")
        return made.verdict == "go" and not made.moves

    def _is_first(self, name: str) -> bool:
        if self._held.get(name) == "asleep":
            return True
        ahead = self._claims[: self._claims.index(name)]
        return not any(self._needs[other].awake.keys() & self._needs[name].awake.keys() for other in ahead)

    def _seat(self, name: str) -> Seat:
        tenant, needs = self._tenants[name], self._needs[name]
        held = self._held.get(name, "out")
        settled = {"loaded": "ready", "asleep": "sleeping"}.get(held)
        return Seat(
            name=name,
            state=held,
            awake=needs.awake,
            asleep=needs.asleep,
            is_busy=bool(tenant.places.taken) or name in self._claims or tenant.status.state != settled,
            is_pinned=needs.is_pinned,
            last_used_s=tenant.places.last_used_s,
        )
