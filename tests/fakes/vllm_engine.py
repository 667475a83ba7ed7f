"""`FakeVllm`: engines of `kind: vllm` whose vLLM is `engine_process.py`, observed and controlled by the test.

Tidegate starts the same command as always: its script `engines.vllm.server`, with vLLM's flags, by the Python of an
environment that has a package `vllm`. Here that package is a fake: it has only the modules that the script imports, and
accepts any flag.
"""

import asyncio
import json
import venv
from contextlib import asynccontextmanager
from pathlib import Path

from msgspec import structs
from openai import AsyncOpenAI

from tests.fakes import proxy
from tests.fakes.processes import until

_SERVE = """
import os
import engine_process

class ServeSubcommand:
    def subparser_init(self, subparsers): pass
    def validate(self, args): pass
    def cmd(self, args):
        habits = {"leaves_child"}
        if os.environ.get("VLLM_SERVER_DEV_MODE") == "1":
            habits.add("sleeps")
        if os.environ.get("VLLM_ALLOW_RUNTIME_LORA_UPDATING") == "True":
            habits.add("adapters")
        engine_process.main(habits, args.flags["uds"], args.flags, os.environ["FAKE_CONTROL"])
"""
_PARSER = """
class FlexibleArgumentParser:
    def __init__(self, **_): pass
    def add_subparsers(self, **_): pass
    def parse_args(self, arguments):
        self.download_dir, self.flags, name = None, {}, None
        for argument in arguments[2:]:
            if argument.startswith("--"):
                name = argument[2:]
                self.flags[name] = True
            else:
                self.flags[name] = argument
        return self
"""
_MODULES = {
    "vllm/entrypoints/cli/serve.py": _SERVE,
    "vllm/entrypoints/serve/utils/api_utils.py": "def cli_env_setup(): pass\n",
    "vllm/utils/argparse_utils.py": _PARSER,
    "vllm-0.32.0.dist-info/METADATA": "Name: vllm\nVersion: 0.32.0\n",
    "fakes.pth": f"{Path(__file__).parent}\n",
}
_R1 = {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "num_attention_heads": 4}
_R1_TEMPLATE = "{% if add_generation_prompt %}{{'<｜Assistant｜><think>\\n'}}{% endif %}"
BOTH = {name: {"targets": [{"engine": name}]} for name in ("r1", "v3")}  # each engine behind a model of its name


def make_environment(folder: Path) -> str:
    """Make a virtual environment with the fake vLLM; returns its Python."""
    builder = venv.EnvBuilder(symlinks=True)
    builder.create(folder)
    packages = next(folder.glob("lib/python3*/site-packages"))
    for name, text in _MODULES.items():
        file = packages / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return str(folder / "bin" / "python")


def make_checkpoint(folder: Path) -> str:
    """Make a checkpoint whose config is that of a distilled R1, without weights; returns its path."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(_R1))
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": _R1_TEMPLATE}))
    return str(folder)


class Start:
    """One process of the engine; `events` has the events that it has reported, in order."""

    def __init__(self, event: dict, writer: asyncio.StreamWriter) -> None:
        self.pid: int = event["pid"]
        self.flags: dict = event["flags"]
        self.events: list[dict] = []
        self.has_ended = False
        self._writer = writer
        self._changed = asyncio.Event()

    def heard(self, event: dict) -> None:
        self.events.append(event)
        self._changed.set()

    def end(self) -> None:
        self.has_ended = True
        self._changed.set()

    def all(self, what: str) -> list[dict]:
        return [event for event in self.events if event["what"] == what]

    async def until(self, what: str, number: int = 1) -> list[dict]:
        """Wait until the engine has reported `number` events of that kind; returns all of them."""
        while len(self.all(what)) < number:
            assert not self.has_ended, f"it ended without {what}"
            self._changed.clear()
            await self._changed.wait()
        return self.all(what)

    async def looks(self, number: int) -> None:
        """Wait until its metrics were read `number` more times."""
        await self.until("looked", len(self.all("looked")) + number)

    async def core(self) -> int:
        return (await self.until("core"))[0]["pid"]

    def steps(self, number: int | None = None) -> None:
        """Allow `number` more steps; None: no limit from now on."""
        self.tell("steps", number=number)

    def tell(self, what: str, **fields) -> None:
        self._writer.write(json.dumps({"do": what} | fields).encode() + b"\n")


class FakeVllm:
    """One engine of the config; `habits` has the habits of each start, the last ones are for all further starts too."""

    def __init__(self, name: str, home: "EngineFiles") -> None:
        self.name = name
        self.habits: list[str] = [""]
        self.starts: list[Start] = []
        self.home = home
        self._socket = str(home.folder / f"{name}.control")
        self._arrived = asyncio.Event()
        self._seen = 0

    def config(self, **keys) -> dict:
        """Return its entry for `engines` of the config; `keys` override the defaults."""
        defaults = {"kind": "vllm", "model": self.home.model, "python": self.home.python, "idle_canary_s": 0}
        return defaults | {"environment": {"FAKE_CONTROL": self._socket}} | keys

    async def next_start(self) -> Start:
        """Wait for the next start that this method has not returned yet; returns it."""
        while len(self.starts) <= self._seen:
            self._arrived.clear()
            await self._arrived.wait()
        self._seen += 1
        return self.starts[self._seen - 1]

    @asynccontextmanager
    async def listening(self):
        server = await asyncio.start_unix_server(self._hear, self._socket)
        try:
            yield self
        finally:
            server.close()

    async def _hear(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        start = Start(json.loads(await reader.readline()), writer)
        try:
            habits = self.habits.pop(0) if len(self.habits) > 1 else self.habits[0]
            writer.write(json.dumps({"habits": habits.split(",")}).encode() + b"\n")
            self.starts.append(start)
            self._arrived.set()
            while line := await reader.readline():
                start.heard(json.loads(line))
        except ConnectionError:
            pass
        finally:
            start.end()
            writer.close()


class EngineFiles:
    """The files that engines need: their Python, their model, and a folder for sockets."""

    def __init__(self, folder: Path, python: str) -> None:
        self.folder = folder
        self.python = python
        self.model = make_checkpoint(folder / "model")


class RunningTidegate:
    """Tidegate in this process, with short pauses, and a client of OpenAI's SDK."""

    def __init__(self, url: str, app) -> None:
        self.url = url
        self.app = app
        self.client = self.another_client()

    def another_client(self) -> AsyncOpenAI:
        return AsyncOpenAI(base_url=f"{self.url}/v1", api_key="unused", max_retries=0)

    def engine(self, name: str = "r1"):
        return self.app.engines.by_name[name].engine

    async def until(self, state: str, name: str = "r1") -> None:
        """Wait until the engine is in that state."""

        def holds() -> bool:
            status = self.engine(name).status
            assert status.state == state or "not started again by itself" not in status.reason, status.reason
            return status.state == state

        await until(holds)

    def ask(self, model: str = "m", *, stream: bool = False, **fields):
        """Send one chat request with the SDK."""
        message = {"role": "user", "content": "Hi"}
        return self.client.chat.completions.create(model=model, messages=[message], stream=stream, **fields)


def sharing_gpu(vllm, other, **keys) -> dict:
    """Return the config of the engines `r1` and `v3`, of which only one at a time fits on the one GPU."""
    keys |= {"gpus": [0], "gpu_memory_utilization": 0.8, "start": "on_demand"}
    return {"r1": vllm.config(**keys), "v3": other.config(**keys)}


async def text(answer) -> str:
    """Return the content of an answer that is not streamed."""
    return (await answer).choices[0].message.content


@asynccontextmanager
async def running_app(
    engines: dict,
    targets: dict | None = None,
    *,
    upstream=None,
    clock=None,
    grace_s: float = 5.0,
    repeats: int = 0,
    server=None,
    swap=None,
):
    """Run Tidegate with these engines.

    By default the model `m` has the first engine as its target and then, if one is given, the upstream.
    """
    config = config_of(engines, targets, upstream) | {"routing": {"retry": {"repeats": repeats}}}
    config |= {"server": server or {}, "swap": swap or {}}
    async with proxy.running_app(json.dumps(config), grace_s=grace_s, clock=clock, prepare=_shorten_intervals) as (
        url,
        app,
    ):
        tidegate = RunningTidegate(url, app)
        async with tidegate.client:
            yield tidegate


def config_of(engines: dict, targets: dict | None = None, upstream=None) -> dict:
    """Return the config for `running_app`, without the keys for retries, server and swap."""
    listed = [{"engine": name} for name in engines][:1]
    config = {"engines": engines}
    if upstream is not None:
        config["upstreams"] = {"host": {"base_url": upstream.url, "keepalive_s": 0.5}}
        listed.append({"upstream": "host", "model": "there"})
    return config | {"models": targets or {"m": {"targets": listed}}}


def _shorten_intervals(app) -> None:
    """Shorten the intervals of checks and pauses, since the fake engines answer at once."""
    for assembled in app.engines.by_name.values():
        supervisor = assembled.engine
        shortened = structs.replace(supervisor.settings, backoff_s=0.01, poll_s=0.01, scrape_s=0.02)
        supervisor.reconfigure(supervisor.kind, shortened)
