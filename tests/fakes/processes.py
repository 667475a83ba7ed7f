"""Whether a process runs, and waits for processes and conditions."""

import asyncio
from collections.abc import Callable
from pathlib import Path


def is_running(pid: int) -> bool:
    """Whether the process runs; a zombie, for which its parent has not waited, does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def gone(*pids: int) -> None:
    """Wait until the processes have ended."""
    await until(lambda: not any(map(is_running, pids)))


async def until(holds: Callable[[], bool]) -> None:
    """Wait until `holds` returns True, for conditions that no event reports."""
    while not holds():  # noqa: ASYNC110 - no event reports it
        await asyncio.sleep(0.005)
