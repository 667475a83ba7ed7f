"""The privacy line: no byte of a `local_only` request is sent outside, whatever fails; the outside host records all."""

import asyncio
import json
from contextlib import asynccontextmanager

import aiohttp
import pytest
from multidict import CIMultiDict

from tests.fakes import proxy
from tests.fakes.upstream import SSE_HEAD, answers, breaks_off, breaks_without_answer, hangs, streams
from tests.fakes.wire import chunk, completion, event, text_stream

CANARY = "tirra-lirra-7f3a"
ASK = {"model": "m", "messages": [{"role": "user", "content": f"The secret is {CANARY}."}]}
HI = event(chunk({"role": "assistant", "content": "Well, let me see, "}))
POLICIES = ["ordered", "weighted", "least_latency", "least_cost", "best_quality", "local_first", "balanced"]


class Capture:
    """A hosted upstream that stores every byte that it receives, and answers as if all were well."""

    def __init__(self):
        self.bytes = bytearray()
        self.url = ""

    @asynccontextmanager
    async def running(self):
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        try:
            yield self
        finally:
            server.close()

    async def _serve(self, reader, writer):
        body = completion("from outside")
        try:
            while data := await reader.read(65536):
                self.bytes += data
                writer.write(
                    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
                )
                writer.write(body)
        except ConnectionError:
            pass
        finally:
            writer.close()


async def begins_and_hangs(call):
    await call.write(SSE_HEAD)
    await call.chunk(HI)
    await hangs(call)


FAILURES = {
    "answers": answers(completion("from inside")),
    "streams": streams(*text_stream("from inside")),
    "500": answers(b'{"error": {"message": "no"}}', status=500),
    "401": answers(b'{"error": {"message": "no"}}', status=401),
    "404": answers(b'{"error": {"message": "no"}}', status=404),
    "hangs up": breaks_without_answer,
    "hangs": hangs,
    "breaks before a word": breaks_off(event(chunk({"role": "assistant", "content": ""}))),
    "breaks after some": breaks_off(HI),
    "stalls after some": begins_and_hangs,
    "no chunk": streams(HI, b"data: {oops\n\n"),
    "no end": streams(HI, b"data: [DONE]\n\n"),
    # this is the last one: for a while after it nothing is sent to the engine
    "429": answers(b'{"error": {"message": "no"}}', status=429, head=b"retry-after: 30\r\n"),
}


def engine(*scripts):
    """An engine that Tidegate does not start; its health checks succeed, whatever it answers to callers."""

    async def script(call):
        if call.method == "GET":
            await answers(b"")(call)
        else:
            await scripts[min(script.count, len(scripts) - 1)](call)
            script.count += 1

    script.count = 0
    return script


@pytest.fixture(autouse=True)
def healthy(upstream):
    """The engine's answers until the test sets others: it becomes ready."""
    upstream.play(engine(FAILURES["answers"]))


@pytest.fixture
async def outside():
    async with Capture().running() as running:
        yield running


def config(upstream, outside, *, policy="ordered", model=None, key=None, routing=None, health=None, timeout_s=0.1):
    return json.dumps(
        {
            "auth": {"callers": {"alice": {"key": "env:ALICE_KEY"} | (key or {})}},
            "upstreams": {"far": {"base_url": outside.url}, "farther": {"base_url": outside.url, "dialect": "vllm"}},
            "engines": {
                "near": {
                    "kind": "external",
                    "base_url": upstream.url,
                    "first_byte_timeout_s": timeout_s,
                    "idle_timeout_s": timeout_s,
                    "concurrency": {"limit": 1, "queue_timeout_s": timeout_s},
                }
            },
            "models": {
                "m": {
                    "policy": policy,
                    "targets": [
                        {"upstream": "far", "model": "x"},
                        {"engine": "near", "model": "y"},
                        {"upstream": "farther", "model": "z"},
                    ],
                    "on_stream_failure": "continue",
                    "hedge": True,
                    "overflow_ttft_s": 0.001,
                }
                | (model or {})
            },
            "routing": {"retry": {"backoff_s": 0.001}, "health": health or {"failures": 1000}} | (routing or {}),
        }
    )


@asynccontextmanager
async def running_app(text, monkeypatch):
    monkeypatch.setenv("ALICE_KEY", "alice-key")
    async with (
        proxy.serving(text) as url,
        aiohttp.ClientSession(url, headers={"authorization": "Bearer alice-key"}) as session,
    ):
        while True:
            async with session.get("/readyz") as response:
                if (await response.json())["engines"]["near"]["state"] == "ready":
                    break
        yield session


async def ask(session, **options):
    """The status, the body and the headers of the answer."""
    headers = options.pop("headers", {})
    async with session.post("/v1/chat/completions", json=ASK | options, headers=headers) as response:
        return response.status, await response.text(), response.headers


LOCAL_ONLY_SETTINGS = {
    "the caller": ({}, {"x-tidegate-reach": "local_only"}),
    "the key": ({"key": {"reach": "local_only"}}, {}),
    "the model": ({"model": {"reach": "local_only"}}, {}),
    "the config": ({"routing": {"reach": "local_only"}}, {}),
    "offline": ({"routing": {"offline": True}}, {}),
}


@pytest.mark.parametrize(
    ("policy", "setting"),
    [*((policy, "the caller") for policy in POLICIES), *(("ordered", setting) for setting in LOCAL_ONLY_SETTINGS)],
)
async def test_no_byte_of_a_local_only_request_is_sent_outside(upstream, outside, monkeypatch, policy, setting):
    """Not on failover, retry, hedge, overflow or continuation, streamed or not, with three requests at once."""
    settings, headers = LOCAL_ONLY_SETTINGS[setting]
    settings = {name: dict(value) for name, value in settings.items()}
    async with running_app(config(upstream, outside, policy=policy, **settings), monkeypatch) as session:
        for failure in FAILURES.values():
            upstream.play(engine(failure))
            requests = [ask(session, stream=number % 2 == 0, headers=headers) for number in range(3)]
            for _, body, _ in await asyncio.gather(*requests):
                assert "from outside" not in body
    assert CANARY.encode() not in outside.bytes
    assert b"POST" not in outside.bytes


async def test_no_byte_is_sent_outside_while_the_engine_is_ejected_and_probed(upstream, outside, monkeypatch):
    health = {"failures": 1, "ejection_s": 0.001, "max_ejected": 1, "probe_every_s": 0.001}
    async with running_app(config(upstream, outside, health=health), monkeypatch) as session:
        upstream.play(engine(FAILURES["500"]))
        for _ in range(20):
            status, body, _ = await ask(session, headers={"x-tidegate-reach": "local_only"})
            assert status in {502, 503}, body
    assert CANARY.encode() not in outside.bytes
    assert b"POST" not in outside.bytes.replace(b"Say OK.", b"")


async def test_the_capture_sees_a_request_without_local_only(upstream, outside, monkeypatch):
    """The test above can fail: without the reach, the same requests arrive outside."""
    async with running_app(config(upstream, outside), monkeypatch) as session:
        upstream.play(engine(FAILURES["500"]))
        assert "from outside" in (await ask(session))[1]
    assert CANARY.encode() in outside.bytes


async def test_without_an_engine_for_it_a_local_only_request_is_refused(upstream, outside, monkeypatch):
    text = config(upstream, outside, model={"targets": [{"upstream": "far", "model": "x"}]})
    async with running_app(text, monkeypatch) as session:
        status, body, _ = await ask(session, headers={"x-tidegate-reach": "local_only"})
    assert (status, json.loads(body)["error"]["code"]) == (503, "local_model_unavailable")
    assert outside.bytes == b""


async def test_a_local_only_request_is_refused_while_its_engine_is_not_ready(upstream, outside, monkeypatch):
    text = config(upstream, outside, model={"targets": [{"engine": "gone"}, {"upstream": "far", "model": "x"}]})
    response = json.loads(text)
    response["engines"]["gone"] = {"kind": "external", "base_url": "http://127.0.0.1:9/v1"}
    async with running_app(json.dumps(response), monkeypatch) as session:
        status, body, _ = await ask(session, headers={"x-tidegate-reach": "local_only"})
        assert (status, json.loads(body)["error"]["code"]) == (503, "local_model_unavailable")
        assert outside.bytes == b""
        status, body, headers = await ask(session)
        assert (status, headers["x-tidegate-target"]) == (200, "far/x")


async def test_a_caller_may_not_widen_the_reach_of_its_key(upstream, outside, monkeypatch):
    async with running_app(config(upstream, outside, key={"reach": "local_only"}), monkeypatch) as session:
        for reach in ("local_first", "any", "online_first"):
            status, body, _ = await ask(session, headers={"x-tidegate-reach": reach})
            assert (status, json.loads(body)["error"]["param"]) == (403, "x-tidegate-reach")
        status, body, _ = await ask(session, headers={"x-tidegate-reach": "everywhere"})
        assert (status, json.loads(body)["error"]["code"]) == (400, "invalid_value")
    assert outside.bytes == b""


async def test_a_repeated_reach_header_is_refused(upstream, outside, monkeypatch):
    """A proxy between the caller and Tidegate may have added one."""
    async with running_app(config(upstream, outside), monkeypatch) as session:
        for values in (["local_only", "any"], ["any", "local_only"]):
            twice = CIMultiDict([("x-tidegate-reach", value) for value in values])
            status, body, _ = await ask(session, headers=twice)
            assert (status, json.loads(body)["error"]["code"]) == (400, "invalid_value")
    assert outside.bytes == b""


@pytest.mark.parametrize(("reach", "target"), [("local_first", "near/y"), ("any", "far/x"), ("online_first", "far/x")])
async def test_the_wider_reaches_put_one_side_first(upstream, outside, monkeypatch, reach, target):
    upstream.play(engine(answers(completion("from inside"))))
    text = config(upstream, outside, key={"reach": reach}, model={"overflow_ttft_s": None}, timeout_s=60)
    async with running_app(text, monkeypatch) as session:
        _, _, headers = await ask(session)
    assert headers["x-tidegate-target"] == target
