"""Replicas, several equal engines with one name: real processes, as callers and operators see them."""

import asyncio
import json
import signal
from os import kill

import aiohttp
import openai
import pytest

from tests.fakes.clock import FakeClock
from tests.fakes.processes import gone, is_running, until
from tests.fakes.vllm_engine import Start, running_app
from tidegate.config import load

WHOLE = "w3 w4 w5 w6 "


class Replicas:
    """The replicas of the engine `r1` that runs in `made`."""

    def __init__(self, vllm, made) -> None:
        self.vllm = vllm
        self.made = made

    def start(self, name: str) -> Start:
        """The last process of a replica."""
        path = self.made.engine(name).socket_path
        return next(start for start in reversed(self.vllm.starts) if start.flags["uds"] == path)

    async def ready(self, *names: str) -> None:
        for name in names:
            await self.made.until("ready", name)

    def note_request(self) -> dict[str, int]:
        """How many requests each replica has received."""
        return {name: len(self.start(name).all("came")) for name in self.made.app.engines.by_name}


async def get(url: str, path: str) -> dict:
    async with aiohttp.ClientSession() as session, session.get(url + path) as response:
        return await response.json()


async def send(made, session: str = "", model: str = "m") -> str:
    """Send one request; returns the target that answered, by the response header."""
    extra = {"prompt_cache_key": session} if session else {}
    message = {"role": "user", "content": f"Hi {session}"}
    raw = await made.client.chat.completions.with_raw_response.create(model=model, messages=[message], extra_body=extra)
    assert raw.parse().choices[0].message.content == WHOLE
    return raw.headers["x-tidegate-target"]


async def send_stream(made, session: str) -> str:
    """Send one request for a stream; returns the target that answered, by the response header."""
    messages, extra = [{"role": "user", "content": "Hi"}], {"prompt_cache_key": session}
    raw = await made.client.chat.completions.with_raw_response.create(
        model="m", messages=messages, stream=True, extra_body=extra
    )
    chunks = [chunk async for chunk in raw.parse()]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == WHOLE
    return raw.headers["x-tidegate-target"]


async def reload(made, engines: dict) -> None:
    """Reload Tidegate with another config."""
    config = {"engines": engines, "models": {"m": {"targets": [{"engine": "r1"}]}}}
    made.app._read_config = lambda: (load.parse(json.dumps(config), "new.yaml"), "new.yaml")
    await made.app.reload()


async def test_requests_are_balanced_by_the_work_in_flight(vllm):
    """No replica has more than its share times `sticky_load`, whatever the prompts are."""
    vllm.habits = ["holds"]
    async with running_app(
        {"r1": vllm.config(replicas=3)}, clock=FakeClock()
    ) as made:  # the clock stops, so that no replica is suspected to hang
        replicas = Replicas(vllm, made)
        await replicas.ready("r1:1", "r1:2", "r1:3")
        asking = [asyncio.create_task(send(made, f"s{number}")) for number in range(60)]
        await until(lambda: sum(replicas.note_request().values()) == 60)
        assert max(replicas.note_request().values()) <= 26
        for start in vllm.starts:
            start.steps()
        answered = await asyncio.gather(*asking)
        assert set(answered) == {"r1:1/r1", "r1:2/r1", "r1:3/r1"}


async def test_the_turns_of_a_conversation_stay_at_one_replica(vllm):
    """Also for a model that is not in the config, and where the policy is the order of the config."""
    async with running_app({"r1": vllm.config(replicas=3)}) as made:
        await Replicas(vllm, made).ready("r1:1", "r1:2", "r1:3")
        homes = [{await send(made, f"s{number}") for _ in range(3)} for number in range(8)]
        assert [len(home) for home in homes] == [1] * 8
        assert len(set.union(*homes)) > 1
        assert [{await send(made, f"s{number}", "r1/r1")} for number in range(8)] == homes


async def test_callers_see_one_name_and_operators_each_replica(vllm):
    async with running_app({"r1": vllm.config(replicas=2, adapters={"sql": "org/sql"})}) as made:
        await Replicas(vllm, made).ready("r1:1", "r1:2")
        assert [model.id async for model in made.client.models.list()] == ["m", "r1/sql"]
        assert {start.flags["served-model-name"] for start in vllm.starts} == {"r1"}
        listed = (await get(made.url, "/admin/engines"))["engines"]
        assert [(each["name"], each["state"]) for each in listed] == [("r1:1", "ready"), ("r1:2", "ready")]
        assert [each["name"] for each in (await get(made.url, "/admin/engines/r1"))["engines"]] == ["r1:1", "r1:2"]
        assert (await get(made.url, "/admin/engines/r1:2"))["name"] == "r1:2"
        assert list((await get(made.url, "/readyz"))["engines"]) == ["r1:1", "r1:2"]
        targets = (await get(made.url, "/admin/targets"))["targets"]
        assert [each["target"] for each in targets] == ["r1:1/r1", "r1:2/r1"]
        async with aiohttp.ClientSession() as session:
            async with session.get(f"{made.url}/metrics") as response:
                text = await response.text()
            body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
            async with session.post(f"{made.url}/admin/explain", json=body) as response:
                candidates = (await response.json())["candidates"]
        assert 'tidegate_engine_ready{engine="r1:1"} 1.0' in text
        assert 'tidegate_engine_ready{engine="r1:2"} 1.0' in text
        assert [each["place"] for each in candidates] == [1, 2]
        assert [each["why"] for each in candidates] == ["its session is here", "the next replica, by its work"]


async def test_another_replica_answers_for_a_killed_one_until_its_restart(vllm):
    async with running_app({"r1": vllm.config(replicas=2)}) as made:
        replicas = Replicas(vllm, made)
        await replicas.ready("r1:1", "r1:2")
        home = (await send(made, "s")).partition("/")[0]
        other = "r1:1" if home == "r1:2" else "r1:2"
        first = replicas.start(home)
        kill(await first.core(), signal.SIGKILL)
        kill(first.pid, signal.SIGKILL)
        assert await send(made, "s") == f"{other}/r1"
        await gone(first.pid)
        await until(lambda: len(vllm.starts) == 3)
        await made.until("ready", home)
        assert made.engine(home).status.restarts == 1
        assert made.engine(other).status.restarts == 0
        assert await send(made, "s") == f"{home}/r1"


async def test_the_operator_stops_and_starts_all_replicas_or_one(vllm):
    async with running_app({"r1": vllm.config(replicas=2)}) as made:
        await Replicas(vllm, made).ready("r1:1", "r1:2")
        async with aiohttp.ClientSession() as session:
            async with session.post(f"{made.url}/admin/engines/r1:1/stop", json={}) as response:
                assert (response.status, (await response.json())["name"]) == (202, "r1:1")
            await made.until("stopped", "r1:1")
            assert await send(made) == "r1:2/r1"
            async with session.post(f"{made.url}/admin/engines/r1/stop", json={}) as response:
                assert [each["name"] for each in (await response.json())["engines"]] == ["r1:1", "r1:2"]
            await made.until("stopped", "r1:2")
            with pytest.raises(openai.InternalServerError, match="it was told to stop"):
                await send(made)
            async with session.post(f"{made.url}/admin/engines/r1/start", json={}) as response:
                assert response.status == 202
        await Replicas(vllm, made).ready("r1:1", "r1:2")


async def test_on_demand_a_second_replica_is_loaded_when_the_first_has_work(vllm):
    vllm.habits = ["holds"]
    async with running_app({"r1": vllm.config(replicas=3, start="on_demand")}, clock=FakeClock()) as made:
        replicas = Replicas(vllm, made)
        first = asyncio.create_task(send(made, "a"))
        start = await vllm.next_start()
        await start.until("came")
        assert len(vllm.starts) == 1
        second = asyncio.create_task(send(made, "b"))
        await replicas.ready("r1:1", "r1:2")
        assert (len(vllm.starts), made.engine("r1:3").status.state) == (2, "stopped")
        for each in vllm.starts:
            each.steps()
        assert await asyncio.gather(first, second) == ["r1:1/r1", "r1:1/r1"]


# --- another config -----------------------------------------------------------------------------------------------


class Traffic:
    """Callers that send one request after the other until `end`; every second caller requests streams."""

    def __init__(self, made, callers: int = 4) -> None:
        self.made = made
        self.answered: list[str] = []
        self.is_over = False
        self.tasks = [asyncio.create_task(self._ask(number)) for number in range(callers)]

    async def _ask(self, number: int) -> None:
        while not self.is_over:
            session = f"s{number}-{len(self.answered)}"
            self.answered.append(await (send_stream if number % 2 else send)(self.made, session))

    async def until_answered(self, number: int) -> None:
        """Wait until `number` more requests were answered."""
        expected = len(self.answered) + number
        await until(lambda: len(self.answered) >= expected or any(task.done() for task in self.tasks))
        assert len(self.answered) >= expected

    async def end(self) -> None:
        self.is_over = True
        await asyncio.gather(*self.tasks)


async def test_a_reload_replaces_one_replica_after_the_other_and_no_request_fails(vllm):
    async with running_app({"r1": vllm.config(replicas=3)}) as made:
        replicas = Replicas(vllm, made)
        await replicas.ready("r1:1", "r1:2", "r1:3")
        old = [replicas.start(name) for name in ("r1:1", "r1:2", "r1:3")]
        traffic = Traffic(made)
        await traffic.until_answered(4)
        vllm.habits = ["waits"]
        await reload(made, {"r1": vllm.config(replicas=3, max_model_len=4096)})
        for number in range(3):
            await until(lambda number=number: len(vllm.starts) == 4 + number)
            assert [is_running(start.pid) for start in old] == [each > number for each in range(3)]
            await traffic.until_answered(8)
            vllm.starts[-1].tell("listen")
        await replicas.ready("r1:1", "r1:2", "r1:3")
        await traffic.until_answered(8)
        await traffic.end()
        assert {start.flags["max-model-len"] for start in vllm.starts[3:]} == {"4096"}
        assert set(traffic.answered) == {"r1:1/r1", "r1:2/r1", "r1:3/r1"}
        await gone(*(start.pid for start in old))


async def test_after_a_new_replica_that_fails_to_start_the_others_are_not_replaced(vllm):
    """They are replaced after the config is corrected."""
    async with running_app({"r1": vllm.config(replicas=2)}) as made:
        replicas = Replicas(vllm, made)
        await replicas.ready("r1:1", "r1:2")
        kept = replicas.start("r1:2")
        vllm.habits = ["broken"]
        await reload(made, {"r1": vllm.config(replicas=2, max_model_len=1)})
        await made.until("failed", "r1:1")
        assert {await send(made, f"s{number}") for number in range(4)} == {"r1:2/r1"}
        assert is_running(kept.pid)
        vllm.habits = [""]
        await reload(made, {"r1": vllm.config(replicas=2, max_model_len=4096)})
        await gone(kept.pid)
        await replicas.ready("r1:1", "r1:2")
        assert replicas.start("r1:1").flags["max-model-len"] == "4096"
        assert replicas.start("r1:2").flags["max-model-len"] == "4096"
        assert await send(made) in {"r1:1/r1", "r1:2/r1"}


async def test_a_reload_during_another_one_continues_from_there(vllm):
    """The replica that is not ready yet is replaced first; each replica is started with the last config once."""
    async with running_app({"r1": vllm.config(replicas=2)}) as made:
        replicas = Replicas(vllm, made)
        await replicas.ready("r1:1", "r1:2")
        vllm.habits = ["waits"]
        await reload(made, {"r1": vllm.config(replicas=2, max_model_len=1024)})
        await until(lambda: len(vllm.starts) == 3)
        vllm.habits = [""]
        await reload(made, {"r1": vllm.config(replicas=2, max_model_len=2048)})
        assert await send(made, "s") == "r1:2/r1"
        await until(lambda: len(vllm.starts) == 5)
        await replicas.ready("r1:1", "r1:2")
        assert [start.flags.get("max-model-len") for start in vllm.starts[2:]] == ["1024", "2048", "2048"]
        assert not made.app.engines._old


async def test_another_number_of_replicas_restarts_none_of_those_that_stay(vllm):
    async with running_app({"r1": vllm.config(replicas=2)}) as made:
        replicas = Replicas(vllm, made)
        await replicas.ready("r1:1", "r1:2")
        kept = [replicas.start(name) for name in ("r1:1", "r1:2")]
        await reload(made, {"r1": vllm.config(replicas=3)})
        await replicas.ready("r1:3")
        added = replicas.start("r1:3")
        await reload(made, {"r1": vllm.config(replicas=2)})
        await gone(added.pid)
        assert list(made.app.engines.by_name) == ["r1:1", "r1:2"]
        assert (len(vllm.starts), [is_running(start.pid) for start in kept]) == (3, [True, True])


async def test_one_engine_becomes_several_without_a_gap(vllm):
    """And one again. The old engine answers until the new ones are ready."""
    share = {"gpus": [0]}
    async with running_app({"r1": vllm.config(**share)}) as made:
        replicas = Replicas(vllm, made)
        await replicas.ready("r1")
        alone = replicas.start("r1")
        traffic = Traffic(made, 2)
        vllm.habits = ["waits"]
        await reload(made, {"r1": vllm.config(replicas=2, gpus=[0, 1])})
        await until(lambda: len(vllm.starts) == 2)
        await traffic.until_answered(4)
        assert is_running(alone.pid)
        vllm.habits = [""]
        replicas.start("r1:2").tell("listen")
        await gone(alone.pid)
        await replicas.ready("r1:1", "r1:2")
        await reload(made, {"r1": vllm.config(**share)})
        await replicas.ready("r1")
        await until(lambda: list(made.app.engines.by_name) == ["r1"])
        await traffic.until_answered(4)
        await traffic.end()
        assert set(traffic.answered[-2:]) == {"r1/r1"}
