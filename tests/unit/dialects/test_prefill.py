"""How each host is asked to go on with an answer that broke off."""

import json

import pytest
from msgspec.structs import replace
from tidegate.config.cards import Card
from tidegate.dialects.registry import DIALECTS
from tidegate.errors import UpstreamLacksModel
from tidegate.protocol import chat, completions

ASK = {"model": "m", "messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "hi"}]}
SAID = "It was a dark and stormy"


def build(dialect, *, card=None, **fields):
    request = replace(chat.parse_request(json.dumps(ASK | fields).encode()), prefix=SAID)
    return DIALECTS[dialect].build_request(request, model="m", is_stream=True, card=card or Card())


def sent(dialect, **fields):
    return json.loads(build(dialect, **fields).body)


@pytest.mark.parametrize("dialect", ["vllm", "sglang", "llamacpp"])
def test_engines_are_told_that_the_last_message_is_open(dialect):
    body = sent(dialect)
    assert body["messages"] == [*ASK["messages"], {"role": "assistant", "content": SAID}]
    assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)
    assert build(dialect).path == "/chat/completions"


def test_deepseek_goes_on_from_a_prefix_below_beta():
    """Row 15."""
    assert sent("deepseek")["messages"][-1] == {"role": "assistant", "content": SAID, "prefix": True}
    assert build("deepseek").path == "/beta/chat/completions"


@pytest.mark.parametrize("dialect", ["vllm", "sglang", "llamacpp"])
@pytest.mark.parametrize("fields", [{}, {"reasoning_effort": "high"}, {"chat_template_kwargs": {"thinking": True}}])
def test_an_answer_that_has_begun_is_not_thought_over_at_engines(dialect, fields):
    """Their templates and parsers would take its rest for thinking."""
    switches = sent(dialect, **fields)["chat_template_kwargs"]
    assert switches["enable_thinking"] is False
    assert "reasoning_effort" not in sent(dialect, **fields)


def test_an_answer_that_has_begun_is_not_thought_over_at_deepseek():
    assert sent("deepseek", reasoning_effort="high")["thinking"] == {"type": "disabled"}


@pytest.mark.parametrize("thinking", ["always", "never"])
def test_what_cannot_be_switched_is_left_as_it_is(thinking):
    assert "chat_template_kwargs" not in sent("vllm", card=Card(thinking=thinking))


@pytest.mark.parametrize("name", sorted(set(DIALECTS) - {"vllm", "sglang", "llamacpp", "deepseek"}))
def test_who_does_not_say_that_it_can_is_never_asked(name):
    assert not DIALECTS[name].can_go_on("chat")
    with pytest.raises(UpstreamLacksModel):
        build(name)


def test_a_completion_goes_on_from_any_text():
    request = replace(completions.parse_request(b'{"model":"m","prompt":"Once. "}'), prefix=SAID)
    for name in ("vllm", "openai", "deepseek"):
        assert DIALECTS[name].can_go_on("completions")
        body = json.loads(DIALECTS[name].build_request(request, model="m", is_stream=True).body)
        assert body["prompt"] == f"Once. {SAID}"


def test_without_a_prefix_nothing_of_it_goes_out():
    request = chat.parse_request(json.dumps(ASK).encode())
    host_request = DIALECTS["deepseek"].build_request(request, model="m", is_stream=True)
    assert host_request.path == "/chat/completions"
    assert json.loads(host_request.body)["messages"] == ASK["messages"]
