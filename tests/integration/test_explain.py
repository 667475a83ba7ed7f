"""What the administrator is told of a request's way, and of every target; and what callers are."""

import asyncio

import aiohttp
import openai
import pytest

from tests.fakes import proxy
from tests.fakes.upstream import ScenarioUpstream, answers, hangs
from tests.fakes.wire import completion

ASK = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}


@pytest.fixture
async def other():
    async with ScenarioUpstream().running() as running:
        yield running


@pytest.fixture
async def url(upstream, other):
    config = f"""
upstreams:
  cheap: {{base_url: "{upstream.url}"}}
  dear: {{base_url: "{other.url}"}}
engines: {{ours: {{kind: external, base_url: "http://127.0.0.1:9/v1"}}}}
cards:
  cheap: {{price: {{input_usd_per_mtok: "0.1", output_usd_per_mtok: "0.2"}}}}
  dear: {{price: {{input_usd_per_mtok: "1000", output_usd_per_mtok: "2000"}}}}
models:
  m:
    policy: least_cost
    max_price_usd: 0.01
    targets:
      - {{upstream: dear, model: there, card: dear}}
      - {{upstream: cheap, model: there, card: cheap}}
      - {{engine: ours, model: there}}
  plain: {{targets: [{{upstream: cheap, model: there}}, {{upstream: dear, model: there}}]}}
"""
    async with proxy.serving(config) as address:
        yield address


async def explain(url, body=ASK, **headers):
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/admin/explain", json=body, headers=headers) as told,
    ):
        return told.status, await told.json()


async def test_every_candidate_is_told_with_its_place_and_why(url, upstream, other):
    status, told = await explain(url)
    assert status == 200
    assert (told["model"], told["policy"], told["reach"], told["task"]) == ("m", "least_cost", "any", "chat")
    found = {each["target"]: each for each in told["candidates"]}
    assert list(found) == ["ours/there", "cheap/there", "dear/there"]
    assert (found["ours/there"]["place"], found["ours/there"]["why"]) == (1, "its engine is starting")
    assert (found["cheap/there"]["place"], found["cheap/there"]["why"]) == (
        2,
        "least_cost: by its price for this request",
    )
    assert 0 < found["cheap/there"]["score"] < 0.001
    assert "place" not in found["dear/there"]
    assert "more than the model's max_price_usd" in found["dear/there"]["why"]
    assert (upstream.calls, other.calls) == ([], [])


async def test_who_has_no_place_free_is_told_so(upstream, other):
    upstream.play(hangs)
    places = "{limit: 1, queue: 5}"
    text = f"""
upstreams:
  far: {{base_url: "{upstream.url}", concurrency: {places}}}
  open: {{base_url: "{other.url}"}}
models: {{m: {{targets: [{{upstream: far, model: a}}, {{upstream: open, model: b}}]}}}}
"""
    async with proxy.serving(text) as address, aiohttp.ClientSession() as session:
        _, told = await explain(address)
        assert [(each["is_full"], each["queue"]) for each in told["candidates"] if "is_full" in each] == []
        asking = asyncio.create_task(session.post(f"{address}/v1/chat/completions", json=ASK))
        call = await upstream.next_call()
        _, told = await explain(address)
        assert [each.get("is_full", False) for each in told["candidates"]] == [True, False]
        asking.cancel()
        await call.gone.wait()


async def test_a_reach_is_explained_too(url):
    _, told = await explain(url, **{"x-tidegate-reach": "local_only"})
    assert [(each["target"], each.get("place")) for each in told["candidates"]] == [
        ("ours/there", 1),
        ("dear/there", None),
        ("cheap/there", None),
    ]
    assert "may not leave" in told["candidates"][1]["why"]


async def test_what_cannot_be_asked_cannot_be_explained(url):
    status, told = await explain(url, {"model": "nobody", "messages": ASK["messages"]})
    assert (status, told["error"]["code"]) == (404, "model_not_found")
    status, told = await explain(url, {"model": "m"})
    assert (status, told["error"]["param"]) == (400, "messages")


async def test_an_answer_says_where_it_came_from(url, upstream, other):
    upstream.play(answers(b"{}", status=503))
    other.play(answers(completion("Hello.")))
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="-", max_retries=0) as client:
        raw = await client.chat.completions.with_raw_response.create(**ASK | {"model": "plain"})
    assert raw.headers["x-tidegate-target"] == "dear/there"
    assert raw.headers["x-tidegate-attempts"] == "2"
    assert raw.headers["x-tidegate-cache"] == "none"
    assert 0 <= float(raw.headers["x-tidegate-overhead-ms"]) < 60_000


async def test_a_name_of_the_callers_own_cannot_break_a_header(url, upstream):
    upstream.play(answers(completion("Hello.")))
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="-", max_retries=0) as client:
        model = "cheap/a\r\nx-evil: ü"
        raw = await client.chat.completions.with_raw_response.create(**ASK | {"model": model})
    assert raw.headers["x-tidegate-target"] == "cheap/a??x-evil:??"
    assert "x-evil" not in raw.headers


async def test_every_target_that_was_asked_is_told_of(url, upstream):
    upstream.play(answers(completion("Hello.")))
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="-", max_retries=0) as client:
        await client.chat.completions.create(**ASK | {"model": "plain"})
    async with aiohttp.ClientSession() as session, session.get(f"{url}/admin/targets") as response:
        told = await response.json()
    found = {each["target"]: each for each in told["targets"]}
    assert told["is_offline"] is False
    assert found["cheap/there"]["health"] == "ok"
    assert (found["cheap/there"]["in_flight"], found["cheap/there"]["failure_rate"]) == (0, 0)
    assert found["cheap/there"]["ttft_s"] > 0


async def test_what_the_config_names_is_told_of_though_nobody_asked_and_is_measured(url):
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{url}/admin/targets") as response:
            told = await response.json()
        async with session.get(f"{url}/metrics") as response:
            metrics = await response.text()
    assert [each["target"] for each in told["targets"]] == ["dear/there", "cheap/there", "ours/there"]
    assert 'tidegate_target_out{target="cheap/there"} 0.0' in metrics
    assert "tidegate_offline 0.0" in metrics
