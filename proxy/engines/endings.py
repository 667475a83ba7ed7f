"""Why an engine has ended that had been ready: its exit status, and what it says of its own processes; no I/O.

The words are those of vLLM 0.26 to 0.32. Nothing of a line is passed on but names of signals and of exceptions, since
lines of an engine that has callers can hold their texts.
"""

import re
import signal
from collections.abc import Sequence

from proxy.engines.base import EngineError

_TOLD_TO_END = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
# these come from outside: what the engine said before is about something else
SENT = frozenset({signal.SIGKILL, *_TOLD_TO_END})

_KILLED = "by another program, or by the kernel because the machine's memory was full, see dmesg"
_LAST_WORDS = "`tidegate engines logs` shows its last words"

_WORKER = re.compile(r"^\w*Worker\w*(?: proc)? \S+ died unexpectedly(?: \(exit code: (?P<status>-?\d+|None)\))?")
_CRASH = re.compile(
    r"^!+ Segfault encountered !+$|"
    r"^Fatal Python error: (?P<what>Segmentation fault|Aborted|Bus error|Illegal instruction)"
)
_CRASHES = {
    None: signal.SIGSEGV,
    "Segmentation fault": signal.SIGSEGV,
    "Aborted": signal.SIGABRT,
    "Bus error": signal.SIGBUS,
    "Illegal instruction": signal.SIGILL,
}
_FAILED = re.compile(r"^EngineCore encountered a fatal error")
_EXCEPTION = re.compile(r"^(?P<what>[A-Za-z_][\w.]*(?:Error|Exception|Interrupt)): ")
_GONE = re.compile(r"engine core exited unexpectedly|^Engine core proc \S+ died unexpectedly")
_ASKED = re.compile(r"^\[shutdown\] EngineCore: trigger received signal=(?P<what>SIG[A-Z]+)$")
_DEAD = "EngineDeadError"
_SHUTS_DOWN = re.compile(r"^INFO:\s+Shutting down$|^\[shutdown\] API server: shutdown triggered")


def signal_of(status: int) -> signal.Signals | None:
    """The signal that ended a process of that exit status: negative, as Python says it, or 128 and its number."""
    number = -status if status < 0 else status - 128
    try:
        return signal.Signals(number)
    except ValueError:
        return None


def tell_signal(number: signal.Signals, what: str = "it") -> str:
    """What a signal did that Tidegate has not sent; `what` is the process, as a subject."""
    if number == signal.SIGKILL:
        return f"{what} was killed (SIGKILL): {_KILLED}"
    if number in _TOLD_TO_END:
        return f"{what} was told to end by another program ({number.name})"
    return f"{what} crashed ({number.name}), by a fault in native code or in a driver: see dmesg; {_LAST_WORDS}"


def explain_end(lines: Sequence[str]) -> EngineError | None:
    """Why an engine has ended by what it says of its processes.

    Args:
        lines: since it was last well, without the names of processes and the times before them.
    """
    for told in (_worker(lines), _crash(lines), _core(lines)):
        if told is not None:
            return EngineError(told)
    if any(_SHUTS_DOWN.search(line) for line in lines):
        return EngineError("it was told to end by another program (SIGTERM or SIGINT)")
    return None


def _worker(lines: Sequence[str]) -> str | None:
    """Of the first worker that is gone; its exit status is not always known yet when vLLM tells of it."""
    found = next((found for line in lines if (found := _WORKER.search(line)) is not None), None)
    if found is None:
        return None
    status = found["status"]
    number = None if status in {None, "None"} else signal_of(int(status))
    if number is not None:
        return tell_signal(number, "a worker of it")
    return _crash(lines) or f"a worker of it ended unexpectedly: it failed, or was killed {_KILLED}; {_LAST_WORDS}"


def _crash(lines: Sequence[str]) -> str | None:
    found = next((found for line in lines if (found := _CRASH.search(line)) is not None), None)
    return None if found is None else tell_signal(_CRASHES[found["what"]], "a process of it")


def _core(lines: Sequence[str]) -> str | None:
    """What its core says of its own end; where it says nothing, it was killed."""
    failed = next((place for place, line in enumerate(lines) if _FAILED.search(line)), None)
    if failed is not None:
        found = next((found for line in lines[failed:] if (found := _EXCEPTION.match(line)) is not None), None)
        what = "" if found is None else f" ({found['what']})"
        return f"its core failed{what}; {_LAST_WORDS}"
    if any(_GONE.search(line) for line in lines):
        asked = next((found for line in lines if (found := _ASKED.search(line)) is not None), None)
        if asked is not None:
            return f"its core was told to end by another program ({asked['what']})"
        return f"its core was ended by a signal, without a word: killed {_KILLED}"
    return f"its core failed; {_LAST_WORDS}" if any(_DEAD in line for line in lines) else None
