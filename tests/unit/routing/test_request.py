"""The facts about a request that routing uses."""

import json

import pytest

from tidegate.protocol import chat, completions, embeddings
from tidegate.routing.request import RoutingRequest

HI = {"role": "user", "content": "Hi"}


def routing_request(fields=None, *, parse=chat.parse_request, **settings):
    body = {"model": "m", "messages": [HI]} | (fields or {})
    return RoutingRequest(parse(json.dumps(body).encode()), **settings)


def test_a_prompt_has_about_a_token_for_four_bytes():
    long = routing_request({"messages": [{"role": "user", "content": "x" * 4000}]})
    assert 1000 <= long.prompt_tokens <= 1020
    assert routing_request().prompt_tokens >= 1


def test_tools_count_to_the_prompt():
    tool = {"type": "function", "function": {"name": "f", "description": "x" * 4000}}
    assert routing_request({"tools": [tool]}).prompt_tokens > 1000


def test_an_image_is_not_counted_by_its_bytes():
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 400_000}}
    request = routing_request({"messages": [{"role": "user", "content": [image, image]}]})
    assert 1024 <= request.prompt_tokens <= 1100


TOOL = {"type": "function", "function": {"name": "f"}}
NAMED = {"type": "function", "function": {"name": "f"}}


@pytest.mark.parametrize(
    ("fields", "needs_tools"),
    [
        ({}, False),
        ({"tools": []}, False),
        ({"tools": None, "tool_choice": "auto"}, False),
        ({"tools": [TOOL]}, True),
        ({"tools": [TOOL], "tool_choice": None}, True),
        ({"tools": [TOOL], "tool_choice": "auto"}, True),
        ({"tools": [TOOL], "tool_choice": {"type": "auto"}}, True),
        ({"tools": [TOOL], "tool_choice": "required"}, True),
        ({"tools": [TOOL], "tool_choice": NAMED}, True),
        ({"tools": [TOOL], "tool_choice": "none"}, False),
        ({"tools": [TOOL], "tool_choice": {"type": "none"}}, False),
        ({"functions": [{"name": "f"}]}, True),
        ({"functions": [{"name": "f"}], "function_call": {"name": "f"}}, True),
        ({"functions": [{"name": "f"}], "function_call": "none"}, False),
        ({"functions": [{"name": "f"}], "tool_choice": "none"}, True),
        ({"functions": [], "tools": [TOOL], "tool_choice": "none"}, False),
    ],
)
def test_tools_are_needed_where_one_may_be_called(fields, needs_tools):
    assert routing_request(fields).needs_tools is needs_tools
    assert not routing_request(fields, drops_params=True).needs_tools


@pytest.mark.parametrize(
    "content",
    [
        "data:" + "x" * 400_000,
        "data:image/png;base64," + "A" * 400_000,
        [{"type": "text", "text": "data:image/png;base64," + "A" * 400_000}],
        [{"type": "image_url", "image_url": {"url": "data:image/png;base64," + "a word " * 57_000}}],
    ],
)
def test_text_that_looks_like_an_image_is_counted_by_its_bytes(content):
    """Otherwise a long prompt could count as a short one."""
    assert routing_request({"messages": [{"role": "user", "content": content}]}).prompt_tokens > 90_000


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, 256),
        ({"max_tokens": 10}, 10),
        ({"max_completion_tokens": 10, "max_tokens": None}, 10),
        ({"max_completion_tokens": 10, "max_tokens": 5}, 5),
        ({"max_tokens": 100_000}, 256),
        ({"max_tokens": 10, "n": 3}, 30),
        ({"n": 128}, 256 * 128),
        ({"n": None}, 256),
    ],
)
def test_answers_are_of_a_middling_length_but_no_longer_than_allowed(fields, expected):
    assert routing_request(fields).answer_tokens == expected


@pytest.mark.parametrize(("fields", "copies"), [({"best_of": 4}, 4), ({"best_of": 4, "n": 2}, 4), ({"n": 2}, 2)])
def test_all_generated_answers_are_counted(fields, copies):
    request = routing_request(
        {"messages": None, "prompt": "Hi", "max_tokens": 10} | fields, parse=completions.parse_request
    )
    assert request.answer_tokens == 10 * copies


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ('"best_of":1e999', 256 * 128),
        ('"best_of":' + "9" * 400, 256 * 128),
        ('"max_tokens":1e999', 256),
        ('"max_tokens":-1e999', 1),
        ('"max_tokens":0.5,"n":-3', 1),
    ],
)
def test_any_number_is_accepted_in_a_field_that_the_endpoint_ignores(fields, expected):
    request = RoutingRequest(embeddings.parse_request(f'{{"model":"m","input":"Hi",{fields}}}'.encode()))
    assert request.answer_tokens == expected


TOOL = {"type": "function", "function": {"name": "f"}}


@pytest.mark.parametrize(
    ("fields", "task"),
    [
        ({}, "chat"),
        ({"tools": []}, "chat"),
        ({"tools": [TOOL]}, "tools"),
        ({"response_format": {"type": "text"}}, "chat"),
        ({"response_format": {"type": "json_object"}}, "json"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}}, "json"),
        ({"response_format": {"type": "json_object"}, "tools": [TOOL]}, "tools"),
    ],
)
def test_the_task_is_read_from_the_fields(fields, task):
    assert routing_request(fields).task == task


def test_the_other_endpoints_have_tasks_of_their_own():
    assert routing_request({"prompt": "x"}, parse=completions.parse_request).task == "completion"
    assert routing_request({"input": "x"}, parse=embeddings.parse_request).task == "embedding"


SYSTEM = {"role": "system", "content": "Be brief."}
TURNS = [SYSTEM, HI, {"role": "assistant", "content": "Hello."}, {"role": "user", "content": "Go on."}]


def test_all_turns_of_a_conversation_have_one_key():
    """The key is that of everything up to the first user message."""
    assert routing_request({"messages": TURNS[:2]}).affinity == routing_request({"messages": TURNS}).affinity
    other = {"role": "user", "content": "Ho"}
    assert routing_request({"messages": [SYSTEM, other]}).affinity != routing_request({"messages": TURNS}).affinity


def test_the_key_of_a_named_session_does_not_depend_on_the_messages():
    named = routing_request({"prompt_cache_key": "s1"})
    assert named.affinity == routing_request({"prompt_cache_key": "s1", "messages": TURNS}).affinity
    assert named.affinity == routing_request(session="s1").affinity
    assert named.affinity != routing_request({"prompt_cache_key": "s2"}).affinity


def test_sessions_of_two_callers_have_different_keys():
    assert routing_request(session="s1", caller="a").affinity != routing_request(session="s1", caller="b").affinity
    assert routing_request(caller="a").affinity != routing_request(caller="b").affinity


@pytest.mark.parametrize("parse", [completions.parse_request, embeddings.parse_request])
def test_a_prompt_without_messages_has_the_key_of_its_head(parse):
    head = "x" * 1100
    requests = [routing_request({"prompt": head + tail, "input": head + tail}, parse=parse) for tail in ("", "a", "b")]
    assert len({each.affinity for each in requests}) == 1
