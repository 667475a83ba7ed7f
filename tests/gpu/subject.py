"""`Subject`: Tidegate as a process, with one vLLM engine of its own that can also be asked without it."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from msgspec import Struct
from tidegate.cli.remote import Server

from tests.benchmarks.processes import free_port

ENGINE = "engine"
_START_S = 1800.0
_ORDER_S = 300.0
_STOP_S = 60.0
_POLL_S = 0.02


class Way(Struct, frozen=True):
    """How the engine is asked.

    Attributes:
        name: for people.
        socket: where it listens; None: at `url`.
        key: what it wants to see.
    """

    name: str
    url: str
    socket: str | None = None
    key: str = "unused"


class Subject:
    """A running Tidegate whose engine is ready; see `running`.

    Attributes:
        direct: the way to the engine itself.
        proxied: the way through Tidegate.
        start_s: how long the engine took to be ready.
    """

    def __init__(self, port: int, starting: Mapping[str, Any], ready: Mapping[str, Any]) -> None:
        url = f"http://127.0.0.1:{port}"
        self._server = Server(url, None)
        self._leader: int = starting["pid"]  # Tidegate's warden, which has the engine's arguments and environment
        socket, key = _flag(self._leader, "--uds"), _variable(self._leader, "VLLM_API_KEY")
        self.direct = Way("vLLM", "http://engine", socket=socket, key=key)
        self.proxied = Way("Tidegate", url)
        self.start_s: float = ready["took_s"]

    def order(self, order: str, state: str) -> float:
        """Tell the engine what to do; how many seconds it took to be in the state."""
        begun_s = time.monotonic()
        self._server.tell(ENGINE, order)
        while self._server.report(ENGINE)[0].state != state:
            if time.monotonic() - begun_s > _ORDER_S:
                raise TimeoutError(f"the engine is not {state} after {_ORDER_S:g} s")
            time.sleep(_POLL_S)
        return time.monotonic() - begun_s

    def memory_mb(self) -> float:
        """What all GPUs have in use, or the engine's processes where there is none, in MiB."""
        try:
            query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
            told = subprocess.run(query, capture_output=True, text=True, check=True).stdout
        except (OSError, subprocess.CalledProcessError):
            return sum(_share_mb(pid) for pid in _processes() if _session_of(pid) == self._leader)
        return sum(map(float, told.split()))


@contextmanager
def running(engine: Mapping[str, Any], folder: Path) -> Iterator[Subject]:
    """Tidegate with this engine, ready; it and all that it has started are ended on every exit.

    Raises:
        RuntimeError: it did not become ready; the message is the end of its log.
    """
    config = folder / "tidegate.yaml"
    config.write_text(json.dumps(_config(engine)), encoding="utf-8")  # JSON is YAML
    port, log = free_port(), folder / "tidegate.log"
    command = [sys.executable, "-m", "tidegate", "serve", "--config", str(config), "--port", str(port)]
    with log.open("wb") as sink:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink)
    try:
        yield Subject(port, _event(process, log, "engine starting"), _event(process, log, "engine ready"))
    finally:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()  # its warden sees to the engine
            process.wait()


def _config(engine: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "telemetry": {"log_format": "json"},
        "engines": {ENGINE: dict(engine)},
        "models": {ENGINE: {"targets": [{"engine": ENGINE}]}},
    }


def _event(process: subprocess.Popen[bytes], log: Path, event: str) -> Mapping[str, Any]:
    """The log line of that event, waited for."""
    until_s = time.monotonic() + _START_S
    while time.monotonic() < until_s:
        for line in log.read_text(encoding="utf-8").splitlines():
            if f'"{event}"' in line:
                found: Mapping[str, Any] = json.loads(line)
                return found
            if '"engine down"' in line or process.poll() is not None:
                raise RuntimeError(log.read_text(encoding="utf-8")[-4000:])
        time.sleep(_POLL_S)
    raise RuntimeError(f"no engine after {_START_S:g} s: {log.read_text(encoding='utf-8')[-4000:]}")


# --- what the kernel tells of the engine's processes ------------------------------------------------------------------


def _processes() -> list[int]:
    return [int(directory.name) for directory in Path("/proc").iterdir() if directory.name.isdigit()]


def _session_of(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:
        return None


def _flag(pid: int, name: str) -> str:
    arguments = Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8").split("\0")
    return arguments[arguments.index(name) + 1]


def _variable(pid: int, name: str) -> str:
    variables = Path(f"/proc/{pid}/environ").read_text(encoding="utf-8").split("\0")
    return next(variable.partition("=")[2] for variable in variables if variable.startswith(f"{name}="))


def _share_mb(pid: int) -> float:
    try:
        told = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8")
    except OSError:
        return 0.0
    found = re.search(r"^Pss:\s+(\d+) kB$", told, re.MULTILINE)
    return 0.0 if found is None else int(found[1]) / 1024
