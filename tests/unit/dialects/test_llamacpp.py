"""llama.cpp's server (contract B.4)."""

import json

import pytest

from tidegate.dialects.llamacpp import DIALECT
from tidegate.errors import MalformedRequest, UnsupportedParameter
from tidegate.protocol import chat, completions

USER = {"role": "user", "content": "hi"}
F = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
G = {"type": "function", "function": {"name": "g"}}


def build(*, is_stream=True, drops_params=False, **fields):
    request = chat.parse_request(json.dumps({"model": "m", "messages": [USER]} | fields).encode())
    built = DIALECT.build_request(request, model="m", is_stream=is_stream, drops_params=drops_params)
    body = json.loads(built.body)
    assert body.pop("stream", False) is is_stream
    for name in ("model", "messages", "stream_options"):
        body.pop(name, None)
    return body


def sent_messages(messages):
    request = chat.parse_request(json.dumps({"model": "m", "messages": messages}).encode())
    return json.loads(DIALECT.build_request(request, model="m", is_stream=True).body)["messages"]


def test_a_named_tool_is_sent_as_the_only_tool():
    """llama.cpp reads a named choice as "auto" (row 98)."""
    choice = {"type": "function", "function": {"name": "g"}}
    assert build(tools=[F, G], tool_choice=choice) == {"tools": [G], "tool_choice": "required"}
    choice = {"type": "function", "function": {"name": "f"}}
    assert build(tools=[F, G], tool_choice=choice) == {"tools": [F], "tool_choice": "required"}


@pytest.mark.parametrize("choice", ["auto", "none", "required"])
def test_other_choices_are_sent_unchanged(choice):
    assert build(tools=[F, G], tool_choice=choice) == {"tools": [F, G], "tool_choice": choice}


def test_a_choice_of_a_missing_tool_is_refused():
    with pytest.raises(MalformedRequest, match="'z' is not among 'tools'") as caught:
        build(tools=[F], tool_choice={"type": "function", "function": {"name": "z"}})
    assert caught.value.param == "tool_choice"


@pytest.mark.parametrize("choice", [{"type": "function", "function": 5}, {"type": "function", "function": {"name": 5}}])
def test_an_invalid_choice_is_refused(choice):
    with pytest.raises(MalformedRequest) as caught:
        build(tools=[F], tool_choice=choice)
    assert caught.value.param == "tool_choice.function.name"


def test_two_answers_at_the_end_become_one():
    """The server continues the last one, and refuses two (row 101)."""
    messages = [USER, {"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert sent_messages(messages) == [USER, {"role": "assistant", "content": "a\nb"}]


def test_many_answers_at_the_end_take_no_quadratic_time():
    """Joining each answer to all that follow would take minutes."""
    [_, joined] = sent_messages([USER] + [{"role": "assistant", "content": "x" * 100}] * 30_000)
    assert len(joined["content"]) == 101 * 30_000 - 1


def test_many_allowed_tools_take_no_quadratic_time():
    """Searching the whole list for each tool would take half a minute."""
    tools = [{"type": "function", "function": {"name": f"f{number}"}} for number in range(60_000)]
    allowed = {"mode": "required", "tools": list(reversed(tools))}
    sent = build(tools=tools, tool_choice={"type": "allowed_tools", "allowed_tools": allowed})
    assert sent == {"tools": tools, "tool_choice": "required"}


def test_a_conversation_that_ends_with_tool_calls_is_refused():
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    with pytest.raises(MalformedRequest) as caught:
        sent_messages([USER, {"role": "assistant", "content": None, "tool_calls": [call]}])
    assert caught.value.param == "messages"


def test_logprobs_with_tools_are_refused_in_a_stream():
    """llama.cpp answers with an error to a stream with both (row 100)."""
    with pytest.raises(UnsupportedParameter) as caught:
        build(tools=[F], logprobs=True)
    assert caught.value.param == "logprobs"
    assert build(tools=[F], logprobs=False) == {"tools": [F], "logprobs": False}
    assert build(tools=[], logprobs=True) == {"logprobs": True}
    assert build(tools=[F], logprobs=True, top_logprobs=2, drops_params=True) == {"tools": [F]}
    assert build(tools=[F], logprobs=True, is_stream=False) == {"tools": [F], "logprobs": True}


@pytest.mark.parametrize(
    ("fields", "sent"),
    [
        ({"reasoning_effort": "none"}, {"chat_template_kwargs": {"enable_thinking": False}}),
        ({"reasoning_effort": "high"}, {"reasoning_effort": "high"}),
        ({"reasoning": {"max_tokens": 64}}, {"thinking_budget_tokens": 64}),
        (
            {"chat_template_kwargs": {"enable_thinking": "false", "a": 1}},
            {"chat_template_kwargs": {"enable_thinking": False, "a": 1}},
        ),
        (
            {"chat_template_kwargs": {"enable_thinking": "perhaps"}},
            {"chat_template_kwargs": {"enable_thinking": "perhaps"}},
        ),
        ({"thinking": {"type": "enabled"}}, {"chat_template_kwargs": {"enable_thinking": True}}),
        ({"thinking": {"type": "disabled"}}, {"chat_template_kwargs": {"enable_thinking": False}}),
        ({"max_completion_tokens": 5}, {"max_tokens": 5}),
        ({"modalities": ["text"]}, {}),
    ],
)
def test_fields_are_renamed(fields, sent):
    assert build(**fields) == sent


@pytest.mark.parametrize("fields", [{"best_of": 2}, {"suffix": "end"}])
def test_fields_that_llama_cpp_refuses_are_refused(fields):
    """Row 104."""
    request = completions.parse_request(json.dumps({"model": "m", "prompt": "a"} | fields).encode())
    with pytest.raises(UnsupportedParameter) as caught:
        DIALECT.build_request(request, model="m", is_stream=False)
    assert caught.value.param == next(iter(fields))
