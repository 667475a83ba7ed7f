"""Faults of the connection to a host: 1 to 11 of the reference's list (capabilities 6.5)."""

import asyncio
import resource
from contextlib import AsyncExitStack

import aiohttp
import pytest
from tidegate.transport.wire import Timeouts

from tests.fakes import certificates, proxy
from tests.fakes.canonical import read_answer, read_error
from tests.fakes.fault_proxy import (
    FaultProxy,
    Passage,
    after,
    blackhole,
    closed_port,
    closes,
    passes,
    resets,
    stalls,
    when_asked_again,
)
from tests.fakes.fault_stage import (
    ELSEWHERE,
    MODES,
    SHORT_S,
    SILENT,
    TARGETS,
    UNREACHABLE,
    Row,
    check,
    check_at,
    files_of,
    none_left,
    stage,
    text,
)
from tests.fakes.resolver import FakeResolver
from tests.fakes.upstream import Call, ScenarioUpstream, Script, answers, hangs, streams
from tests.fakes.wire import completion, text_stream

HI_YOU = text("Hi you")
JSON = completion("Hi you")
SSE = b"".join(text_stream("Hi", " you"))
ASK = {"messages": [{"role": "user", "content": "Hi"}]}
NAMED = "http://host.test:{port}/v1"
TLS = "https://127.0.0.1:{port}/v1"
LONG = Timeouts(connect_s=60, first_byte_s=60, answer_s=60, idle_s=60)


def well(mode: str) -> Script:
    return streams(SSE) if mode == "stream" else answers(JSON)


async def speaks_no_tls(passage: Passage) -> None:
    await passage.hear()
    await passage.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    passage.close()


NO_CONNECTIONS = {"1 refused": (closed_port, UNREACHABLE), "2 a black hole": (blackhole, SILENT)}
AT_ONCE = {
    "3 reset when accepted": ("http://127.0.0.1:{port}/v1", Row(fault=resets, unary=UNREACHABLE)),
    "3 closed when accepted": ("http://127.0.0.1:{port}/v1", Row(fault=closes, unary=UNREACHABLE)),
    "3 accepted and no more": (
        "http://127.0.0.1:{port}/v1",
        Row(fault=stalls, unary=SILENT, short=("first_byte", "answer")),
    ),
    "4 no such name": ("http://nxdomain.invalid:{port}/v1", Row(unary=UNREACHABLE)),
    "7 no TLS there": (TLS, Row(fault=speaks_no_tls, unary=UNREACHABLE)),
    "8 a stalled handshake": (TLS, Row(fault=stalls, unary=SILENT, short=("connect",))),
    "8 reset in the handshake": (TLS, Row(fault=resets, unary=UNREACHABLE)),
}


@pytest.mark.parametrize("targets", TARGETS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", NO_CONNECTIONS)
async def test_no_connection(case, mode, targets):
    port_without, outcome = NO_CONNECTIONS[case]
    short = {"connect": SHORT_S} if outcome is SILENT else {}
    count = TARGETS.index(targets) + 1
    with port_without() as port:
        async with stage(base_url=f"http://127.0.0.1:{port}/v1", targets=count, short=short) as made:
            await check_at(made, outcome, mode, targets=count)


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
    """It counts as part of connecting; when it comes at last, it serves the next."""
    resolver = FakeResolver("127.0.0.1")
    async with stage(base_url=NAMED, prepare=using(resolver), short={"connect": 2}) as made:  # the next one has it too
        made.first.play(well(mode))
        resolver.go.clear()
        async with made.leaking_nothing():
            heard = await made.ask(mode)
            resolver.go.set()  # the lookup itself is nobody's to break off
        assert heard.outcome == SILENT
        await check_at(made, HI_YOU, mode)


@pytest.mark.parametrize("mode", MODES)
async def test_6_a_host_that_moves_is_found_by_the_next_request(mode):
    """Not when what was remembered of its name runs out."""
    resolver = FakeResolver("127.0.0.2")
    async with stage(base_url=NAMED, prepare=using(resolver)) as made:
        made.first.play(well(mode))
        await check_at(made, UNREACHABLE, mode)
        resolver.addresses = ("127.0.0.1",)
        await check_at(made, HI_YOU, mode)
        resolver.addresses = ()  # while the old address works, nobody asks
        await check_at(made, HI_YOU, mode)


@pytest.mark.parametrize("mode", MODES)
async def test_6_of_several_addresses_one_that_works_is_enough(mode):
    resolver = FakeResolver("127.0.0.2", "127.0.0.3", "127.0.0.1")
    async with stage(base_url=NAMED, prepare=using(resolver)) as made:
        made.first.play(well(mode))
        await check_at(made, HI_YOU, mode)


# --- certificates -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
async def behind_tls(tmp_path_factory):
    """Tidegate as a process that trusts one authority; each certificate is a model, `KIND+` has a next target."""
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
    """Whole: whose it is, how old, and for which host. Nothing is sent to a host that has not shown a good one."""
    running, host = behind_tls
    host.calls.clear()
    host.play(well(mode))
    async with aiohttp.ClientSession() as session:
        body = ASK | {"model": kind, "stream": mode == "stream"}
        async with session.post(f"{running.url}/v1/chat/completions", json=body) as answer:
            told = await answer.read()
        line = await running.line("request", model=kind)
        assert line["status"] == answer.status == (200 if kind == "good" else 502)
        assert len(host.calls) == (kind == "good")
        if kind == "good":
            return
        assert read_error(told)["code"] == "upstream_unreachable"
        async with session.post(f"{running.url}/v1/chat/completions", json=body | {"model": f"{kind}+"}) as answer:
            assert answer.status == 200
        assert (await running.line("request", model=f"{kind}+"))["upstream"] == "second"


# --- the pool -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("then", [closes, resets], ids=lambda then: then.__name__)
async def test_9_a_kept_connection_that_ends_as_it_is_used_again(then, mode):
    """Our request crosses the host's close: it goes out once more, and the caller sees nothing of it."""
    async with stage(more={"keepalive_s": 5}) as made:
        made.first.play(well(mode))
        made.faults.play(when_asked_again(then), passes)
        assert (await made.ask(mode)).outcome == HI_YOU
        heard = await made.ask(mode)
        assert heard.outcome == HI_YOU
        assert heard.counted == 1
        assert len(heard.lines) == 1
        assert len(made.faults.passages) == 2


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("then", [closes, resets], ids=lambda then: then.__name__)
async def test_9_a_kept_connection_that_ended_while_it_lay(then, mode):
    end = b"0\r\n\r\n" if mode == "stream" else JSON[-10:]
    async with stage(more={"keepalive_s": 5}) as made:
        made.first.play(well(mode))
        made.faults.play(after(end, then), passes)
        assert (await made.ask(mode)).outcome == HI_YOU
        assert (await made.ask(mode)).outcome == HI_YOU
        assert len(made.faults.passages) == 2


@pytest.mark.parametrize("mode", MODES)
async def test_10_a_request_waits_for_a_place_in_the_pool(mode):
    async def in_time(call: Call) -> None:
        await call.go.wait()
        await well(mode)(call)

    async with stage(more={"max_connections": 1}) as made:
        made.first.play(in_time, well(mode))
        async with made.leaking_nothing():
            first = asyncio.create_task(made.ask(mode))
            call = await made.first.next_call()
            second = asyncio.create_task(made.ask(mode))
            await made.is_in_flight(2)
            assert len(made.first.calls) == 1
            call.go.set()
            assert [(await each).outcome for each in (first, second)] == [HI_YOU, HI_YOU]
    assert made.first.connections == 1


@pytest.mark.parametrize("targets", TARGETS)
@pytest.mark.parametrize("mode", MODES)
async def test_10_a_pool_that_stays_full_is_a_silent_host(mode, targets):
    """Whoever waited too long leaves no hole in it."""
    count, apps = TARGETS.index(targets) + 1, []
    short = {"first_byte": SHORT_S, "answer": SHORT_S}
    async with stage(more={"max_connections": 1}, short=short, targets=count, prepare=apps.append) as made:
        made.first.play(hangs, well(mode))
        made.second.play(streams(*text_stream(ELSEWHERE)) if mode == "stream" else answers(completion(ELSEWHERE)))
        async with made.leaking_nothing():
            heard = await asyncio.gather(*(made.ask(mode) for _ in range(4)))
        given_up = SILENT if count == 1 else text(ELSEWHERE)
        outcomes = [each.outcome for each in heard]
        assert given_up in outcomes
        # as the first gives up, one of those who wait may get its place
        assert [outcome for outcome in outcomes if outcome not in (given_up, HI_YOU)] == []
        apps[0]._runtime.wires["first"].use_timeouts(LONG)
        await check_at(made, HI_YOU, mode)


# --- file descriptors ---------------------------------------------------------------------------------------------


async def test_11_without_file_descriptors_it_fails_and_then_recovers(tmp_path):
    """A connection cannot be opened, nor one be accepted: the first is told, the second waits."""
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
            async with session.get(f"{running.url}/livez") as answer:  # so that the connection stands
                await answer.read()
            process = running.process.pid
            files = files_of(process)
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
            await none_left(lambda: files_of(process) - files)
