"""`Subject`: Tidegate as a process with one vLLM engine, to which requests can also be sent directly."""

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

from tests.benchmarks.processes import free_port
from tidegate.cli.remote import Server

ENGINE = "engine"
_START_S = 1800.0
_ORDER_S = 300.0
_STOP_S = 60.0
_POLL_S = 0.02


class Route(Struct, frozen=True):
    """A way to send requests to the engine.

    Attributes:
        name: the name in the tables.
        url: the base URL.
        socket: the Unix socket to connect to; None: connect to `url`.
        key: the API key.
    """

    name: str
    url: str
    socket: str | None = None
    key: str = "unused"


class Subject:
    """A running Tidegate whose engine is ready; see `running`.

    Attributes:
        direct: the route to the engine itself.
        proxied: the route through Tidegate.
        start_s: how long the engine took until it was ready.
    """

    def __init__(self, port: int, starting: Mapping[str, Any], ready: Mapping[str, Any]) -> None:
        url = f"http://127.0.0.1:{port}"
        self._server = Server(url, None)
        self._warden_pid: int = starting["pid"]  # Tidegate's warden, which has the engine's arguments and environment
        socket, key = _flag(self._warden_pid, "--uds"), _variable(self._warden_pid, "VLLM_API_KEY")
        self.direct = Route("vLLM", "http://engine", socket=socket, key=key)
        self.proxied = Route("Tidegate", url)
        self.start_s: float = ready["took_s"]

    def order(self, order: str, state: str) -> float:
        """Send an order to the engine; returns the seconds until the engine is in `state`.

        Raises:
            TimeoutError: it is not in that state after 300 s.
        """
        begun_s = time.monotonic()
        self._server.send_order(ENGINE, order)
        while self._server.report(ENGINE)[0].state != state:
            if time.monotonic() - begun_s > _ORDER_S:
                raise TimeoutError(f"the engine is not {state} after {_ORDER_S:g} s")
            time.sleep(_POLL_S)
        return time.monotonic() - begun_s

    def memory_mb(self) -> float:
        """The used memory of all GPUs in MiB; without a GPU, that of the engine's processes."""
        try:
            query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
            output = subprocess.run(query, capture_output=True, text=True, check=True).stdout
        except (OSError, subprocess.CalledProcessError):
            return sum(_share_mb(pid) for pid in _processes() if _session_of(pid) == self._warden_pid)
        return sum(map(float, output.split()))


@contextmanager
def running(engine: Mapping[str, Any], folder: Path) -> Iterator[Subject]:
    """Start Tidegate with this engine; yields when the engine is ready, and ends all processes on every exit.

    Raises:
        RuntimeError: the engine did not become ready; the message is the end of the log.
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
            process.kill()  # the engine is then ended by its warden
            process.wait()


def _config(engine: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "telemetry": {"log_format": "json"},
        "engines": {ENGINE: dict(engine)},
        "models": {ENGINE: {"targets": [{"engine": ENGINE}]}},
    }


def _event(process: subprocess.Popen[bytes], log: Path, event: str) -> Mapping[str, Any]:
    """Wait for the log line of `event`, and return its fields."""
    until_s = time.monotonic() + _START_S
    while time.monotonic() < until_s:
        for line in log.read_text(encoding="utf-8").splitlines():
            if f'"{event}"' in line:
                fields: Mapping[str, Any] = json.loads(line)
                return fields
            if '"engine down"' in line or process.poll() is not None:
                raise RuntimeError(log.read_text(encoding="utf-8")[-4000:])
        time.sleep(_POLL_S)
    raise RuntimeError(f"no engine after {_START_S:g} s: {log.read_text(encoding='utf-8')[-4000:]}")


# --- data from /proc about the engine's processes ---------------------------------------------------------------------


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
        output = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8")
    except OSError:
        return 0.0
    fields = re.search(r"^Pss:\s+(\d+) kB$", output, re.MULTILINE)
    return 0.0 if fields is None else int(fields[1]) / 1024
