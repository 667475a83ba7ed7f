"""Scenarios: what a host sends, as data (`tests/data/DIALECT/scenarios.yaml`), the expected outcome, and that host.

Scenarios from public reports are in `reports.yaml` beside it; `tests/data/REPORTS.md` lists them.

uv run python -m tests.fakes.scenarios          # prints all of them as JSON
uv run python -m tests.fakes.scenarios serve    # runs Tidegate in front of the host until stdin ends; the first line
                                                # contains its URL
"""

import asyncio
import functools
import json
import re
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import aiohttp
import msgspec
import structlog
import yaml

from tests.fakes import proxy
from tests.fakes.upstream import SSE_HEAD, Call, ScenarioUpstream, answers, streams
from tests.fakes.wire import chunk, completion, event, text_stream
from tidegate.config.cards import Card
from tidegate.config.upstreams import DialectName

DATA = Path(__file__).parents[1] / "data"
MODES = ("unary", "stream")
# The numbered rows of the contract's section B.
ROWS = (
    *(str(number) for number in range(1, 77)),
    *(f"76{letter}" for letter in "abcdefghijklmnopqrst"),
    *(str(number) for number in range(77, 106)),
    "105b",
    *(str(number) for number in range(106, 205)),
)

Mode = Literal["unary", "stream"]
Endpoint = Literal["chat", "completions", "embeddings"]

PATHS: Mapping[Endpoint, str] = {
    "chat": "/chat/completions",
    "completions": "/completions",
    "embeddings": "/embeddings",
}
_REQUESTS: Mapping[Endpoint, dict[str, Any]] = {
    "chat": {"messages": [{"role": "user", "content": "hi"}]},
    "completions": {"prompt": "hi"},
    "embeddings": {"input": "hi"},
}
_READ_BYTES = 64
_EVENT_END = re.compile(rb"(?<=\n\n)|(?<=\r\n\r\n)")
_API_VERSION = "2024-10-21"
_DEPLOYMENTS = "azure-deployments"
_STEM = re.compile(r"(?P<row>\d+[a-z]?)_[a-z0-9_]+")
_REPORT_STEM = re.compile(r"report_[a-z0-9_]+")
_REPORT = re.compile(r"[\w.-]+/[\w.-]+#\d+")
_BOOKS = ("scenarios.yaml", "reports.yaml")
_FILE = re.compile(r"(?P<stem>[^.]+)(\.(?P<status>\d{3}))?\.(?P<kind>json|sse|txt|html)")
_CONTENT_TYPES = {
    "json": "application/json",
    "sse": "text/event-stream",
    "txt": "text/plain; charset=utf-8",
    "html": "text/html",
}
_NAMES = {  # the fields that hold the reasoning, by the requested format
    "reasoning_content": ("reasoning_content",),
    "deepseek": ("reasoning_content",),
    "reasoning": ("reasoning",),
    "parsed": ("reasoning",),
    "both": ("reasoning_content", "reasoning"),
    "think_tags": (),
    "raw": (),
    "none": (),
    "hidden": (),
}
_ERROR_TYPES = {400: "invalid_request_error", 404: "invalid_request_error", 429: "rate_limit_error"}


# --- the expected outcome -----------------------------------------------------------------------------------------


class ToolCall(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A call; `id` is given only if the host's own id must be kept."""

    name: str | None = None
    arguments: str | None = None
    custom: dict[str, str] | None = None
    id: str | None = None
    extra_content: dict[str, Any] | None = None


class Choice(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One choice; a field that is left out must be missing (`content`: must be null)."""

    content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: list[ToolCall] = []
    finish: str | None = None
    logprobs: list[Any] | dict[str, Any] | None = None
    annotations: list[Any] | None = None
    audio: dict[str, Any] | None = None
    function_call: dict[str, str] | None = None
    reasoning_details: list[Any] | None = None
    extra_content: dict[str, Any] | None = None
    images: list[Any] | None = None


class Failure(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """An error; without `status` it is sent in band. `message` is a part of the real message."""

    status: int | None = None
    code: str | None = None
    param: str | None = None
    type: str | None = None
    message: str = ""


class Outcome(Choice, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a caller must receive; a single choice is written without its list."""

    choices: list[Choice] = []
    usage: dict[str, Any] | None = None
    error: Failure | None = None
    embeddings: list[list[float] | str] | None = None
    service_tier: str | None = None
    system_fingerprint: str | None = None
    moderation: dict[str, Any] | None = None

    @property
    def is_refusal(self) -> bool:
        """Return whether it is an error with a status, and nothing else."""
        return self.error is not None and self.error.status is not None

    def plain(self) -> dict[str, Any]:
        """Return it as comparable JSON: `choices` or `embeddings`, `usage`, `error`."""
        if self.is_refusal:
            return {"error": self._plain_error()}
        plain: dict[str, Any] = {}
        if self.embeddings is not None:
            plain["embeddings"] = self.embeddings
        else:
            alone = msgspec.convert(msgspec.to_builtins(self), _Lenient)
            plain["choices"] = [msgspec.to_builtins(choice) for choice in self.choices or [alone]]
        beside = {name: getattr(self, name) for name in ("service_tier", "system_fingerprint", "moderation")}
        plain |= {name: value for name, value in beside.items() if value is not None}
        if self.usage is not None:
            plain["usage"] = self.usage
        if self.error is not None:
            plain["error"] = self._plain_error()
        return plain

    def _plain_error(self) -> dict[str, Any]:
        error = msgspec.to_builtins(self.error)
        if self.is_refusal and self.error.type is None:
            error["type"] = _ERROR_TYPES.get(self.error.status, "upstream_error")
        return error


class _Lenient(Choice, kw_only=True, forbid_unknown_fields=False, omit_defaults=True):
    """Reads the fields of the choice from an outcome, and ignores the others."""


class Entry(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One entry of a `scenarios.yaml` (`rows`) or a `reports.yaml` (`report`: OWNER/REPOSITORY#NUMBER).

    `content_type` is that of the host's answer, if it differs from that of the file's suffix.
    """

    about: str
    rows: list[str | int] = []
    report: str = ""
    content_type: str | None = None
    outcome: Outcome | None = None
    stream_outcome: Outcome | None = None
    card: dict[str, Any] | None = None
    headers: dict[str, str] = {}
    request: dict[str, Any] = {}
    endpoint: Endpoint = "chat"
    sent: dict[str, Any] = {}
    absent: list[str] = []
    path: str | None = None
    adjusted: str | None = None
    answer: Literal["plain"] | None = None


@dataclass(frozen=True)
class Answer:
    """What the host sends in one mode."""

    status: int
    content_type: str
    body: bytes


@dataclass(frozen=True, repr=False)
class Scenario:
    """A scenario that can be played. Tidegate itself refuses the request in those `modes` that have no answer."""

    dialect: str
    stem: str
    entry: Entry
    answers: Mapping[Mode, Answer]
    modes: Sequence[Mode]

    def __repr__(self) -> str:
        return f"<{self.name}: {self.entry.about}>"

    @property
    def name(self) -> str:
        """Return the public name of the model, from which the host finds out what to play."""
        return f"{self.dialect}/{self.stem}"

    @property
    def rows(self) -> list[str]:
        return [str(row) for row in self.entry.rows]

    @property
    def reasoning_names(self) -> tuple[str, ...]:
        """Return the fields in which the caller requests the reasoning."""
        headers = {name.lower(): value for name, value in self.entry.headers.items()}
        format_ = headers.get("x-tidegate-reasoning") or self.entry.request.get("reasoning_format")
        return _NAMES.get(format_, ("reasoning_content",))

    def outcome(self, mode: Mode) -> Outcome:
        if mode == "stream" and self.entry.stream_outcome is not None:
            return self.entry.stream_outcome
        return self.entry.outcome or _OK[self.entry.endpoint]

    def body(self, mode: Mode) -> dict[str, Any]:
        """Return the request body; a stream is requested with its usage."""
        body = {"model": self.name} | _REQUESTS[self.entry.endpoint] | self.entry.request
        if mode == "stream":
            body = {"stream_options": {"include_usage": True}} | body | {"stream": True}
        return body

    def dump(self) -> dict[str, Any]:
        """Return what a test harness in another language needs."""
        modes = {mode: {"request": self.body(mode), "outcome": self.outcome(mode).plain()} for mode in self.modes}
        return {
            "name": self.name,
            "dialect": self.dialect,
            "rows": self.rows,
            "about": self.entry.about,
            "endpoint": self.entry.endpoint,
            "headers": self.entry.headers,
            "fields": self.entry.request,
            "reasoning_names": self.reasoning_names,
            "modes": modes,
        }


# --- the files ----------------------------------------------------------------------------------------------------


@dataclass
class Book:
    """All scenarios. `problems` describes what is wrong in the files; scenarios with problems are left out."""

    scenarios: list[Scenario] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)

    @property
    def rows(self) -> set[str]:
        """Return the rows that have a scenario."""
        return {row for scenario in self.scenarios for row in scenario.rows}


@functools.cache
def read_book(data: Path = DATA) -> Book:
    """Read the scenarios, and `rows.yaml`, which gives the reasons for rows without one."""
    book = Book()
    for folder in sorted({file.parent for name in _BOOKS for file in data.glob(f"*/{name}")}):
        _read_dialect(folder, book)
    reasons = data / "rows.yaml"
    if reasons.exists():
        book.reasons = {str(row): reason for row, reason in (_load(reasons, book) or {}).items()}
    return book


def _read_dialect(folder: Path, book: Book) -> None:
    dialect = folder.name
    if dialect not in get_args(DialectName):
        book.problems.append(f"{folder}: no dialect is called so")
        return
    files = _files(folder, book)
    for file in filter(Path.exists, (folder / name for name in _BOOKS)):
        for stem, raw in (_load(file, book) or {}).items():
            try:
                book.scenarios.append(_scenario(dialect, stem, raw, files.pop(stem, {})))
            except ValueError as error:  # msgspec.ValidationError is one
                book.problems.append(f"{dialect}/{stem}: {error}")
    book.problems += [f"{dialect}/{stem}: files without a scenario" for stem in files]


def _files(folder: Path, book: Book) -> dict[str, dict[str, Answer]]:
    """Return the answers by stem and kind: `json`, `sse` or `status`."""
    found: dict[str, dict[str, Answer]] = {}
    for path in sorted(folder.iterdir()):
        if path.name in _BOOKS:
            continue
        match = _FILE.fullmatch(path.name)
        if match is None or (match["status"] is None and match["kind"] not in {"json", "sse"}):
            book.problems.append(f"{folder.name}/{path.name}: what kind of file is this?")
            continue
        kinds = found.setdefault(match["stem"], {})
        kind = "status" if match["status"] else match["kind"]
        if kind in kinds:
            book.problems.append(f"{folder.name}/{path.name}: a second answer with a status")
        kinds[kind] = Answer(int(match["status"] or 200), _CONTENT_TYPES[match["kind"]], path.read_bytes())
    return found


def _scenario(dialect: str, stem: str, raw: object, files: Mapping[str, Answer]) -> Scenario:
    entry = msgspec.convert(raw, Entry)
    msgspec.convert(entry.card or {}, Card)
    if entry.report:
        _check_report(stem, entry.report)
    else:
        _check_rows(stem, [str(row) for row in entry.rows])
    if entry.answer is not None:
        if files:
            raise ValueError("`answer` and files at once")
        files = _plain_answers(dialect, entry.endpoint)
    answered = {"unary": files.get("json") or files.get("status"), "stream": files.get("sse") or files.get("status")}
    if entry.endpoint == "embeddings":
        del answered["stream"]
    modes = tuple(mode for mode, answer in answered.items() if answer is not None) or tuple(answered)
    scenario = Scenario(dialect, stem, entry, {mode: answered[mode] for mode in modes if answered[mode]}, modes)
    _check_outcomes(scenario)
    return scenario


def _check_rows(stem: str, rows: Sequence[str]) -> None:
    match = _STEM.fullmatch(stem)
    if match is None:
        raise ValueError("a name is ROW_slug")
    if unknown := set(rows) - set(ROWS):
        raise ValueError(f"no such rows: {sorted(unknown)}")
    if match["row"] not in rows:
        raise ValueError(f"row {match['row']} is in the name, not in `rows`")


def _check_report(stem: str, report: str) -> None:
    if _REPORT_STEM.fullmatch(stem) is None:
        raise ValueError("a report's name is report_slug")
    if _REPORT.fullmatch(report) is None:
        raise ValueError("a report is OWNER/REPOSITORY#NUMBER")


def _check_outcomes(scenario: Scenario) -> None:
    entry = scenario.entry
    if entry.outcome is None and entry.answer is None and "unary" in scenario.modes:
        raise ValueError("no `outcome`")
    if entry.stream_outcome is not None and "stream" not in scenario.modes:
        raise ValueError("`stream_outcome`, but no .sse")
    if entry.outcome is None and entry.stream_outcome is None and entry.answer is None:
        raise ValueError("no `outcome`")
    if not scenario.answers and not all(scenario.outcome(mode).is_refusal for mode in scenario.modes):
        raise ValueError("no bytes of the host, and the outcome is not an error with a status")


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """Reads `1e-6` as a number, and refuses duplicate keys."""

    def construct_mapping(self, node, deep=False):  # noqa: FBT002 - PyYAML's signature
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if duplicates := {key for key in keys if keys.count(key) > 1}:
            raise yaml.constructor.ConstructorError(None, None, f"twice: {duplicates}", node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+"), list("-+0123456789")
)


def _load(file: Path, book: Book) -> dict | None:
    try:
        loaded = yaml.load(file.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 - a safe loader
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        book.problems.append(f"{file}: {error}")
        return None
    if isinstance(loaded, dict | None):
        return loaded
    book.problems.append(f"{file}: not a mapping")
    return None


# --- the plain answer ---------------------------------------------------------------------------------------------

_USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
_OK: Mapping[Endpoint, Outcome] = {
    "chat": Outcome(content="ok", finish="stop", usage=_USAGE),
    "completions": Outcome(content="ok", finish="stop", usage=_USAGE),
    "embeddings": Outcome(embeddings=[[0.5, -2.0]], usage={"prompt_tokens": 3, "total_tokens": 3}),
}


def _plain_answers(dialect: str, endpoint: Endpoint) -> dict[str, Answer]:
    """Return the answers for `answer: plain`, in which the host says "ok"."""
    whole, events = completion("ok"), text_stream("ok", usage=_USAGE)
    if endpoint == "completions":
        choice = {"index": 0, "text": "ok", "logprobs": None, "finish_reason": "stop"}
        whole = json.dumps({"object": "text_completion", "choices": [choice], "usage": _USAGE}).encode()
        events = [event(chunk(choices=[choice], usage=_USAGE)), b"data: [DONE]\n\n"]
    elif endpoint == "embeddings":
        item = {"object": "embedding", "index": 0, "embedding": [0.5, -2.0]}
        whole = json.dumps({"data": [item], "usage": {"prompt_tokens": 3, "total_tokens": 3}}).encode()
    elif dialect == "meta_llama_native":
        whole, events = _plain_native()
    return {
        "json": Answer(200, _CONTENT_TYPES["json"], whole),
        "sse": Answer(200, _CONTENT_TYPES["sse"], b"".join(events)),
    }


def _plain_native() -> tuple[bytes, list[bytes]]:
    counts = {f"num_{name}": count for name, count in _USAGE.items()}
    metrics = [{"metric": name, "value": value, "unit": "tokens"} for name, value in counts.items()]
    content = {"type": "text", "text": "ok"}
    message = {"role": "assistant", "content": content, "stop_reason": "stop"}
    events = [
        {"event_type": "start", "delta": {"type": "text", "text": ""}},
        {"event_type": "progress", "delta": content},
        {"event_type": "complete", "delta": {"type": "text", "text": ""}, "stop_reason": "stop"},
        {"event_type": "metrics", "delta": {"type": "text", "text": ""}, "metrics": metrics},
    ]
    whole = json.dumps({"completion_message": message, "metrics": metrics}).encode()
    return whole, [event(json.dumps({"event": each}).encode()) for each in events]


# --- the host -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Received:
    """A request as the host received it; `path` is below the base URL."""

    path: str
    headers: Mapping[str, str]
    body: Mapping[str, Any]


async def _at_once() -> None:
    """Return at once, if no caller has to read first."""


class ScenarioHost:
    """A script for `ScenarioUpstream`: all hosts, each below `/DIALECT/v1`; the model is the scenario.

    Attributes:
        received: the last request of each scenario in each mode.
        until_read: waits until the caller has read what was written. It is awaited between the events of a stream that
            fails in band: if the error arrived together with the first event, Tidegate would rightly report it by its
            status.
    """

    def __init__(self, scenarios: Sequence[Scenario]) -> None:
        self._scenarios = {scenario.name: scenario for scenario in scenarios}
        self.received: dict[tuple[str, Mode], Received] = {}
        self.until_read: Callable[[], Awaitable[None]] = _at_once

    async def __call__(self, call: Call) -> None:
        if call.method == "GET":
            await answers(b'{"object":"list","data":[]}')(call)
            return
        body = json.loads(call.body)
        mode: Mode = "stream" if body.get("stream") else "unary"
        dialect = call.path.split("/")[1]
        deployment = re.search(r"/deployments/([^/]+)/", call.path)
        model = deployment[1] if deployment else body["model"].rpartition("/")[2]
        scenario = self._scenarios.get(f"{dialect}/{model}")
        if scenario is None:
            await _send_error(call, 404, f"no scenario {dialect}/{model}")
            return
        path = call.path.removeprefix(f"/{dialect}/v1")
        self.received[scenario.name, mode] = Received(path, call.headers, body)
        answer = scenario.answers.get(mode)
        if answer is None:
            await _send_error(call, 500, f"{scenario.name} has no {mode} answer, but was asked for one")
        elif scenario.entry.content_type is not None:
            await answers(answer.body, status=answer.status, content_type=scenario.entry.content_type)(call)
        elif answer.content_type != _CONTENT_TYPES["sse"]:
            await answers(answer.body, status=answer.status, content_type=answer.content_type)(call)
        else:
            await self._stream(call, scenario, answer.body)

    async def _stream(self, call: Call, scenario: Scenario, body: bytes) -> None:
        outcome = scenario.outcome("stream")
        if outcome.is_refusal:
            await streams(*([body] if body else []))(call)
        elif outcome.error is None:
            # the stream is cut at any byte, not at the ends of events or characters
            await streams(*(body[at : at + _READ_BYTES] for at in range(0, len(body), _READ_BYTES)))(call)
        else:
            await call.write(SSE_HEAD)
            for part in _EVENT_END.split(body):
                if part and not call.gone.is_set():
                    await call.chunk(part)
                    await self.until_read()
            await call.end()


async def _send_error(call: Call, status: int, message: str) -> None:
    await answers(json.dumps({"error": {"message": f"ScenarioHost: {message}"}}).encode(), status=status)(call)


# --- Tidegate in front of it --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stage:
    """Tidegate at `url` (without /v1), and the host behind it."""

    url: str
    host: ScenarioHost


@asynccontextmanager
async def playing(scenarios: Sequence[Scenario]):
    """Yield a `Stage` for these scenarios."""
    host, upstream = ScenarioHost(scenarios), ScenarioUpstream()
    upstream.play(host)
    async with (
        aiohttp.ClientSession() as session,
        upstream.running(),
        proxy.serving(_config(scenarios, upstream.url.removesuffix("/v1"))) as url,
    ):

        async def until_read() -> None:
            # Tidegate uses one event loop, so it answers this request only after it has read what was written before
            with suppress(aiohttp.ClientError):  # at the end Tidegate has stopped
                for _ in range(2):
                    await (await session.get(f"{url}/livez")).read()

        host.until_read = until_read
        yield Stage(url, host)


def _config(scenarios: Sequence[Scenario], base_url: str) -> str:
    """Return the config: one upstream for each dialect, one model and one card for each scenario; JSON is YAML."""
    upstreams: dict[str, Any] = {
        name: {"base_url": f"{base_url}/{name}/v1", "dialect": name}
        for name in {scenario.dialect for scenario in scenarios}
    }
    if "azure" in upstreams:
        upstreams[_DEPLOYMENTS] = upstreams["azure"] | {"api_version": _API_VERSION}
    models, cards = {}, {}
    for scenario in scenarios:
        target = {"upstream": _upstream(scenario), "model": scenario.stem}
        if scenario.entry.card is not None:
            target["card"] = f"{scenario.dialect}.{scenario.stem}"
            cards[target["card"]] = scenario.entry.card
        models[scenario.name] = {"targets": [target]}
    return json.dumps({"upstreams": upstreams, "models": models, "cards": cards})


def _upstream(scenario: Scenario) -> str:
    is_deployment = (scenario.entry.path or "").startswith("/openai/deployments/")
    return _DEPLOYMENTS if is_deployment else scenario.dialect


# --- for test harnesses in other languages ------------------------------------------------------------------------


async def _serve(scenarios: Sequence[Scenario]) -> None:
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    async with playing(scenarios) as stage:
        print(json.dumps({"url": stage.url, "scenarios": [scenario.dump() for scenario in scenarios]}), flush=True)
        await asyncio.to_thread(sys.stdin.read)


def _main() -> None:
    book = read_book()
    print(*book.problems, sep="\n", file=sys.stderr)
    if sys.argv[1:] == ["serve"]:
        asyncio.run(_serve(book.scenarios))
    else:
        print(json.dumps([scenario.dump() for scenario in book.scenarios], indent=1))


if __name__ == "__main__":
    _main()
