"""Faults of the connection to a host: numbers 1 to 11 of the list of faults (capabilities 6.5)."""

import asyncio
import resource
from contextlib import AsyncExitStack

import aiohttp
import pytest

from tests.fakes import certificates, proxy
from tests.fakes.canonical import read_answer, read_error
from tests.fakes.fault_proxy import (
    FaultProxy,
    ProxiedConnection,
    after,
    blackhole,
    closed_port,
    closes,
    on_second_request,
    passes,
    resets,
    stalls,
)
from tests.fakes.fault_stage import (
    MODES,
    SECOND_TEXT,
    SHORT_S,
    TARGETS,
    TIMED_OUT,
    UNREACHABLE,
    Row,
    check,
    check_on_stage,
    open_files,
    running_stage,
    text,
    until_none_left,
)
from tests.fakes.resolver import FakeResolver
from tests.fakes.upstream import Call, ScenarioUpstream, Script, answers, hangs, streams
from tests.fakes.wire import completion, text_stream
from tidegate.transport.wire import Timeouts

HI_YOU = text("Hi you")
JSON = completion("Hi you")
SSE = b"".join(text_stream("Hi", " you"))
ASK = {"messages": [{"role": "user", "content": "Hi"}]}
NAMED = "http://host.test:{port}/v1"
TLS = "https://127.0.0.1:{port}/v1"
LONG = Timeouts(connect_s=60, first_byte_s=60, answer_s=60, idle_s=60)


def well(mode: str) -> Script:
    return streams(SSE) if mode == "stream" else answers(JSON)


async def speaks_no_tls(connection: ProxiedConnection) -> None:
    await connection.wait_for_data()
    await connection.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    connection.close()


NO_CONNECTIONS = {"1 refused": (closed_port, UNREACHABLE), "2 a black hole": (blackhole, TIMED_OUT)}
AT_ONCE = {
    "3 reset when accepted": ("http://127.0.0.1:{port}/v1", Row(fault=resets, unary=UNREACHABLE)),
    "3 closed when accepted": ("http://127.0.0.1:{port}/v1", Row(fault=closes, unary=UNREACHABLE)),
    "3 accepted and no more": (
        "http://127.0.0.1:{port}/v1",
        Row(fault=stalls, unary=TIMED_OUT, short_timeouts=("first_byte", "answer")),
    ),
    "4 no such name": ("http://nxdomain.invalid:{port}/v1", Row(unary=UNREACHABLE)),
    "7 no TLS there": (TLS, Row(fault=speaks_no_tls, unary=UNREACHABLE)),
    "8 a stalled handshake": (TLS, Row(fault=stalls, unary=TIMED_OUT, short_timeouts=("connect",))),
    "8 reset in the handshake": (TLS, Row(fault=resets, unary=UNREACHABLE)),
}


@pytest.mark.parametrize("targets", TARGETS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", NO_CONNECTIONS)
async def test_no_connection(case, mode, targets):
    port_without, outcome = NO_CONNECTIONS[case]
    short_timeouts = {"connect": SHORT_S} if outcome is TIMED_OUT else {}
    count = TARGETS.index(targets) + 1
    with port_without() as port:
        async with running_stage(
            base_url=f"http://127.0.0.1:{port}/v1", targets=count, short_timeouts=short_timeouts
        ) as stage:
            await check_on_stage(stage, outcome, mode, targets=count)


@pytest.mark.parametrize("targets", TARGETS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", AT_ONCE)
async def test_a_connection_that_comes_to_nothing(case, mode, targets):
    base_url, row = AT_ONCE[case]
    await check(row, mode, targets, base_url=base_url)


# --- names --------------------------------------------------------------------------------------------------------


def using(resolver: FakeResolver):
    def prepare(app) -> None:
        app._runtime.wires["first"]._resolver = resolver

    return prepare


@pytest.mark.parametrize("mode", MODES)
async def test_5_a_name_that_takes_too_long(mode):
    """The lookup counts as part of connecting; when it ends at last, the next request uses its result."""
    resolver = FakeResolver("127.0.0.1")
    # the second request has the same limit
    async with running_stage(base_url=NAMED, prepare=using(resolver), short_timeouts={"connect": 2}) as stage:
        stage.first.play(well(mode))
        resolver.go.clear()
        async with stage.without_leaks():
            received = await stage.ask(mode)
            resolver.go.set()  # a lookup cannot be cancelled
        assert received.outcome == TIMED_OUT
        await check_on_stage(stage, HI_YOU, mode)


@pytest.mark.parametrize("mode", MODES)
async def test_6_a_host_with_a_new_address_is_found_by_the_next_request(mode):
    """Not only when the cached address expires."""
    resolver = FakeResolver("127.0.0.2")
    async with running_stage(base_url=NAMED, prepare=using(resolver)) as stage:
        stage.first.play(well(mode))
        await check_on_stage(stage, UNREACHABLE, mode)
        resolver.addresses = ("127.0.0.1",)
        await check_on_stage(stage, HI_YOU, mode)
        resolver.addresses = ()  # while the old address works, no lookup is made
        await check_on_stage(stage, HI_YOU, mode)


@pytest.mark.parametrize("mode", MODES)
async def test_6_of_several_addresses_one_that_works_is_enough(mode):
    resolver = FakeResolver("127.0.0.2", "127.0.0.3", "127.0.0.1")
    async with running_stage(base_url=NAMED, prepare=using(resolver)) as stage:
        stage.first.play(well(mode))
        await check_on_stage(stage, HI_YOU, mode)


# --- certificates -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
async def behind_tls(tmp_path_factory):
    """A process of Tidegate that trusts one authority.

    For each kind of certificate there is a model `KIND`, and a model `KIND+` with a second, sound target.
    """
    folder = tmp_path_factory.mktemp("tls")
    contexts = certificates.make(folder / "authority.pem")
    host = ScenarioUpstream()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(host.running())
        hosts, models = [f'second: {{base_url: "{host.url}"}}'], []
        for kind, tls in contexts.items():
            relay = await stack.enter_async_context(FaultProxy(host.port).running(tls=tls))
            hosts.append(f'{kind}: {{base_url: "https://127.0.0.1:{relay.port}/v1", keepalive_s: 0.03}}')
            first = f"{{upstream: {kind}, model: a}}"
            models.append(f"{kind}: {{targets: [{first}]}}")
            models.append(f"{kind}+: {{targets: [{first}, {{upstream: second, model: b}}]}}")
        (folder / "tidegate.yaml").write_text(f"""
routing: {{retry: {{repeats: 0}}, health: {{failures: 1000, probe: false}}}}
upstreams: {{{", ".join(hosts)}}}
models: {{{", ".join(models)}}}
""")
        running = await stack.enter_async_context(
            proxy.process("--config", str(folder / "tidegate.yaml"), SSL_CERT_FILE=str(folder / "authority.pem"))
        )
        yield running, host


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["good", "expired", "wrong-host", "self-signed"])
async def test_7_a_certificate_is_checked(behind_tls, kind, mode):
    """Its issuer, dates and host name are checked. No request is sent to a host without a valid certificate."""
    running, host = behind_tls
    host.calls.clear()
    host.play(well(mode))
    async with aiohttp.ClientSession() as session:
        body = ASK | {"model": kind, "stream": mode == "stream"}
        async with session.post(f"{running.url}/v1/chat/completions", json=body) as answer:
            answer_body = await answer.read()
        line = await running.line("request", model=kind)
        assert line["status"] == answer.status == (200 if kind == "good" else 502)
        assert len(host.calls) == (kind == "good")
        if kind == "good":
            return
        assert read_error(answer_body)["code"] == "upstream_unreachable"
        async with session.post(f"{running.url}/v1/chat/completions", json=body | {"model": f"{kind}+"}) as answer:
            assert answer.status == 200
        assert (await running.line("request", model=f"{kind}+"))["upstream"] == "second"


# --- the pool -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("then", [closes, resets], ids=lambda then: then.__name__)
async def test_9_a_kept_connection_that_ends_as_it_is_used_again(then, mode):
    """The request crosses the host's close on the wire: it is sent once more, and the caller does not notice."""
    async with running_stage(more={"keepalive_s": 5}) as stage:
        stage.first.play(well(mode))
        stage.faults.play(on_second_request(then), passes)
        assert (await stage.ask(mode)).outcome == HI_YOU
        received = await stage.ask(mode)
        assert received.outcome == HI_YOU
        assert received.counted == 1
        assert len(received.lines) == 1
        assert len(stage.faults.connections) == 2


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("then", [closes, resets], ids=lambda then: then.__name__)
async def test_9_a_kept_connection_that_ended_while_it_was_idle(then, mode):
    end = b"0\r\n\r\n" if mode == "stream" else JSON[-10:]
    async with running_stage(more={"keepalive_s": 5}) as stage:
        stage.first.play(well(mode))
        stage.faults.play(after(end, then), passes)
        assert (await stage.ask(mode)).outcome == HI_YOU
        assert (await stage.ask(mode)).outcome == HI_YOU
        assert len(stage.faults.connections) == 2


@pytest.mark.parametrize("mode", MODES)
async def test_10_a_request_waits_for_a_connection_of_the_pool(mode):
    async def in_time(call: Call) -> None:
        await call.go.wait()
        await well(mode)(call)

    async with running_stage(more={"max_connections": 1}) as stage:
        stage.first.play(in_time, well(mode))
        async with stage.without_leaks():
            first = asyncio.create_task(stage.ask(mode))
            call = await stage.first.next_call()
            second = asyncio.create_task(stage.ask(mode))
            await stage.is_in_flight(2)
            assert len(stage.first.calls) == 1
            call.go.set()
            assert [(await each).outcome for each in (first, second)] == [HI_YOU, HI_YOU]
    assert stage.first.connections == 1


@pytest.mark.parametrize("targets", TARGETS)
@pytest.mark.parametrize("mode", MODES)
async def test_10_a_pool_that_stays_full_is_a_timeout(mode, targets):
    """A request that waited too long takes no connection of the pool away."""
    count, apps = TARGETS.index(targets) + 1, []
    short_timeouts = {"first_byte": SHORT_S, "answer": SHORT_S}
    async with running_stage(
        more={"max_connections": 1}, short_timeouts=short_timeouts, targets=count, prepare=apps.append
    ) as stage:
        stage.first.play(hangs, well(mode))
        stage.second.play(streams(*text_stream(SECOND_TEXT)) if mode == "stream" else answers(completion(SECOND_TEXT)))
        async with stage.without_leaks():
            received = await asyncio.gather(*(stage.ask(mode) for _ in range(4)))
        given_up = TIMED_OUT if count == 1 else text(SECOND_TEXT)
        outcomes = [each.outcome for each in received]
        assert given_up in outcomes
        # when the first request gives up, a waiting one may get its connection
        assert [outcome for outcome in outcomes if outcome not in (given_up, HI_YOU)] == []
        apps[0]._runtime.wires["first"].use_timeouts(LONG)
        await check_on_stage(stage, HI_YOU, mode)


# --- file descriptors ---------------------------------------------------------------------------------------------


async def test_11_without_file_descriptors_it_fails_and_then_recovers(tmp_path):
    """No connection can be opened or accepted: the first request fails, and the second waits until it is accepted."""
    host = ScenarioUpstream()
    host.play(answers(JSON))
    async with host.running():
        path = tmp_path / "tidegate.yaml"
        path.write_text(f"""
routing: {{retry: {{repeats: 0}}, health: {{failures: 1000, probe: false}}}}
upstreams: {{host: {{base_url: "{host.url}", keepalive_s: 0.03}}}}
models: {{m: {{targets: [{{upstream: host, model: a}}]}}}}
""")
        async with proxy.process("--config", str(path)) as running, aiohttp.ClientSession() as session:
            chat = f"{running.url}/v1/chat/completions"
            async with session.get(f"{running.url}/livez") as answer:  # so that the connection is open
                await answer.read()
            process = running.process.pid
            files = open_files(process)
            before = resource.prlimit(process, resource.RLIMIT_NOFILE)
            resource.prlimit(process, resource.RLIMIT_NOFILE, (0, before[1]))
            async with session.post(chat, json=ASK | {"model": "m"}) as answer:
                assert (answer.status, read_error(await answer.read())["code"]) == (502, "upstream_unreachable")
            assert (await running.line("request"))["status"] == 502
            async with aiohttp.ClientSession() as newcomer:
                waiting = asyncio.create_task(newcomer.post(chat, json=ASK | {"model": "m"}))
                await asyncio.wait((waiting,), timeout=0.2)
                resource.prlimit(process, resource.RLIMIT_NOFILE, before)
                answer = await waiting
                assert read_answer(await answer.read(), "chat", "m", ())["choices"][0]["content"] == "Hi you"
            await until_none_left(lambda: open_files(process) - files)
