"""Requests through Tidegate to a host with a fault, and what must hold after each, whatever the fault.

A `Row` is one line of the fault list: what the host does, and what must come of it at one target. `check` asks it there
and with a second, sound target behind, which must answer wherever nothing had left yet. Each time: an answer that is
OpenAI's to the letter (a stream has one end, and nothing after it), one request counted, one access-log line, and every
task and file descriptor of this process gone that was not there before, those of the host's side included: its
connections are released.
"""

import asyncio
import json
import re
from collections.abc import Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import aiohttp
from structlog.testing import capture_logs

from tests.fakes import proxy
from tests.fakes.canonical import read_answer, read_error, read_stream
from tests.fakes.fault_proxy import Fault, FaultProxy
from tests.fakes.upstream import ScenarioUpstream, Script, answers, streams
from tests.fakes.wire import completion, text_stream

MODES = ("unary", "stream")
TARGETS = ("one target", "two targets")
SHORT_S = 0.2  # a time limit of the host that must expire in the test
ELSEWHERE = "from the second"  # what the sound target says
CONTENT = b'"content":"Hi'  # what has to reach a caller before a fault that waits goes on
_LIMIT_S, _LOOK_EVERY_S = 60, 0.002
_GENEROUS_S = 60.0  # a time limit of the host that must not expire
_WAITS = ("connect", "first_byte", "answer", "idle")
_NO_KEYS: Mapping[str, Any] = {}
_BEHIND_FAULTS = "http://127.0.0.1:{port}/v1"

Mode = Literal["unary", "stream"]


# --- what must come of it -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LoadReport:
    """A whole answer, with these choices as `tests/fakes/canonical.py` reads them."""

    choices: tuple[Mapping[str, Any], ...]
    status: int = 200


@dataclass(frozen=True)
class Refused:
    """An error with its status; where another target may be tried, that one answers."""

    status: int
    code: str | None
    tries_another: bool = True


@dataclass(frozen=True)
class Broken:
    """A stream that began with this text, and an error in band."""

    text: str
    code: str
    status: int = 200


def text(content: str) -> LoadReport:
    """One choice that says so, and stops."""
    return LoadReport(({"content": content, "finish": "stop"},))


UNREACHABLE = Refused(502, "upstream_unreachable")
FAILED = Refused(502, "upstream_failed")
SILENT = Refused(504, "upstream_timeout")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One fault.

    Attributes:
        plays: what the host does with requests.
        fault: what happens to its connections, if not nothing.
        stream: None where it is as `unary`.
        short: the time limits of the host (see `_WAITS`) whose expiry the row is about; the others are long.
        asks: what else stands in the request.
    """

    plays: Script | None = None
    fault: Fault | None = None
    unary: LoadReport | Refused
    stream: LoadReport | Refused | Broken | None = None
    short: tuple[str, ...] = ()
    asks: Mapping[str, Any] = field(default_factory=dict)

    def outcome(self, mode: Mode) -> LoadReport | Refused | Broken:
        return self.stream if mode == "stream" and self.stream is not None else self.unary


# --- Tidegate in front of it --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Heard:
    """What the caller got, and what was written down about it."""

    mode: Mode
    status: int
    body: bytes
    counted: float
    lines: list[dict[str, Any]]

    @property
    def outcome(self) -> LoadReport | Refused | Broken:
        """Read strictly: everything that is not OpenAI's is an `AssertionError`."""
        if self.status != 200:
            return Refused(self.status, read_error(self.body)["code"])
        if self.mode == "unary":
            return LoadReport(tuple(read_answer(self.body, "chat", "m", ())["choices"]))
        told = read_stream(self.body, "chat", "m", (), wants_usage=False)
        if "error" in told:
            return Broken("".join(choice.get("content") or "" for choice in told["choices"]), told["error"]["code"])
        return LoadReport(tuple(told["choices"]))


class Stage:
    """Tidegate, and the hosts behind it: `first` behind `faults`, `second` sound."""

    def __init__(
        self, url: str, first: ScenarioUpstream, second: ScenarioUpstream, faults: FaultProxy, log: list[dict[str, Any]]
    ) -> None:
        self.url = url
        self.first = first
        self.second = second
        self.faults = faults
        self._log = log

    async def ask(self, mode: Mode, **fields: Any) -> Heard:
        """One request, on a connection of its own; what waits for the caller to have read goes on.

        The metrics and the log line follow its last byte a little later, so this waits for both.
        """
        written, counted = len(self._log), await self._counted()
        body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": mode == "stream"} | fields
        heard = b""
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{self.url}/v1/chat/completions", json=body) as answer,
        ):
            async for piece in answer.content.iter_any():
                heard += piece
                if CONTENT in heard:
                    self._go_on()
        async with asyncio.timeout(_LIMIT_S):
            while not (lines := [line for line in self._log[written:] if line["event"] == "request"]):  # noqa: ASYNC110 - there is no event
                await asyncio.sleep(_LOOK_EVERY_S)
        return Heard(mode, answer.status, heard, await self._counted() - counted, lines)

    async def is_in_flight(self, requests: int) -> None:
        """Wait until Tidegate has so many."""
        while (await self._metric("tidegate_requests_in_flight")) < requests:
            continue

    @asynccontextmanager
    async def leaking_nothing(self):
        """What is there at the end was there at the start."""
        await self._counted()  # a first request, so that what is opened once is there
        tasks, files = asyncio.all_tasks(), files_of()
        yield
        await none_left(lambda: asyncio.all_tasks() - tasks)
        await none_left(lambda: files_of() - files)

    def _go_on(self) -> None:
        for waiting in (*self.first.calls, *self.faults.passages):
            waiting.go.set()

    async def _counted(self) -> float:
        return await self._metric("tidegate_requests_total")

    async def _metric(self, name: str) -> float:
        """Over all its labels."""
        async with aiohttp.ClientSession() as session, session.get(f"{self.url}/metrics") as answer:
            lines = (await answer.text()).splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if re.match(rf"{name}[{{ ]", line))


@asynccontextmanager
async def stage(
    *,
    targets: int = 1,
    short: Mapping[str, float] = _NO_KEYS,
    base_url: str = _BEHIND_FAULTS,
    prepare=None,
    more: Mapping[str, Any] = _NO_KEYS,
    server: Mapping[str, Any] = _NO_KEYS,
):
    """A `Stage`.

    Args:
        targets: 2 puts the sound one behind the faulty one; there is one try for each.
        short: the time limits of the first host that must expire, in seconds, by name (see `_WAITS`).
        base_url: of the first host; `{port}` is the fault proxy's, behind which the scenario upstream is.
        prepare: may change the app before it starts.
        more: further keys of the first host, which come before these.
        server: Tidegate's own section.
    """
    first, second = ScenarioUpstream(), ScenarioUpstream()
    with capture_logs() as log:
        async with first.running(), second.running(), FaultProxy(first.port).running() as faults:
            config = _config(base_url.format(port=faults.port), second.url, targets, short, more)
            config += f"server: {json.dumps(dict(server))}\n"
            async with proxy.running_app(config, prepare=prepare) as (url, _):
                yield Stage(url, first, second, faults, log)


def _config(first: str, second: str, targets: int, short: Mapping[str, float], more: Mapping[str, Any]) -> str:
    # short keep-alive, so that what the pool keeps is not taken for a leak
    first_keys = {f"{wait}_timeout_s": short.get(wait, _GENEROUS_S) for wait in _WAITS}
    first_keys |= {"base_url": first, "keepalive_s": 0.03} | more
    there = ", ".join(f"{{upstream: {name}, model: there}}" for name in ("first", "second")[:targets])
    return f"""
routing: {{retry: {{repeats: 0, budget_per_s: 1000}}, health: {{failures: 1000, probe: false}}}}
upstreams:
  first: {json.dumps(first_keys)}
  second: {{base_url: "{second}", keepalive_s: 0.03}}
models: {{m: {{targets: [{there}]}}}}
"""


def files_of(process: int | Literal["self"] = "self") -> set[str]:
    """The open file descriptors of a process, by what they are: numbers are given again."""
    found = set()
    for number in Path(f"/proc/{process}/fd").iterdir():
        with suppress(FileNotFoundError):  # the listing's own
            found.add(str(number.readlink()))
    return found


async def none_left(left: Callable[[], set[Any]]) -> None:
    """Wait for the end of what is left, not for ever: things close by and by."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_LIMIT_S):
            while left():  # noqa: ASYNC110 - there is no event
                await asyncio.sleep(_LOOK_EVERY_S)
    assert left() == set()


# --- the checks ---------------------------------------------------------------------------------------------------


async def check(
    row: Row, mode: Mode, targets: Literal["one target", "two targets"], *, base_url: str = _BEHIND_FAULTS
) -> None:
    """Ask, and compare everything."""
    count = TARGETS.index(targets) + 1
    async with stage(targets=count, short=dict.fromkeys(row.short, SHORT_S), base_url=base_url) as made:
        if row.plays is not None:
            made.first.play(row.plays)
        if row.fault is not None:
            made.faults.play(row.fault)
        await check_at(made, row.outcome(mode), mode, targets=count, **row.asks)


async def check_at(
    made: Stage, outcome: LoadReport | Refused | Broken, mode: Mode, *, targets: int = 1, **asks: Any
) -> None:
    """The same, at a stage that is set already."""
    made.second.calls.clear()
    made.second.play(streams(*text_stream(ELSEWHERE)) if mode == "stream" else answers(completion(ELSEWHERE)))
    moves_on = targets == 2 and isinstance(outcome, Refused) and outcome.tries_another
    expected = text(ELSEWHERE) if moves_on else outcome
    async with made.leaking_nothing():
        heard = await made.ask(mode, **asks)
    _compare(heard, expected)
    assert len(made.second.calls) == moves_on


def _compare(heard: Heard, expected: LoadReport | Refused | Broken) -> None:
    seen = heard.outcome
    if isinstance(expected, Refused):
        expected = Refused(expected.status, expected.code)
    assert expected == seen
    assert heard.counted == 1
    (line,) = heard.lines
    assert line["status"] == expected.status
    assert line.get("error") == (None if isinstance(expected, LoadReport) else expected.code or "invalid_request_error")
