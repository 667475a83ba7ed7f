"""Building the request for an item, and reading the answer."""

import json

import pytest

from tidegate.evals.client import NotAnswered, read_answer, request_body
from tidegate.evals.grading import ModelAnswer, ReceivedCall
from tidegate.evals.items import shipped

SET = shipped()


def body_of(task):
    item = next(item for item in SET.items if item.task == task)
    return request_body("host/m", item, SET)


def completion(**message):
    return json.dumps({"choices": [{"message": message}]}).encode()


def test_an_item_becomes_a_request_to_one_target_at_temperature_0():
    body = body_of("chat")
    assert (body["model"], body["temperature"], body["messages"][1]["role"]) == ("host/m", 0, "user")
    assert not body.keys() & {"tools", "response_format"}


def test_json_and_tools_are_requested_as_callers_do():
    assert body_of("json")["response_format"] == {"type": "json_object"}
    assert len(body_of("tools")["tools"]) == 5


def test_the_text_and_the_tool_calls_of_an_answer_are_read():
    assert read_answer(200, completion(content="Oslo", role="assistant")) == ModelAnswer("Oslo")
    called = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    assert read_answer(200, completion(content=None, tool_calls=[called])) == ModelAnswer(
        "", (ReceivedCall("f", "{}"),)
    )


def test_an_error_raises_not_answered_with_its_message():
    error = {"error": {"message": "No such model.", "type": "x", "param": None, "code": None}}
    with pytest.raises(NotAnswered, match=r"^No such model\.$") as caught:
        read_answer(404, json.dumps(error).encode())
    assert caught.value.status == 404


@pytest.mark.parametrize(
    ("status", "body"),
    [(200, b""), (200, b'{"choices": []}'), (200, b"\xff"), (502, b"<html>"), (200, b"[" * 100_000), (302, b"{}")],
)
def test_an_answer_of_another_server_than_tidegate_is_recognised(status, body):
    with pytest.raises(NotAnswered, match="not Tidegate"):
        read_answer(status, body)
