"""A log that is not read, or cannot be written, blocks neither requests nor the shutdown."""

import asyncio
import os
import re
import signal
import sys
from contextlib import contextmanager

import aiohttp
import pytest

from tests.fakes import proxy
from tests.fakes.upstream import answers
from tests.fakes.wire import completion
from tidegate.entrypoints.server import choose_address

REQUEST = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
LIMIT_S = 30.0


@pytest.fixture
def file(tmp_path, config, upstream):
    upstream.play(answers(completion("Hi")))
    path = tmp_path / "tidegate.yaml"
    path.write_text(config)
    return str(path)


@contextmanager
def log_to(kind: str):
    """A descriptor for the log: a pipe that is full and not read, one without a reader, or a disk without room."""
    reading, writing = os.pipe()
    descriptors = [reading, writing]
    if kind == "full disk":
        descriptors.append(os.open("/dev/full", os.O_WRONLY))
    elif kind == "closed pipe":
        os.close(reading)
        descriptors.remove(reading)
    else:
        os.set_blocking(writing, False)
        with pytest.raises(BlockingIOError):
            while True:
                os.write(writing, b"\n" * 65536)
        os.set_blocking(writing, True)
    try:
        yield descriptors[-1]
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


async def answers_and_ends_well(serving: asyncio.subprocess.Process, host: str, port: int) -> None:
    """Assert that three requests are answered, and that SIGTERM ends the process with status 0.

    The process is killed if it is still running at the end.
    """
    try:
        async with asyncio.timeout(LIMIT_S), aiohttp.ClientSession() as session:
            await proxy.until_open(host, port)
            assert await send_requests(session, f"http://{host}:{port}", 3) == 3
            serving.send_signal(signal.SIGTERM)
            assert await serving.wait() == 0
    finally:
        if serving.returncode is None:
            serving.kill()
            await serving.wait()


async def send_requests(session: aiohttp.ClientSession, url: str, times: int) -> int:
    """Send requests, one after the other; returns the number of right answers."""
    answered = 0
    for _ in range(times):
        async with session.post(f"{url}/v1/chat/completions", json=REQUEST) as response:
            answered += (await response.json())["choices"][0]["message"]["content"] == "Hi"
    return answered


@pytest.mark.parametrize("kind", ["unread pipe", "closed pipe", "full disk"])
async def test_every_request_is_answered_and_the_server_ends_well(file, kind):
    with log_to(kind) as stdout:
        async with proxy.process("--config", file, stdout=stdout) as running, aiohttp.ClientSession() as session:
            async with asyncio.timeout(LIMIT_S):
                assert sum(await asyncio.gather(*(send_requests(session, running.url, 120) for _ in range(10)))) == 1200
                async with session.get(f"{running.url}/metrics") as response:
                    dropped = re.search(
                        r"^tidegate_log_lines_dropped_total (\S+)$", await response.text(), re.MULTILINE
                    )
                running.process.send_signal(signal.SIGTERM)
                assert await running.process.wait() == 0
            assert await running.process.stderr.read() == b"\n"  # the end of the banner
    # with an unread pipe, the lines wait in memory and are not dropped
    assert (float(dropped[1]) > 0) == (kind != "unread pipe")


@pytest.mark.parametrize("kind", ["closed pipe", "full disk"])
async def test_requests_are_answered_though_the_banner_cannot_be_written(file, kind):
    host, port = choose_address("127.0.0.1", 0)
    with log_to(kind) as output:
        serving = await proxy.start("serve", "--port", str(port), "--config", file, stdout=output, stderr=output)
        await answers_and_ends_well(serving, host, port)


@pytest.mark.parametrize("closed", ["<&-", "<&- >&- 2>&-"])
async def test_requests_are_answered_without_the_standard_descriptors(file, closed):
    host, port = choose_address("127.0.0.1", 0)
    command = f'exec "$0" -m tidegate serve --port {port} --config "$1" {closed}'
    serving = await asyncio.create_subprocess_exec("sh", "-c", command, sys.executable, file, env=proxy.environment())
    await answers_and_ends_well(serving, host, port)
