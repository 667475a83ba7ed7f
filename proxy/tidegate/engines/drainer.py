"""`EngineDrainer`: drains and closes engines that are not in the config any more, while the other engines run on."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from tidegate.engines.factory import EngineParts
from tidegate.engines.gpus.allocator import GpuAllocator


class EngineDrainer:
    """Owner of the engines that are being drained, and of their transports; has one task for each.

    Args:
        allocator: an engine stays registered there, with its GPUs, until its process has ended.
        on_end: called whenever an engine has ended.
    """

    def __init__(self, allocator: GpuAllocator, on_end: Callable[[], None]) -> None:
        self._allocator = allocator
        self._on_end = on_end
        self._leaving: dict[asyncio.Task[None], EngineParts] = {}
        self._end_now = asyncio.Event()

    def begin(self, parts: EngineParts) -> None:
        """Take an engine out of routing at once, let its running answers end within their time limit, then end it."""
        if parts.process is not None:
            self._allocator.unpin(parts.process.supervisor)
        task = asyncio.create_task(self._close_unused(parts), name=f"engine {parts.entry.engine.name} leaves")
        self._leaving[task] = parts
        task.add_done_callback(self._end)

    def holds(self, name: str) -> bool:
        """Return whether a process of an engine of that name may still exist."""
        return any(parts.process is not None and parts.entry.engine.name == name for parts in self._leaving.values())

    async def close(self) -> None:
        """End all engines now, without waiting for running answers."""
        self._end_now.set()
        if self._leaving:
            await asyncio.wait(self._leaving)

    async def _close_unused(self, parts: EngineParts) -> None:
        engine = parts.entry.engine
        try:
            await _until_first(engine.drain(), self._end_now.wait())
            await engine.close()
            await asyncio.gather(*(transport.close() for transport in parts.transports))
        finally:
            if parts.process is not None:
                self._allocator.unregister(parts.process.supervisor)

    def _end(self, task: asyncio.Task[None]) -> None:
        del self._leaving[task]
        self._on_end()


async def _until_first(*coroutines: Coroutine[Any, Any, object]) -> None:
    """Wait until one of the coroutines has returned; the others are cancelled."""
    tasks = [asyncio.create_task(each) for each in coroutines]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
