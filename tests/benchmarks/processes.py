"""Starts child processes, and reads their CPU time and memory from the kernel."""

import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_POLL_S = 0.005
_STOP_S = 5.0


def cpu_s(pid: int) -> float:
    """CPU time of the process in seconds: user and system time of all its threads, without its children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def resident_mb(pid: int) -> float:
    """Resident memory of the process, in MB (10^6 bytes)."""
    found = re.search(r"^VmRSS:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return 0.0 if found is None else int(found[1]) * 1024 / 1e6


def free_port() -> int:
    """A loopback port that no process listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running(command: Sequence[str], output: Path) -> Iterator[int]:
    """Start a child process, yield its process id, and end it on every exit; its output goes to the file `output`.

    A Python child stores its bytecode beside `output`, whatever the environment says, so only the first start compiles.
    """
    environment = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONUNBUFFERED": ""}
    environment["PYTHONPYCACHEPREFIX"] = str(output.parent / "bytecode")
    with output.open("wb") as sink:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
        )
    try:
        yield child.pid
    finally:
        child.terminate()
        try:
            child.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def wait_for(port: int, method: str, path: str, *, body: str = "", key: str = "", limit_s: float = 20.0) -> None:
    """Send the request again and again until it is answered with 200.

    Raises:
        TimeoutError: there was no such answer within `limit_s` seconds.
    """
    until_s = time.monotonic() + limit_s
    while time.monotonic() < until_s:
        if _status(port, method, path, body, key) == 200:
            return
        time.sleep(_POLL_S)
    raise TimeoutError(f"127.0.0.1:{port}{path} did not answer 200 within {limit_s:g} s")


def _status(port: int, method: str, path: str, body: str, key: str) -> int:
    headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}
    connection = HTTPConnection("127.0.0.1", port, timeout=_STOP_S)
    try:
        connection.request(method, path, body=body or None, headers=headers)
        answer = connection.getresponse()
        answer.read()
    except (OSError, HTTPException):
        return 0
    finally:
        connection.close()
    return answer.status
