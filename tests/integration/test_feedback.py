"""What callers say of answers, over sockets."""

import aiohttp
import pytest
from tidegate.routing.targets import Target

from tests.fakes import proxy
from tests.fakes.upstream import answers
from tests.fakes.wire import completion

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
    async with aiohttp.ClientSession() as made:
        yield made


@pytest.fixture
async def running_app(config):
    """The URL, and what is thought of the one target at a task."""
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
    told = {"object": "feedback", "request_id": request_id, "score": 0.5}
    assert await score(session, url, request_id=request_id, score=0.5, comment="Good.") == (200, told)
    assert await score(session, url, request_id=request_id, score=-1) == (200, told | {"score": -1.0})


async def test_another_callers_answer_is_not_found(url, session):
    request_id = await ask(session, url)
    for headers, wanted in ((BEN, request_id), (ANNA, "req_never-was")):
        status, body = await score(session, url, headers, request_id=wanted, score=1)
        error = body["error"]
        assert (status, error["type"], error["param"], error["code"]) == (
            404,
            "invalid_request_error",
            "request_id",
            "answer_not_found",
        )


async def test_who_shows_no_key_is_not_heard(url, session):
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
async def test_what_is_wrong_with_a_score_is_said_in_openais_words(url, session, body, param):
    status, told = await score(session, url, **body)
    assert (status, told["error"]["param"]) == (400, param)


async def test_a_score_is_posted(url, session):
    async with session.get(f"{url}/v1/feedback", headers=ANNA) as response:
        assert (response.status, response.headers["allow"]) == (405, "POST")


async def test_a_request_that_failed_has_no_answer_to_be_scored(url, session, upstream):
    upstream.play(answers(b'{"error": {"message": "no"}}', status=400))
    request_id = await ask(session, url)
    status, _ = await score(session, url, request_id=request_id, score=1)
    assert status == 404


async def test_a_score_is_heard(running_app, session):
    url, quality = running_app
    await score(session, url, request_id=await ask(session, url), score=1)
    assert quality("chat") > 0.5


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize(
    ("wanted", "task", "is_good"),
    [
        ({"response_format": {"type": "json_object"}}, "json", False),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools", True),
    ],
)
async def test_an_answer_is_looked_at_where_it_was_to_be_of_a_form(
    running_app, session, is_stream, wanted, task, is_good
):
    """Of a host that answers a greeting, whatever it is asked."""
    url, quality = running_app
    await ask(session, url, stream=is_stream, **wanted)
    assert (quality(task) > 0.5) == is_good
    assert quality(task) != 0.5
    assert quality("chat") == 0.5
