"""Finds the processes of an engine in `/proc`: they are those of the session that the engine's warden leads."""

import asyncio
import os
from pathlib import Path

_PROC = Path("/proc")
_ENDED = "Z"


def members(leader: int) -> list[int]:
    """Return the pids of the session's processes that have not ended."""
    return [pid for pid in map(int, _numbers()) if _is_in(leader, pid)]


def find(leader: int, title: str) -> int:
    """Return the pid of the process with that title: `vllm/server.py`, `VLLM::EngineCore` or `VLLM::Worker`."""
    return next(pid for pid in members(leader) if pid != leader and _has(title, _arguments(pid)))


async def until_ended(*pids: int) -> None:
    """Wait until the processes have ended."""
    await asyncio.gather(*map(_until_ended, pids))


def flag(leader: int, name: str) -> str:
    """Return the value of a flag on the engine's command line."""
    arguments = _arguments(leader)
    return arguments[arguments.index(name) + 1]


async def _until_ended(pid: int) -> None:
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(descriptor, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


def _numbers() -> list[str]:
    return [folder.name for folder in _PROC.glob("[0-9]*")]


def _is_in(leader: int, pid: int) -> bool:
    try:
        state, _parent, _group, session = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[:4]
    except OSError:
        return False
    return int(session) == leader and state != _ENDED


def _has(title: str, arguments: list[str]) -> bool:
    return any(argument.rstrip().endswith(title) for argument in arguments)


def _arguments(pid: int) -> list[str]:
    try:
        return (_PROC / str(pid) / "cmdline").read_text(encoding="utf-8").split("\0")
    except OSError:
        return [""]
