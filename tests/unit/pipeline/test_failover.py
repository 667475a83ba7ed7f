"""However requests end, every slot, connection and count is given back exactly once.

Hosts are scripted by turns of the event loop, so that hedged attempts, failures and disconnects meet at every point
where something waits.
"""

import asyncio
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.hosts import Exchange, Host, Stage, content_event, end_events
from tests.fakes.wire import completion
from tidegate.errors import StreamBroken, UpstreamFailed, UpstreamRejected, UpstreamUnreachable

TURNS = 60

text_steps = st.sampled_from(
    [content_event("Hi"), content_event(""), b": comment\n\n", content_event("a") + content_event("b")]
)
wait_steps = st.integers(1, 6)
last_steps = st.sampled_from(
    [
        end_events(),
        content_event("z") + end_events(),
        b"",
        UpstreamFailed("failed"),
        UpstreamUnreachable("gone"),
        UpstreamRejected("not this"),
        StreamBroken("broken"),
        "hangs",
    ]
)
stream_scripts = st.tuples(wait_steps, st.lists(text_steps | wait_steps, max_size=4), last_steps).map(
    lambda parts: [parts[0], *parts[1], parts[2]]
)
unary_scripts = st.tuples(
    wait_steps, st.sampled_from([completion("Hi"), b"{}", UpstreamFailed("failed"), "hangs"])
).map(list)
moments = st.integers(0, 30)


@st.composite
def cases(draw):
    """Hosts with scripts, settings, and requests: the turn when each begins, and the turns when it is cancelled."""
    is_stream = draw(st.booleans())
    hosts = [Host(name) for name in "abc"[: draw(st.integers(2, 3))]]
    for host in hosts:
        host.play(*draw(st.lists(stream_scripts if is_stream else unary_scripts, min_size=1, max_size=3)))
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


def with_live_events(scripts):
    """Replace "hangs" by an event that is never set, made here as it belongs to the running loop."""
    return [[asyncio.Event() if step == "hangs" else step for step in script] for script in scripts]


async def run_requests(stage: Stage, requests, *, is_stream: bool, turns: int = TURNS) -> None:
    """Start each request in its turn and cancel it so many turns later; assert that nothing stays in use at the end."""
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
        assert all(count >= 0 for counts in stage.resources_in_use().values() for count in counts), (
            stage.resources_in_use()
        )
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    for _ in range(10):  # the losing attempts of a hedge may end later than the request
        await asyncio.sleep(0)
    resources_in_use = stage.resources_in_use()
    assert not any(any(counts) for counts in resources_in_use.values()), resources_in_use


@given(cases())
async def test_everything_is_given_back_exactly_once(case):
    hosts, settings, is_stream, requests = case
    for host in hosts:
        host.play(*with_live_events(host.scripts))
    stage = Stage(*hosts, dialect="vllm", **settings)
    if settings["hedge"]:
        stage.enable_hedging()
    await run_requests(stage, requests, is_stream=is_stream)


@pytest.mark.parametrize("is_stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("on_stream_failure", ["error", "continue"])
@pytest.mark.parametrize("concurrency", [None, 1])
async def test_two_hedged_attempts_and_a_disconnect_meet_in_every_turn(is_stream, on_stream_failure, concurrency):
    """Both answer at nearly the same time; the request is cancelled once or twice, before, at that time or after."""
    answer = [content_event("Hi"), 1, end_events()] if is_stream else [completion("Hi")]
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
        stage.enable_hedging()
        moments = [leaves] if again is None else [leaves, leaves + again]
        await run_requests(stage, [(0, moments)], is_stream=is_stream, turns=24)
