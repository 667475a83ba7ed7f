"""Callers' scores of answers (`POST /v1/feedback`), over sockets."""

import aiohttp
import pytest

from tests.fakes import proxy
from tests.fakes.upstream import answers
from tests.fakes.wire import completion
from tidegate.routing.targets import Target

ASK = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
ANNA, BEN = {"authorization": "Bearer sk-anna"}, {"authorization": "Bearer sk-ben"}


@pytest.fixture
def config(config, tmp_path):
    for name in ("anna", "ben"):
        (tmp_path / name).write_text(f"sk-{name}\n")
    callers = ", ".join(f"{name}: {{key: file:{tmp_path}/{name}}}" for name in ("anna", "ben"))
    return config + f"auth: {{callers: {{{callers}}}}}\n"


@pytest.fixture
async def session(upstream):
    upstream.play(answers(completion()))
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
async def running_app(config):
    """The URL, and a function that returns the measured quality of the one target for a task."""
    async with proxy.running_app(config) as (address, app):
        yield address, lambda task: app.qualities.mean(Target("host", "there"), task)


async def ask(session, url, **body):
    async with session.post(f"{url}/v1/chat/completions", json=ASK | body, headers=ANNA) as response:
        await response.read()
        return response.headers["x-request-id"]


async def score(session, url, headers=ANNA, **body):
    async with session.post(f"{url}/v1/feedback", json=body, headers=headers) as response:
        return response.status, await response.json()


@pytest.mark.parametrize("is_stream", [False, True])
async def test_an_answer_can_be_scored_by_its_id(url, session, is_stream):
    request_id = await ask(session, url, stream=is_stream)
    reply = {"object": "feedback", "request_id": request_id, "score": 0.5}
    assert await score(session, url, request_id=request_id, score=0.5, comment="Good.") == (200, reply)
    assert await score(session, url, request_id=request_id, score=-1) == (200, reply | {"score": -1.0})


async def test_another_callers_answer_is_not_found(url, session):
    request_id = await ask(session, url)
    for headers, answer_id in ((BEN, request_id), (ANNA, "req_never-was")):
        status, body = await score(session, url, headers, request_id=answer_id, score=1)
        error = body["error"]
        assert (status, error["type"], error["param"], error["code"]) == (
            404,
            "invalid_request_error",
            "request_id",
            "answer_not_found",
        )


async def test_a_score_without_a_key_is_refused(url, session):
    status, body = await score(session, url, {}, request_id="req-1234", score=1)
    assert (status, body["error"]["code"]) == (401, "invalid_api_key")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"score": 1}, "request_id"),
        ({"request_id": "req-1234"}, "score"),
        ({"request_id": "req-1234", "score": 2}, "score"),
        ({"request_id": "req-1234", "score": "good"}, "score"),
        ({"request_id": "", "score": 1}, "request_id"),
        ({"request_id": "req-1234", "score": 1, "comment": 7}, "comment"),
    ],
)
async def test_an_invalid_score_is_refused_with_the_field_at_fault(url, session, body, param):
    status, reply = await score(session, url, **body)
    assert (status, reply["error"]["param"]) == (400, param)


async def test_other_methods_than_post_are_refused(url, session):
    async with session.get(f"{url}/v1/feedback", headers=ANNA) as response:
        assert (response.status, response.headers["allow"]) == (405, "POST")


async def test_a_request_that_failed_has_no_answer_to_be_scored(url, session, upstream):
    upstream.play(answers(b'{"error": {"message": "no"}}', status=400))
    request_id = await ask(session, url)
    status, _ = await score(session, url, request_id=request_id, score=1)
    assert status == 404


async def test_a_good_score_raises_the_quality_of_the_target(running_app, session):
    url, quality = running_app
    await score(session, url, request_id=await ask(session, url), score=1)
    assert quality("chat") > 0.5


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize(
    ("fields", "task", "is_good"),
    [
        ({"response_format": {"type": "json_object"}}, "json", False),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools", True),
    ],
)
async def test_answers_that_must_be_json_or_may_call_tools_are_checked(
    running_app, session, is_stream, fields, task, is_good
):
    """The host answers `Hi` to every request: that is no JSON, but fine where tools are only offered."""
    url, quality = running_app
    await ask(session, url, stream=is_stream, **fields)
    assert (quality(task) > 0.5) == is_good
    assert quality(task) != 0.5
    assert quality("chat") == 0.5
