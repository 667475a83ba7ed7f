"""However requests end, every slot, place, connection and count is given back exactly once.

Hosts are scripted by turns of the event loop, so that tries of a hedge, failures and callers who leave meet at every
point at which anything waits.
"""

import asyncio
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tidegate.errors import StreamBroken, UpstreamFailed, UpstreamRejected, UpstreamUnreachable

from tests.fakes.hosts import Exchange, Host, Stage, says, stops
from tests.fakes.wire import completion

TURNS = 60

texts = st.sampled_from([says("Hi"), says(""), b": comment\n\n", says("a") + says("b")])
waits = st.integers(1, 6)
ends = st.sampled_from(
    [
        stops(),
        says("z") + stops(),
        b"",
        UpstreamFailed("failed"),
        UpstreamUnreachable("gone"),
        UpstreamRejected("not this"),
        StreamBroken("broken"),
        "hangs",
    ]
)
streams = st.tuples(waits, st.lists(texts | waits, max_size=4), ends).map(lambda parts: [parts[0], *parts[1], parts[2]])
wholes = st.tuples(waits, st.sampled_from([completion("Hi"), b"{}", UpstreamFailed("failed"), "hangs"])).map(list)
moments = st.integers(0, 30)


@st.composite
def worlds(draw):
    """A stage, its hosts' scripts, and the requests: when each comes and when its caller leaves, perhaps twice."""
    is_stream = draw(st.booleans())
    hosts = [Host(name) for name in "abc"[: draw(st.integers(2, 3))]]
    for host in hosts:
        host.play(*draw(st.lists(streams if is_stream else wholes, min_size=1, max_size=3)))
        host.is_starting = draw(st.sampled_from([False, False, False, True]))
        host.loading = draw(st.sampled_from([0, 0, 3]))
    settings = {
        "hedge": draw(st.booleans()),
        "on_stream_failure": draw(st.sampled_from(["error", "continue"])),
        "concurrency": draw(st.sampled_from([None, 1])),
        "engines": draw(st.sampled_from(["", "a", "ab"])),
        "progress_in": draw(st.sampled_from([None, "reasoning_content"])),
    }
    requests = draw(
        st.lists(st.tuples(st.integers(0, 8), st.lists(moments, max_size=2)), min_size=1, max_size=3), label="requests"
    )
    return hosts, settings, is_stream, requests


def live(scripts):
    """An event for each host that hangs: they belong to the running loop."""
    return [[asyncio.Event() if deed == "hangs" else deed for deed in script] for script in scripts]


async def play(stage: Stage, requests, *, is_stream: bool, turns: int = TURNS) -> None:
    """Have each request begin in its turn, and its caller leave so many turns later; then everything is given back."""
    tasks: list[asyncio.Task] = []
    leaving: list[tuple[int, asyncio.Task]] = []
    for turn in range(turns):
        for begins, leaves in requests:
            if begins == turn:
                tasks.append(asyncio.create_task(Exchange(stage, stream=is_stream).run()))
                leaving += [(turn + later, tasks[-1]) for later in leaves]
        for at, task in leaving:
            if at == turn:
                task.cancel()
        await asyncio.sleep(0)
        assert all(count >= 0 for counts in stage.held().values() for count in counts), stage.held()
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    for _ in range(10):  # the losers of a hedge may end behind it
        await asyncio.sleep(0)
    held = stage.held()
    assert not any(any(counts) for counts in held.values()), held


@given(worlds())
async def test_everything_is_given_back_exactly_once(world):
    hosts, settings, is_stream, requests = world
    for host in hosts:
        host.play(*live(host.scripts))
    stage = Stage(*hosts, dialect="vllm", **settings)
    if settings["hedge"]:
        stage.learn()
    await play(stage, requests, is_stream=is_stream)


@pytest.mark.parametrize("is_stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("on_stream_failure", ["error", "continue"])
@pytest.mark.parametrize("concurrency", [None, 1])
async def test_two_tries_of_a_hedge_and_a_caller_who_leaves_meet_in_every_turn(
    is_stream, on_stream_failure, concurrency
):
    """Both answer at nearly the same time, and the caller leaves once or twice, before, just then or after."""
    answer = [says("Hi"), 1, stops()] if is_stream else [completion("Hi")]
    for apart, leaves, again in product(range(3, 7), range(18), (None, 0, 1)):
        hosts = [Host("a"), Host("b")]
        hosts[0].play([7, *answer])
        hosts[1].play([apart, *answer])
        stage = Stage(
            *hosts,
            dialect="vllm",
            engines="b",
            hedge=True,
            on_stream_failure=on_stream_failure,
            concurrency=concurrency,
        )
        stage.learn()
        moments = [leaves] if again is None else [leaves, leaves + again]
        await play(stage, [(0, moments)], is_stream=is_stream, turns=24)
