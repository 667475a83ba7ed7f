"""Whether a process runs, seen from outside."""

import asyncio
from collections.abc import Callable
from pathlib import Path


def is_running(pid: int) -> bool:
    """A process that has ended, but was not waited for by its parent, does not run."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def gone(*pids: int) -> None:
    """Wait until they have ended."""
    await until(lambda: not any(map(is_running, pids)))


async def until(holds: Callable[[], bool]) -> None:
    """Wait for what nothing reports."""
    while not holds():  # noqa: ASYNC110 - see above
        await asyncio.sleep(0.005)
