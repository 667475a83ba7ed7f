"""When a caller disconnects, the engine stops working on the request; the fake engine reports the end."""

import asyncio

import pytest

from tests.fakes.processes import until
from tests.fakes.vllm_engine import running_app

_TRIES = 5


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "unary"])
@pytest.mark.parametrize("phase", ["queued", "prefill", "decoding"])
async def test_a_caller_that_disconnects_frees_the_engine(vllm, phase, stream, record_property):
    """The delay is recorded (50 ms are allowed) but not asserted, as it depends on how busy the machine is."""
    vllm.habits = ["holds"]
    config = vllm.config(args={"max_num_seqs": 2 if phase == "queued" else 256})
    async with running_app({"r1": config}) as made:
        start = await vllm.next_start()
        await made.until("ready")
        ahead = [asyncio.create_task(made.ask(stream=True)) for _ in range(2)]
        await start.until("came", 2)
        took_s = []
        for number in range(1, _TRIES + 1):
            caller = asyncio.create_task(talk(made, stream=stream))
            await start.until("came", 2 + number)
            if phase == "decoding":
                start.steps(1)
                await start.until("stepped", number)
            left_at = asyncio.get_running_loop().time()
            caller.cancel()
            left = (await start.until("left", number))[-1]
            assert left["phase"] == phase
            took_s.append(left["at"] - left_at)
            await asyncio.gather(caller, return_exceptions=True)
        record_property("left_ms", [round(each * 1000, 1) for each in took_s])
        await until(lambda: made.engine().requests.taken == 2)
        start.steps()
        for stream_ahead in await asyncio.gather(*ahead):
            assert [chunk async for chunk in stream_ahead][-1].choices[0].finish_reason == "stop"


async def talk(made, *, stream: bool) -> None:
    answer = await made.ask(stream=stream)
    if stream:
        async for _ in answer:
            pass


async def test_a_request_that_is_cancelled_while_the_engine_starts_is_not_sent(vllm):
    vllm.habits = ["waits"]
    async with running_app({"r1": vllm.config(start="on_demand")}) as made:
        asking = asyncio.create_task(made.ask())
        start = await vllm.next_start()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await until(lambda: not made.engine().requests.waiting)
        start.tell("listen")
        assert (await made.ask()).choices[0].message.content
        assert len(start.all("came")) == 1
        assert made.engine().requests.taken == 0


async def test_a_cancelled_request_is_no_failure_of_the_engine(vllm):
    """The next request is answered."""
    vllm.habits = ["holds"]
    async with running_app({"r1": vllm.config()}) as made:
        start = await vllm.next_start()
        await made.until("ready")
        asking = asyncio.create_task(made.ask())
        await start.until("came")
        asking.cancel()
        await start.until("left")
        start.steps()
        assert (await made.ask()).choices[0].message.content
        assert made.engine().status.restarts == 0
