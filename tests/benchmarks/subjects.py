"""The measured subjects: Tidegate, nginx and a bare relay, each as one process in front of the same mock upstream."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import nginx
from callers import send_request
from processes import free_port, running, wait_for

KEY = "a-made-up-key-for-loopback"
CHUNKS = 64  # in a stream: role, 61 with text, finish reason, usage

_CONFIG = """\
server: {{port: {port}}}
auth: {{keys: ["file:{key_file}"]}}
telemetry: {{log_format: json}}
upstreams:
  mock: {{base_url: "http://127.0.0.1:{mock}/v1", dialect: vllm, max_connections: 4096}}
  closed: {{base_url: "http://127.0.0.1:{closed}/v1", dialect: vllm}}
routing: {{health: {{failures: 1000}}}}
models:
  json: {{targets: [{{upstream: mock, model: json}}]}}
  stream: {{targets: [{{upstream: mock, model: stream}}]}}
  paced: {{targets: [{{upstream: mock, model: paced}}]}}
  failover: {{targets: [{{upstream: closed, model: json}}, {{upstream: mock, model: json}}]}}
"""


@dataclass(frozen=True)
class Subject:
    """A process that serves requests on a loopback port."""

    name: str
    port: int
    pid: int


@dataclass(frozen=True)
class Bench:
    """The processes that run during a measurement, and their directory."""

    directory: Path
    mock: Subject
    subjects: tuple[Subject, ...]

    @property
    def tidegate(self) -> Subject:
        return next(subject for subject in self.subjects if subject.name == "tidegate")


def body(model: str, *, texts: int | None = None) -> str:
    """A small chat request for one of the mock's models, as compact JSON."""
    options = "" if model in {"json", "failover"} else ',"stream":true,"stream_options":{"include_usage":true}'
    limit = "" if texts is None else f',"max_tokens":{texts}'
    messages = '[{"role":"system","content":"You are helpful."},{"role":"user","content":"Say hello."}]'
    return f'{{"model":"{model}","messages":{messages},"temperature":0.7{limit}{options}}}'


@contextmanager
def bench(directory: Path) -> Iterator[Bench]:
    """Start the mock and all subjects, check that each gives the expected answers, and end them on every exit."""
    with ExitStack() as stack:
        port = free_port()
        pid = stack.enter_context(running(nginx.command("mock.conf", directory, port=port), directory / "mock.out"))
        wait_for(port, "GET", "/v1/models")
        mock = Subject("mock", port, pid)
        starters = (_nginx, _relay, tidegate)
        subjects = tuple(stack.enter_context(start(directory, mock.port)) for start in starters)
        for subject in (mock, *subjects):
            _check(subject)
        yield Bench(directory, mock, subjects)


@contextmanager
def tidegate(directory: Path, mock_port: int) -> Iterator[Subject]:
    """Start Tidegate with keys and the access log; yields when it has answered a request."""
    port = free_port()
    key_file, config = directory / "key", directory / f"tidegate-{port}.yaml"
    key_file.write_text(KEY)
    config.write_text(_CONFIG.format(port=port, key_file=key_file, mock=mock_port, closed=free_port()))
    command = [sys.executable, "-m", "tidegate", "serve", "--config", str(config)]
    with running(command, directory / f"tidegate-{port}.out") as pid:
        wait_for(port, "POST", "/v1/chat/completions", body=body("json"), key=KEY)
        yield Subject("tidegate", port, pid)


@contextmanager
def _nginx(directory: Path, mock_port: int) -> Iterator[Subject]:
    port = free_port()
    command = nginx.command("relay.conf", directory, port=port, upstream=mock_port)
    with running(command, directory / "relay-nginx.out") as pid:
        wait_for(port, "GET", "/v1/models")
        yield Subject("nginx", port, pid)


@contextmanager
def _relay(directory: Path, mock_port: int) -> Iterator[Subject]:
    port = free_port()
    command = [sys.executable, str(nginx.HERE / "relay.py"), str(port), str(mock_port)]
    with running(command, directory / "relay-python.out") as pid:
        wait_for(port, "POST", "/v1/chat/completions", body=body("json"))
        yield Subject("bare relay", port, pid)


def _check(subject: Subject) -> None:
    """Check the answers of a subject: errors would be measured as fast answers."""
    status, answer = send_request(subject.port, body("json"), KEY)
    if status != 200 or b'"content":"Hello! How can I help you today?"' not in answer:
        raise SystemExit(f"{subject.name}: not the JSON answer expected: {status} {answer[:200]!r}")
    status, answer = send_request(subject.port, body("stream"), KEY)
    if status != 200 or answer.count(b"data: {") != CHUNKS or not answer.endswith(b"data: [DONE]\n\n"):
        raise SystemExit(f"{subject.name}: not the stream expected: {status} {answer[:200]!r}")
