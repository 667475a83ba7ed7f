"""Runs vLLM without Tidegate, to test the environment and the models of the other tests."""

import asyncio
import json
import os
import signal
import subprocess
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp

from tests.engines import cpu
from tidegate.engines.vllm import server as vllm_server

_POLL_S = 0.2
_STOP_S = 300  # an idle vLLM takes three seconds on an idle machine

_ARGS = cpu.ARGS | {"max_model_len": cpu.MAX_MODEL_LEN}


class Vllm:
    """A running server.

    Attributes:
        process: the server's process; it leads a session of its own.
        session: the HTTP session with the server.
    """

    def __init__(self, process: asyncio.subprocess.Process, session: aiohttp.ClientSession) -> None:
        self.process = process
        self.session = session

    async def chat(self, **fields) -> dict:
        """Send a chat request with temperature 0; returns the message of the answer."""
        body = {"model": "m", "temperature": 0, **fields}
        async with self.session.post("/v1/chat/completions", json=body) as answer:
            assert answer.status == 200, await answer.text()
            return (await answer.json())["choices"][0]["message"]

    async def status(self, **fields) -> int:
        """Send a chat request for at most one token; returns the HTTP status."""
        async with self.session.post("/v1/chat/completions", json={"model": "m", "max_tokens": 1, **fields}) as answer:
            return answer.status

    async def stop(self) -> int:
        """Send SIGTERM; returns the exit status."""
        self.process.terminate()
        return await asyncio.wait_for(self.process.wait(), _STOP_S)


@asynccontextmanager
async def serving(python: Path, checkpoint: Path, folder: Path, *flags: str):
    """Run a vLLM on a Unix socket in `folder`, yield it when it is ready, and kill its processes at the end."""
    path, output = folder / "vllm.sock", folder / "vllm.log"
    command = [python, vllm_server.__file__, checkpoint, "--served-model-name", "m", "--uds", path, *_flags(), *flags]
    with output.open("wb") as sink:
        process = await asyncio.create_subprocess_exec(
            *map(str, command),
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            env=os.environ | cpu.ENVIRONMENT,
            start_new_session=True,
        )
    try:
        async with aiohttp.ClientSession("http://vllm", connector=aiohttp.UnixConnector(str(path))) as session:
            while not await _answers(session):
                assert process.returncode is None, output.read_text(encoding="utf-8")[-4000:]
                await asyncio.sleep(_POLL_S)
            yield Vllm(process, session)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


async def _answers(session: aiohttp.ClientSession) -> bool:
    try:
        async with session.get("/health") as answer:
            return answer.status == 200
    except aiohttp.ClientError:
        return False


def _flags() -> list[str]:
    pairs = [(f"--{name.replace('_', '-')}", value) for name, value in _ARGS.items()]
    return [_text(part) for pair in pairs for part in pair if part is not True]


def _text(part: object) -> str:
    return json.dumps(part) if isinstance(part, dict) else str(part)
