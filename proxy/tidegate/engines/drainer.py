"""`EngineDrainer`: sees engines off that the config has no more, while the others go on."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from tidegate.engines.factory import EngineParts
from tidegate.engines.gpus.allocator import GpuAllocator


class EngineDrainer:
    """Owner of the engines on their way out, and of their wires: a task for each.

    Args:
        room: they hold their GPUs until they have ended.
        on_end: called whenever one has.
    """

    def __init__(self, allocator: GpuAllocator, on_end: Callable[[], None]) -> None:
        self._allocator = allocator
        self._on_end = on_end
        self._leaving: dict[asyncio.Task[None], EngineParts] = {}
        self._hurry = asyncio.Event()

    def begin(self, parts: EngineParts) -> None:
        """Let an engine go: out of routing at once, then its answers have their time, then it ends."""
        if parts.process is not None:
            self._allocator.unpin(parts.process.supervisor)
        task = asyncio.create_task(self._close_unused(parts), name=f"engine {parts.connected.engine.name} leaves")
        self._leaving[task] = parts
        task.add_done_callback(self._end)

    def holds(self, name: str) -> bool:
        """Whether a process of that name may still be there."""
        return any(
            parts.process is not None and parts.connected.engine.name == name for parts in self._leaving.values()
        )

    async def close(self) -> None:
        """End them now; no answer has its time any more."""
        self._hurry.set()
        if self._leaving:
            await asyncio.wait(self._leaving)

    async def _close_unused(self, parts: EngineParts) -> None:
        engine = parts.connected.engine
        try:
            await _until_first(engine.drained(), self._hurry.wait())
            await engine.close()
            await asyncio.gather(*(wire.close() for wire in parts.wires))
        finally:
            if parts.process is not None:
                self._allocator.dismiss(parts.process.supervisor)

    def _end(self, task: asyncio.Task[None]) -> None:
        del self._leaving[task]
        self._on_end()


async def _until_first(*coming: Coroutine[Any, Any, object]) -> None:
    """Wait for one of them; the others are given up."""
    tasks = [asyncio.create_task(each) for each in coming]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
