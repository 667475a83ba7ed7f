"""LoRA adapters of a running vLLM, on a real socket."""

import json

import pytest

from tests.fakes.upstream import ScenarioUpstream, answers, breaks_without_answer
from tidegate.engines.vllm.adapters import Adapters
from tidegate.errors import UpstreamFailed, UpstreamRejected, UpstreamUnreachable
from tidegate.transport.credential_specs import of_keys
from tidegate.transport.credentials import CredentialPool
from tidegate.transport.wire import Timeouts, Transport


@pytest.fixture
async def engine():
    async with ScenarioUpstream().running() as running:
        yield running


class Log(list):
    def warning(self, event, **fields):
        self.append((event, fields))


@pytest.fixture
def log():
    return Log()


@pytest.fixture
async def adapters(engine, log):
    transport = Transport(
        engine.url,
        credentials=CredentialPool(of_keys(["sk-e"])),
        timeouts=Timeouts(connect_s=60, first_byte_s=60, answer_s=60, idle_s=60),
    )
    yield Adapters(transport, log)
    await transport.close()


def refusal(kind: str, message: str) -> bytes:
    return json.dumps({"error": {"message": message, "type": kind, "param": None, "code": 400}}).encode()


async def test_an_adapter_is_loaded_by_the_engines_own_route(engine, adapters):
    """The engine answers with plain text."""
    engine.play(answers(b"Success: LoRA adapter 'sql' added successfully.", content_type="text/plain"))
    assert await adapters.load("sql", "/adapters/sql") == "Success: LoRA adapter 'sql' added successfully."
    (call,) = engine.calls
    assert (call.method, call.path) == ("POST", "/v1/load_lora_adapter")
    assert json.loads(call.body) == {"lora_name": "sql", "lora_path": "/adapters/sql"}
    assert call.headers["authorization"] == "Bearer sk-e"


async def test_an_adapter_is_unloaded(engine, adapters):
    engine.play(answers(b"Success: LoRA adapter 'sql' removed successfully.", content_type="text/plain"))
    assert await adapters.unload("sql") == "Success: LoRA adapter 'sql' removed successfully."
    (call,) = engine.calls
    assert (call.method, call.path) == ("POST", "/v1/unload_lora_adapter")
    assert json.loads(call.body) == {"lora_name": "sql"}


async def test_an_engine_that_has_restarted_gets_its_adapters_back(engine, adapters):
    """A restarted engine has lost adapters that were loaded at run time; those of the config are in its command."""
    loaded = answers(b"Success", content_type="text/plain")
    engine.play(loaded, loaded, loaded)
    await adapters.load("sql", "/adapters/sql")
    await adapters.load("law", "/adapters/law")
    await adapters.unload("law")
    assert adapters.names == ["sql"]
    engine.play(loaded)
    await adapters.restore()
    assert json.loads(engine.calls[-1].body) == {"lora_name": "sql", "lora_path": "/adapters/sql"}
    assert len(engine.calls) == 4


async def test_an_adapter_that_the_engine_refuses_after_a_restart_is_removed_and_logged(engine, adapters, log):
    loaded = answers(b"Success", content_type="text/plain")
    engine.play(loaded, loaded)
    await adapters.load("sql", "/adapters/sql")
    await adapters.load("law", "/adapters/law")
    engine.play(answers(refusal("NotFoundError", "No adapter found for /adapters/sql"), status=404), loaded)
    await adapters.restore()
    assert adapters.names == ["law"]
    assert log == [("adapter lost", {"adapter": "sql", "reason": "No adapter found for /adapters/sql"})]


async def test_an_engine_that_fails_during_restore_gets_its_adapters_at_the_next_start(engine, adapters):
    """The failure is not the adapter's fault, so the adapter is kept."""
    engine.play(answers(b"Success", content_type="text/plain"))
    await adapters.load("sql", "/adapters/sql")
    engine.play(answers(refusal("InternalServerError", "engine dead"), status=500))
    await adapters.restore()
    assert adapters.names == ["sql"]


async def test_an_adapter_that_was_refused_is_not_kept(engine, adapters):
    engine.play(answers(refusal("NotFoundError", "No adapter found for /nope"), status=404))
    with pytest.raises(UpstreamRejected):
        await adapters.load("sql", "/nope")
    assert adapters.names == []


@pytest.mark.parametrize(
    ("status", "kind", "message"),
    [
        (400, "InvalidUserInput", "The lora adapter 'sql' has already been loaded."),
        (404, "NotFoundError", "No adapter found for /nope"),
    ],
)
async def test_a_refusal_keeps_the_engines_status_and_message(engine, adapters, status, kind, message):
    engine.play(answers(refusal(kind, message), status=status))
    with pytest.raises(UpstreamRejected) as caught:
        await adapters.load("sql", "/nope")
    assert (caught.value.status, caught.value.message) == (status, message)


async def test_a_server_without_the_route_is_a_failure_and_not_a_refusal(engine, adapters):
    engine.play(answers(b'{"detail":"Not Found"}', status=404))
    with pytest.raises(UpstreamFailed, match="was not started with runtime_adapters"):
        await adapters.load("sql", "/adapters/sql")


@pytest.mark.parametrize("body", [b"Internal Server Error", refusal("InternalServerError", "Internal Server Error")])
async def test_a_failure_of_the_engine_is_a_bad_gateway(engine, adapters, body):
    engine.play(answers(body, status=500))
    with pytest.raises(UpstreamFailed, match="answered 500: Internal Server Error") as caught:
        await adapters.unload("sql")
    assert caught.value.status == 502


async def test_an_engine_that_hangs_up_is_unreachable(engine, adapters):
    engine.play(breaks_without_answer)
    with pytest.raises(UpstreamUnreachable):
        await adapters.unload("sql")
