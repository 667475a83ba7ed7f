"""`tidegate eval run` as a process, through a Tidegate, to a scripted upstream."""

import asyncio
import json
import signal

import pytest

from tests.fakes import proxy
from tests.fakes.upstream import answers
from tests.fakes.wire import completion
from tidegate.config.evals import EvalScore, read_evals


@pytest.fixture
def files(config, tmp_path):
    (tmp_path / "c.yaml").write_text(config)
    return tmp_path


async def start(url, files, *more, **variables):
    arguments = ("--config", str(files / "c.yaml"), "--url", url, "--out", str(files / "evals.json"))
    return await proxy.start("eval", "run", *arguments, *more, **variables)


async def test_every_item_is_sent_and_the_scores_are_written(url, upstream, files):
    """The upstream always answers `{"ok": true, "n": [1, 2]}`; the written file can be read at start."""
    body = completion()
    answer = json.loads(body)
    answer["choices"][0]["message"]["content"] = '{"ok": true, "n": [1, 2]}'
    upstream.play(answers(json.dumps(answer).encode()))
    started = await start(url, files)
    out, err = await started.communicate()
    assert (started.returncode, err) == (0, b"")
    assert out.decode().splitlines()[1:4] == [
        "host/there  chat   0      56",
        "host/there  json   1      16",
        "host/there  tools  0      14",
    ]
    found = read_evals(files / "evals.json", "routing.evals")
    assert found.scores[1] == EvalScore("host/there", "json", 16, 1)
    assert len(upstream.calls) == 86


async def test_ctrl_c_ends_the_command_cleanly_and_writes_nothing(url, upstream, files):
    received = asyncio.Event()

    async def silence(call):
        received.set()
        await asyncio.Event().wait()

    upstream.play(silence)
    started = await start(url, files)
    await received.wait()
    started.send_signal(signal.SIGINT)
    out, err = await started.communicate()
    assert started.returncode == 130
    assert out == b""
    assert err.decode() == f"tidegate: stopped; {files}/evals.json is not written\n"
    assert not (files / "evals.json").exists()


async def test_an_upstream_that_fails_is_not_graded(url, upstream, files):
    upstream.play(answers(b'{"error": {"message": "out of order"}}', status=400))
    started = await start(url, files)
    out, err = await started.communicate()
    assert started.returncode == 1
    assert "host/there: items without an answer: 86; the first error: " in out.decode()
    assert err.decode() == f"tidegate: no target answered; {files}/evals.json is not written\n"
