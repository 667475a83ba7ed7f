"""Requests through Tidegate to a host with a fault, and what must hold after each of them, whatever the fault.

A `Row` is one line of the fault list: what the host does, and the expected outcome with one target. `check` sends the
request to that target alone, or with a second, sound target behind it, which must answer if nothing had left for the
caller yet. After each request: the answer conforms to OpenAI's API exactly (a stream has one end, and nothing after
it), one request was counted, there is one access-log line, and every task and file descriptor of this process that was
not there before is gone, including those of the host's side, so that its connections were released.
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
TARGETS = ("one target", "two targets")  # the second one is sound
SHORT_S = 0.2  # a timeout of the host that must expire in the test
SECOND_TEXT = "from the second"  # the answer of the sound target
CONTENT = b'"content":"Hi'  # what the caller must have received before a script or fault that waits continues
_LIMIT_S, _POLL_EVERY_S = 60, 0.002
_GENEROUS_S = 60.0  # a timeout of the host that must not expire
_TIMEOUTS = ("connect", "first_byte", "answer", "idle")
_NO_KEYS: Mapping[str, Any] = {}
_BEHIND_FAULTS = "http://127.0.0.1:{port}/v1"

Mode = Literal["unary", "stream"]


# --- expected outcomes -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WholeAnswer:
    """A whole answer, unary or streamed, with these choices as `tests/fakes/canonical.py` reads them."""

    choices: tuple[Mapping[str, Any], ...]
    status: int = 200


@dataclass(frozen=True)
class ErrorAnswer:
    """An error before the answer has begun.

    Attributes:
        tries_another: whether the second target is tried, so that it answers.
    """

    status: int
    code: str | None
    tries_another: bool = True


@dataclass(frozen=True)
class BrokenStream:
    """A stream that began with this text and ended with an error in band."""

    text: str
    code: str
    status: int = 200


def text(content: str) -> WholeAnswer:
    """A whole answer of one choice with this content, which ended with the finish reason `stop`."""
    return WholeAnswer(({"content": content, "finish": "stop"},))


UNREACHABLE = ErrorAnswer(502, "upstream_unreachable")
FAILED = ErrorAnswer(502, "upstream_failed")
TIMED_OUT = ErrorAnswer(504, "upstream_timeout")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One fault.

    Attributes:
        script: what the host does with requests.
        fault: what happens to its connections; None for nothing.
        unary: the outcome of a unary request.
        stream: the outcome of a streamed request; None if it is the same as `unary`.
        short_timeouts: the timeouts of the host (see `_TIMEOUTS`) that must expire; the others are long.
        request_fields: further fields of the request.
    """

    script: Script | None = None
    fault: Fault | None = None
    unary: WholeAnswer | ErrorAnswer
    stream: WholeAnswer | ErrorAnswer | BrokenStream | None = None
    short_timeouts: tuple[str, ...] = ()
    request_fields: Mapping[str, Any] = field(default_factory=dict)

    def outcome(self, mode: Mode) -> WholeAnswer | ErrorAnswer | BrokenStream:
        return self.stream if mode == "stream" and self.stream is not None else self.unary


# --- Tidegate and its hosts --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ReceivedAnswer:
    """What the caller received, the number of requests that the metrics counted, and the access-log lines."""

    mode: Mode
    status: int
    body: bytes
    counted: float
    lines: list[dict[str, Any]]

    @property
    def outcome(self) -> WholeAnswer | ErrorAnswer | BrokenStream:
        """The outcome, read strictly: whatever does not conform to OpenAI's API is an `AssertionError`."""
        if self.status != 200:
            return ErrorAnswer(self.status, read_error(self.body)["code"])
        if self.mode == "unary":
            return WholeAnswer(tuple(read_answer(self.body, "chat", "m", ())["choices"]))
        answer_body = read_stream(self.body, "chat", "m", (), wants_usage=False)
        if "error" in answer_body:
            return BrokenStream(
                "".join(choice.get("content") or "" for choice in answer_body["choices"]), answer_body["error"]["code"]
            )
        return WholeAnswer(tuple(answer_body["choices"]))


class Stage:
    """Tidegate and the hosts behind it: `first` is behind the fault proxy `faults`, `second` is sound."""

    def __init__(
        self, url: str, first: ScenarioUpstream, second: ScenarioUpstream, faults: FaultProxy, log: list[dict[str, Any]]
    ) -> None:
        self.url = url
        self.first = first
        self.second = second
        self.faults = faults
        self._log = log

    async def ask(self, mode: Mode, **fields: Any) -> ReceivedAnswer:
        """Send one request on a connection of its own.

        Scripts and faults that wait for the caller to have read `CONTENT` continue then. The metrics and the log line
        are written a little after the last byte, so this waits for both.
        """
        written, counted = len(self._log), await self._counted()
        body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": mode == "stream"} | fields
        received = b""
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{self.url}/v1/chat/completions", json=body) as answer,
        ):
            async for piece in answer.content.iter_any():
                received += piece
                if CONTENT in received:
                    self._continue_scripts()
        async with asyncio.timeout(_LIMIT_S):
            while not (lines := [line for line in self._log[written:] if line["event"] == "request"]):  # noqa: ASYNC110 - there is no event
                await asyncio.sleep(_POLL_EVERY_S)
        return ReceivedAnswer(mode, answer.status, received, await self._counted() - counted, lines)

    async def is_in_flight(self, requests: int) -> None:
        """Wait until Tidegate has so many requests in flight."""
        while (await self._metric("tidegate_requests_in_flight")) < requests:
            continue

    @asynccontextmanager
    async def without_leaks(self):
        """Assert that no task and no file descriptor is left at the end of the block that was not there before."""
        await self._counted()  # a first request, so that what is opened only once is already open
        tasks, files = asyncio.all_tasks(), open_files()
        yield
        await until_none_left(lambda: asyncio.all_tasks() - tasks)
        await until_none_left(lambda: open_files() - files)

    def _continue_scripts(self) -> None:
        for waiting in (*self.first.calls, *self.faults.connections):
            waiting.go.set()

    async def _counted(self) -> float:
        return await self._metric("tidegate_requests_total")

    async def _metric(self, name: str) -> float:
        """The sum of a metric over all its labels."""
        async with aiohttp.ClientSession() as session, session.get(f"{self.url}/metrics") as answer:
            lines = (await answer.text()).splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if re.match(rf"{name}[{{ ]", line))


@asynccontextmanager
async def running_stage(
    *,
    targets: int = 1,
    short_timeouts: Mapping[str, float] = _NO_KEYS,
    base_url: str = _BEHIND_FAULTS,
    prepare=None,
    more: Mapping[str, Any] = _NO_KEYS,
    server: Mapping[str, Any] = _NO_KEYS,
):
    """A running `Stage`.

    Args:
        targets: 1 for the faulty host alone; 2 puts the sound host behind it. Each target is tried once.
        short_timeouts: the timeouts of the first host that must expire, in seconds, by name (see `_TIMEOUTS`).
        base_url: the base URL of the first host; `{port}` is the port of the fault proxy in front of it.
        prepare: called with the app before it starts.
        more: further config keys of the first host, which override the others.
        server: the section `server` of the config.
    """
    first, second = ScenarioUpstream(), ScenarioUpstream()
    with capture_logs() as log:
        async with first.running(), second.running(), FaultProxy(first.port).running() as faults:
            config = _config(base_url.format(port=faults.port), second.url, targets, short_timeouts, more)
            config += f"server: {json.dumps(dict(server))}\n"
            async with proxy.running_app(config, prepare=prepare) as (url, _):
                yield Stage(url, first, second, faults, log)


def _config(first: str, second: str, targets: int, short_timeouts: Mapping[str, float], more: Mapping[str, Any]) -> str:
    # the keep-alive is short, so that a connection kept in the pool is not taken for a leak
    first_keys = {f"{wait}_timeout_s": short_timeouts.get(wait, _GENEROUS_S) for wait in _TIMEOUTS}
    first_keys |= {"base_url": first, "keepalive_s": 0.03} | more
    there = ", ".join(f"{{upstream: {name}, model: there}}" for name in ("first", "second")[:targets])
    return f"""
routing: {{retry: {{repeats: 0, budget_per_s: 1000}}, health: {{failures: 1000, probe: false}}}}
upstreams:
  first: {json.dumps(first_keys)}
  second: {{base_url: "{second}", keepalive_s: 0.03}}
models: {{m: {{targets: [{there}]}}}}
"""


def open_files(process: int | Literal["self"] = "self") -> set[str]:
    """The open file descriptors of a process, by what they refer to, as their numbers are reused."""
    found = set()
    for number in Path(f"/proc/{process}/fd").iterdir():
        with suppress(FileNotFoundError):  # the descriptor of this listing
            found.add(str(number.readlink()))
    return found


async def until_none_left(leftovers: Callable[[], set[Any]]) -> None:
    """Wait until nothing is left, but not for ever: things close a little later."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_LIMIT_S):
            while leftovers():  # noqa: ASYNC110 - there is no event
                await asyncio.sleep(_POLL_EVERY_S)
    assert leftovers() == set()


# --- the checks ---------------------------------------------------------------------------------------------------


async def check(
    row: Row, mode: Mode, targets: Literal["one target", "two targets"], *, base_url: str = _BEHIND_FAULTS
) -> None:
    """Send the request of a row on a new stage, and compare the outcome, metrics, log and leaks."""
    count = TARGETS.index(targets) + 1
    async with running_stage(
        targets=count, short_timeouts=dict.fromkeys(row.short_timeouts, SHORT_S), base_url=base_url
    ) as stage:
        if row.script is not None:
            stage.first.play(row.script)
        if row.fault is not None:
            stage.faults.play(row.fault)
        await check_on_stage(stage, row.outcome(mode), mode, targets=count, **row.request_fields)


async def check_on_stage(
    stage: Stage,
    outcome: WholeAnswer | ErrorAnswer | BrokenStream,
    mode: Mode,
    *,
    targets: int = 1,
    **request_fields: Any,
) -> None:
    """Send a request on a given stage, and compare as `check` does."""
    stage.second.calls.clear()
    stage.second.play(streams(*text_stream(SECOND_TEXT)) if mode == "stream" else answers(completion(SECOND_TEXT)))
    tries_second = targets == 2 and isinstance(outcome, ErrorAnswer) and outcome.tries_another
    expected = text(SECOND_TEXT) if tries_second else outcome
    async with stage.without_leaks():
        received = await stage.ask(mode, **request_fields)
    _compare(received, expected)
    assert len(stage.second.calls) == tries_second


def _compare(received: ReceivedAnswer, expected: WholeAnswer | ErrorAnswer | BrokenStream) -> None:
    outcome = received.outcome
    if isinstance(expected, ErrorAnswer):
        expected = ErrorAnswer(expected.status, expected.code)
    assert expected == outcome
    assert received.counted == 1
    (line,) = received.lines
    assert line["status"] == expected.status
    assert line.get("error") == (
        None if isinstance(expected, WholeAnswer) else expected.code or "invalid_request_error"
    )
