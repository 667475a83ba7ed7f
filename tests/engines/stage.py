"""`Stage`: Tidegate as a process, in front of engines of its own; what the tests ask it and see of it."""

import asyncio
import json
import re
from collections import defaultdict, deque
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
from click.testing import CliRunner
from openai import AsyncOpenAI
from tidegate.cli.main import main

from tests.engines import sessions
from tests.fakes import proxy

ENDLESS = {"extra_body": {"ignore_eos": True}}  # to the end of the window, which takes ten seconds at least

_TIMEOUT_S = 600  # of one request; a busy machine generates a tenth as fast
_POLL_S = 0.1  # between two questions: without a pause they take the CPU from the engines
_SAMPLE = r"^{name}\{{[^\n]*\}} (\S+)$"


class Stage:
    """A running Tidegate; see `running`.

    Attributes:
        url: without /v1.
        config: its file.
        process: Tidegate's.
        client: OpenAI's, which tries nothing twice.
        session: for what the SDK has no word for; its root is `url`.
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
        """The engine's next log line of that event; those before it are passed over, unless it is down."""
        lines = self._lines[engine]
        while True:
            while lines:
                line = lines.popleft()
                if line["event"] == event:
                    return line
                assert line["event"] != "engine down", line
            raw = await self.process.stdout.readline()
            assert raw, f"the log ended without {event} of {engine}"
            told = json.loads(raw)
            self._lines[told.get("engine", "")].append(told)
            if told["event"] == "engine starting":
                self._leaders[told["engine"]] = told["pid"]

    async def ready(self, engine: str) -> float:
        """Wait until it is; how many seconds the start took."""
        return (await self.line(engine, "engine ready"))["took_s"]

    def leader(self, engine: str) -> int:
        """The session that the log has told last."""
        return self._leaders[engine]

    def processes(self, engine: str) -> list[int]:
        """Those of `leader`'s session."""
        return sessions.members(self._leaders[engine])

    async def metric(self, engine: str, name: str) -> float:
        """A metric of the engine, read from its own socket, as Tidegate reads it only once a second."""
        socket = aiohttp.UnixConnector(sessions.flag(self._leaders[engine], "--uds"))
        async with aiohttp.ClientSession("http://engine", connector=socket) as session, session.get("/metrics") as told:
            return float(re.search(_SAMPLE.format(name=name), await told.text(), re.MULTILINE)[1])

    async def until_running(self, engine: str, count: int) -> None:
        """Wait until the engine itself works on so many requests."""
        while await self.metric(engine, "vllm:num_requests_running") != count:  # noqa: ASYNC110 - another process
            await asyncio.sleep(_POLL_S)

    async def status(self, engine: str) -> dict:
        """What /readyz says of it."""
        async with self.session.get("/readyz") as told:
            return (await told.json())["engines"][engine]

    async def told(self, engine: str, state: str) -> dict:
        """What /readyz says of it as soon as it is in that state."""
        while (status := await self.status(engine))["state"] != state:  # noqa: ASYNC110 - the same
            await asyncio.sleep(_POLL_S)
        return status

    async def command(self, *arguments: str) -> str:
        """What `tidegate engines …` prints."""
        done = await asyncio.to_thread(CliRunner().invoke, main, ["engines", *arguments])
        assert done.exit_code == 0, done.stderr
        return done.stdout

    async def say(self, model: str, messages: list[dict], **fields):
        """The answer, at temperature 0."""
        return await self.client.chat.completions.create(model=model, messages=messages, temperature=0, **fields)


@asynccontextmanager
async def running(engines: dict[str, dict], folder: Path):
    """Tidegate with these engines, each behind a model of its name; as soon as it listens."""
    models = {name: {"targets": [{"engine": name}]} for name in engines}
    config = folder / "tidegate.yaml"
    routing = {"retry": {"repeats": 0}}  # what an engine fails with is looked at, not mended
    told = {"engines": engines, "models": models, "routing": routing}
    config.write_text(json.dumps(told), encoding="utf-8")  # JSON is YAML
    async with (
        proxy.process("--config", str(config)) as process,
        aiohttp.ClientSession(process.url) as session,
        AsyncOpenAI(base_url=f"{process.url}/v1", api_key="-", max_retries=0, timeout=_TIMEOUT_S) as client,
    ):
        yield Stage(process, config, client, session)
