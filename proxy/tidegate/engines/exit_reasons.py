"""Why an engine that had been ready has ended: read from its exit status and from its output; no I/O.

The patterns fit the output of vLLM 0.26 to 0.32. Only names of signals and exceptions are taken from a line, because
the lines of an engine that has answered requests may quote them. A vLLM has several processes: the API server, the
engine core ("core"), and the workers of the core.
"""

import re
import signal
from collections.abc import Sequence

from tidegate.engines.base import EngineError

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
# another program has sent one of these, so earlier errors in the output are not the reason of the end
EXTERNAL_SIGNALS = frozenset({signal.SIGKILL, *_STOP_SIGNALS})

_KILLED = "by another program, or by the kernel because the machine's memory was full (see dmesg)"
_SEE_LOGS = "see `tidegate engines logs`"

_WORKER = re.compile(r"^\w*Worker\w*(?: proc)? \S+ died unexpectedly(?: \(exit code: (?P<status>-?\d+|None)\))?")
_CRASH = re.compile(
    r"^!+ Segfault encountered !+$|"
    r"^Fatal Python error: (?P<what>Segmentation fault|Aborted|Bus error|Illegal instruction)"
)
_CRASHES = {
    None: signal.SIGSEGV,  # the first alternative of `_CRASH`, which has no group
    "Segmentation fault": signal.SIGSEGV,
    "Aborted": signal.SIGABRT,
    "Bus error": signal.SIGBUS,
    "Illegal instruction": signal.SIGILL,
}
_CORE_FAILED = re.compile(r"^EngineCore encountered a fatal error")
_EXCEPTION = re.compile(r"^(?P<what>[A-Za-z_][\w.]*(?:Error|Exception|Interrupt)): ")
_CORE_ENDED = re.compile(r"engine core exited unexpectedly|^Engine core proc \S+ died unexpectedly")
_STOP_REQUEST = re.compile(r"^\[shutdown\] EngineCore: trigger received signal=(?P<what>SIG[A-Z]+)$")
_CORE_IS_DEAD = "EngineDeadError"
_SHUTDOWN = re.compile(r"^INFO:\s+Shutting down$|^\[shutdown\] API server: shutdown triggered")


def signal_of(status: int) -> signal.Signals | None:
    """Return the signal that an exit status stands for, or None.

    The status is minus the signal's number, as Python reports it, or 128 plus the number, as a shell does.
    """
    number = -status if status < 0 else status - 128
    try:
        return signal.Signals(number)
    except ValueError:
        return None


def describe_signal(number: signal.Signals, what: str = "it") -> str:
    """Return the text for an end by a signal that Tidegate has not sent; `what` is the subject of the sentence."""
    if number == signal.SIGKILL:
        return f"{what} was killed (SIGKILL): {_KILLED}"
    if number in _STOP_SIGNALS:
        return f"{what} was told to end by another program ({number.name})"
    return f"{what} crashed ({number.name}), by a fault of native code or a driver: see dmesg, `tidegate engines logs`"


def explain_end(lines: Sequence[str]) -> EngineError | None:
    """Return why an engine has ended, by what its output says of its processes; None if it says nothing.

    Args:
        lines: its output since the last good health check, without the process names and times in front of the lines.
    """
    for reason in (_worker(lines), _crash(lines), _core(lines)):
        if reason is not None:
            return EngineError(reason)
    if any(_SHUTDOWN.search(line) for line in lines):
        return EngineError("it was told to end by another program (SIGTERM or SIGINT)")
    return None


def _worker(lines: Sequence[str]) -> str | None:
    """Return why the first worker ended, or None; the line in which vLLM reports it may have no exit status."""
    found = next((found for line in lines if (found := _WORKER.search(line)) is not None), None)
    if found is None:
        return None
    status = found["status"]
    number = None if status in {None, "None"} else signal_of(int(status))
    if number is not None:
        return describe_signal(number, "one of its workers")
    return _crash(lines) or f"one of its workers ended unexpectedly: it failed, or was killed {_KILLED}; {_SEE_LOGS}"


def _crash(lines: Sequence[str]) -> str | None:
    found = next((found for line in lines if (found := _CRASH.search(line)) is not None), None)
    return None if found is None else describe_signal(_CRASHES[found["what"]], "one of its processes")


def _core(lines: Sequence[str]) -> str | None:
    """Return why vLLM's engine core ended, or None; a core that ended without any output was killed."""
    failed = next((index for index, line in enumerate(lines) if _CORE_FAILED.search(line)), None)
    if failed is not None:
        found = next((found for line in lines[failed:] if (found := _EXCEPTION.match(line)) is not None), None)
        what = "" if found is None else f" ({found['what']})"
        return f"its core failed{what}; {_SEE_LOGS}"
    if any(_CORE_ENDED.search(line) for line in lines):
        request = next((found for line in lines if (found := _STOP_REQUEST.search(line)) is not None), None)
        if request is not None:
            return f"its core was told to end by another program ({request['what']})"
        return f"its core was ended by a signal, with no output: killed {_KILLED}"
    return f"its core failed; {_SEE_LOGS}" if any(_CORE_IS_DEAD in line for line in lines) else None
