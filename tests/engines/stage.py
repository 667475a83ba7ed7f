"""`Stage`: Tidegate as a child process with its engines, and the requests and checks that the tests make."""

import asyncio
import json
import re
from collections import defaultdict, deque
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
from click.testing import CliRunner
from openai import AsyncOpenAI

from tests.engines import sessions
from tests.fakes import proxy
from tidegate.cli.main import main

ENDLESS = {"extra_body": {"ignore_eos": True}}  # generates to the end of the window, which takes at least ten seconds

_TIMEOUT_S = 600  # for one request; a busy machine generates ten times slower
_POLL_S = 0.1  # pause between two polls: without it the polls take the CPU from the engines
_SAMPLE = r"^{name}\{{[^\n]*\}} (\S+)$"


class Stage:
    """A running Tidegate; see `running`.

    Attributes:
        url: the base URL, without `/v1`.
        config: the config file.
        process: the process of Tidegate.
        client: the client of OpenAI's SDK, without retries.
        session: an HTTP session for requests that the SDK does not have; its root is `url`.
    """

    def __init__(
        self, running: proxy.Process, config: Path, client: AsyncOpenAI, session: aiohttp.ClientSession
    ) -> None:
        self.url = running.url
        self.config = config
        self.process = running.process
        self.client = client
        self.session = session
        self._leaders: dict[str, int] = {}
        self._lines: dict[str, deque[dict]] = defaultdict(deque)

    async def line(self, engine: str, event: str) -> dict:
        """Return the engine's next log line of that event; lines before it are skipped, but "engine down" fails."""
        lines = self._lines[engine]
        while True:
            while lines:
                line = lines.popleft()
                if line["event"] == event:
                    return line
                assert line["event"] != "engine down", line
            raw = await self.process.stdout.readline()
            assert raw, f"the log ended without {event} of {engine}"
            entry = json.loads(raw)
            self._lines[entry.get("engine", "")].append(entry)
            if entry["event"] == "engine starting":
                self._leaders[entry["engine"]] = entry["pid"]

    async def ready(self, engine: str) -> float:
        """Wait until the engine is ready; returns how many seconds the start took."""
        return (await self.line(engine, "engine ready"))["took_s"]

    def leader(self, engine: str) -> int:
        """Return the session id of the engine's last start, from the log."""
        return self._leaders[engine]

    def processes(self, engine: str) -> list[int]:
        """Return the pids of the engine's processes."""
        return sessions.members(self._leaders[engine])

    async def metric(self, engine: str, name: str) -> float:
        """Return a metric of the engine, read from its own socket, because Tidegate reads it only once a second."""
        socket = aiohttp.UnixConnector(sessions.flag(self._leaders[engine], "--uds"))
        async with (
            aiohttp.ClientSession("http://engine", connector=socket) as session,
            session.get("/metrics") as response,
        ):
            return float(re.search(_SAMPLE.format(name=name), await response.text(), re.MULTILINE)[1])

    async def until_running(self, engine: str, count: int) -> None:
        """Wait until the engine itself reports `count` running requests."""
        while await self.metric(engine, "vllm:num_requests_running") != count:  # noqa: ASYNC110 - another process
            await asyncio.sleep(_POLL_S)

    async def status(self, engine: str) -> dict:
        """Return the entry of the engine in /readyz."""
        async with self.session.get("/readyz") as response:
            return (await response.json())["engines"][engine]

    async def until_state(self, engine: str, state: str) -> dict:
        """Wait until /readyz shows the engine in that state; returns its entry."""
        while (status := await self.status(engine))["state"] != state:  # noqa: ASYNC110 - another process
            await asyncio.sleep(_POLL_S)
        return status

    async def command(self, *arguments: str) -> str:
        """Run `tidegate engines ARGUMENTS`; returns its output."""
        done = await asyncio.to_thread(CliRunner().invoke, main, ["engines", *arguments])
        assert done.exit_code == 0, done.stderr
        return done.stdout

    async def chat(self, model: str, messages: list[dict], **fields):
        """Send a chat request with temperature 0; returns the answer."""
        return await self.client.chat.completions.create(model=model, messages=messages, temperature=0, **fields)


@asynccontextmanager
async def running(engines: dict[str, dict], folder: Path):
    """Run Tidegate with these engines, each with a model of the same name; yields as soon as Tidegate listens."""
    models = {name: {"targets": [{"engine": name}]} for name in engines}
    config = folder / "tidegate.yaml"
    routing = {"retry": {"repeats": 0}}  # the tests check errors of engines, so no retry may hide them
    content = {"engines": engines, "models": models, "routing": routing}
    config.write_text(json.dumps(content), encoding="utf-8")  # JSON is YAML
    async with (
        proxy.process("--config", str(config)) as process,
        aiohttp.ClientSession(process.url) as session,
        AsyncOpenAI(base_url=f"{process.url}/v1", api_key="-", max_retries=0, timeout=_TIMEOUT_S) as client,
    ):
        yield Stage(process, config, client, session)
