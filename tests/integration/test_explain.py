"""What the administrator is shown of a request's candidates and of every target; and what callers are shown."""

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
        session.post(f"{url}/admin/explain", json=body, headers=headers) as response,
    ):
        return response.status, await response.json()


async def test_every_candidate_is_shown_with_its_position_and_the_reason(url, upstream, other):
    status, report = await explain(url)
    assert status == 200
    assert (report["model"], report["policy"], report["reach"], report["task"]) == (
        "m",
        "least_cost",
        "any",
        "chat",
    )
    by_target = {each["target"]: each for each in report["candidates"]}
    assert list(by_target) == ["ours/there", "cheap/there", "dear/there"]
    assert (by_target["ours/there"]["place"], by_target["ours/there"]["why"]) == (1, "its engine is starting")
    assert (by_target["cheap/there"]["place"], by_target["cheap/there"]["why"]) == (
        2,
        "least_cost: by its price for this request",
    )
    assert 0 < by_target["cheap/there"]["score"] < 0.001
    assert "place" not in by_target["dear/there"]
    assert "more than the model's max_price_usd" in by_target["dear/there"]["why"]
    assert (upstream.calls, other.calls) == ([], [])


async def test_a_target_without_a_free_slot_is_shown_as_full(upstream, other):
    upstream.play(hangs)
    concurrency = "{limit: 1, queue: 5}"
    text = f"""
upstreams:
  far: {{base_url: "{upstream.url}", concurrency: {concurrency}}}
  open: {{base_url: "{other.url}"}}
models: {{m: {{targets: [{{upstream: far, model: a}}, {{upstream: open, model: b}}]}}}}
"""
    async with proxy.serving(text) as address, aiohttp.ClientSession() as session:
        _, report = await explain(address)
        assert [(each["is_full"], each["queue"]) for each in report["candidates"] if "is_full" in each] == []
        asking = asyncio.create_task(session.post(f"{address}/v1/chat/completions", json=ASK))
        call = await upstream.next_call()
        _, report = await explain(address)
        assert [each.get("is_full", False) for each in report["candidates"]] == [True, False]
        asking.cancel()
        await call.gone.wait()


async def test_a_reach_is_explained_too(url):
    _, report = await explain(url, **{"x-tidegate-reach": "local_only"})
    assert [(each["target"], each.get("place")) for each in report["candidates"]] == [
        ("ours/there", 1),
        ("dear/there", None),
        ("cheap/there", None),
    ]
    assert "local engines only" in report["candidates"][1]["why"]


async def test_an_invalid_request_cannot_be_explained(url):
    status, report = await explain(url, {"model": "nobody", "messages": ASK["messages"]})
    assert (status, report["error"]["code"]) == (404, "model_not_found")
    status, report = await explain(url, {"model": "m"})
    assert (status, report["error"]["param"]) == (400, "messages")


async def test_an_answers_headers_say_which_target_it_came_from(url, upstream, other):
    upstream.play(answers(b"{}", status=503))
    other.play(answers(completion("Hello.")))
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="-", max_retries=0) as client:
        raw = await client.chat.completions.with_raw_response.create(**ASK | {"model": "plain"})
    assert raw.headers["x-tidegate-target"] == "dear/there"
    assert raw.headers["x-tidegate-attempts"] == "2"
    assert raw.headers["x-tidegate-cache"] == "none"
    assert 0 <= float(raw.headers["x-tidegate-overhead-ms"]) < 60_000


async def test_a_model_name_cannot_break_a_header(url, upstream):
    upstream.play(answers(completion("Hello.")))
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="-", max_retries=0) as client:
        model = "cheap/a\r\nx-evil: ü"
        raw = await client.chat.completions.with_raw_response.create(**ASK | {"model": model})
    assert raw.headers["x-tidegate-target"] == "cheap/a??x-evil:??"
    assert "x-evil" not in raw.headers


async def test_every_target_that_was_used_is_reported(url, upstream):
    upstream.play(answers(completion("Hello.")))
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="-", max_retries=0) as client:
        await client.chat.completions.create(**ASK | {"model": "plain"})
    async with aiohttp.ClientSession() as session, session.get(f"{url}/admin/targets") as response:
        report = await response.json()
    by_target = {each["target"]: each for each in report["targets"]}
    assert report["is_offline"] is False
    assert by_target["cheap/there"]["health"] == "ok"
    assert (by_target["cheap/there"]["in_flight"], by_target["cheap/there"]["failure_rate"]) == (0, 0)
    assert by_target["cheap/there"]["ttft_s"] > 0


async def test_configured_targets_are_reported_and_measured_before_any_request(url):
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{url}/admin/targets") as response:
            report = await response.json()
        async with session.get(f"{url}/metrics") as response:
            metrics = await response.text()
    assert [each["target"] for each in report["targets"]] == ["dear/there", "cheap/there", "ours/there"]
    assert 'tidegate_target_out{target="cheap/there"} 0.0' in metrics
    assert "tidegate_offline 0.0" in metrics
