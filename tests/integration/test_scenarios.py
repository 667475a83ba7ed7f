"""Scenarios (tests/data/*/scenarios.yaml, rows of the contract's section B) have the expected request and answer."""

import aiohttp
import pytest

from tests.fakes.canonical import read_answer, read_error, read_stream
from tests.fakes.scenarios import PATHS, read_book

BOOK = read_book()
CASES = [
    pytest.param(scenario, mode, id=f"{scenario.name}-{mode}") for scenario in BOOK.scenarios for mode in scenario.modes
]


@pytest.fixture(scope="module")
async def caller():
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.mark.parametrize(("scenario", "mode"), CASES)
async def test_a_scenario_has_its_canonical_outcome(stage, caller, scenario, mode, record_property):
    """The host receives the request in its dialect; the caller receives exactly the keys of the contract."""
    record_property("scenario", (scenario.name, mode, scenario.rows))
    stage.host.received.pop((scenario.name, mode), None)
    body, path = scenario.body(mode), PATHS[scenario.entry.endpoint]
    async with caller.post(f"{stage.url}/v1{path}", json=body, headers=scenario.entry.headers) as answer:
        payload = await answer.read()
    _check_received(scenario, stage.host.received.get((scenario.name, mode)), mode)
    observed = _observe(answer, payload, scenario, mode)
    assert observed == _expected(scenario.outcome(mode), observed, mode)
    assert answer.headers.get("x-tidegate-adjusted") == (scenario.entry.adjusted if answer.status == 200 else None)


def _check_received(scenario, received, mode):
    if mode not in scenario.answers:
        assert received is None, "no answer of the host is known, so it must not have been asked"
        return
    assert received is not None, "the host was not asked"
    entry = scenario.entry
    assert {name: received.body.get(name, "(absent)") for name in entry.sent} == entry.sent
    assert [name for name in entry.absent if name in received.body] == []
    assert [name for name in entry.headers if name.lower() in received.headers] == [], (
        "a header for Tidegate was passed on"
    )
    if entry.path is not None:
        assert received.path.partition("?")[0] == entry.path.partition("?")[0]
        assert "?" not in entry.path or received.path == entry.path


def _observe(answer, body, scenario, mode):
    names, endpoint = scenario.reasoning_names, scenario.entry.endpoint
    assert answer.headers["x-request-id"].startswith("req_")
    if answer.status != 200:
        assert answer.content_type == "application/json"
        return {"error": {"status": answer.status} | read_error(body)}
    if mode == "unary":
        assert answer.content_type == "application/json"
        return read_answer(body, endpoint, scenario.name, names)
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    options = scenario.body(mode)["stream_options"] or {}
    return read_stream(body, endpoint, scenario.name, names, wants_usage=bool(options.get("include_usage")))


def _expected(outcome, observed, mode):
    """Return the outcome; values that it leaves open (ids of calls, the rest of a message) are those of `observed`."""
    expected = outcome.plain()
    for number, choice in enumerate(expected.get("choices", ())):
        if mode == "stream" and choice.get("content") == "":
            del choice["content"]  # a stream cannot distinguish it from null
        calls = observed["choices"][number].get("tool_calls", ()) if number < len(observed.get("choices", ())) else ()
        for call, observed_call in zip(choice.get("tool_calls", ()), calls, strict=False):
            call.setdefault("id", observed_call["id"])
    error, observed_error = expected.get("error"), observed.get("error")
    if error is not None and observed_error is not None:
        if error["status"] is None:
            del error["status"]
        if error["type"] is None:
            error["type"] = observed_error["type"]
        if error["message"] in observed_error["message"]:
            error["message"] = observed_error["message"]
    return expected
