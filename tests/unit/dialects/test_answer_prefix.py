"""How each host is asked to continue an answer that broke off."""

import json

import pytest
from msgspec.structs import replace

from tidegate.config.cards import Card
from tidegate.dialects.registry import DIALECTS
from tidegate.errors import UpstreamLacksModel
from tidegate.protocol import chat, completions

REQUEST = {"model": "m", "messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "hi"}]}
PREFIX = "It was a dark and stormy"


def build(dialect, *, card=None, **fields):
    request = replace(chat.parse_request(json.dumps(REQUEST | fields).encode()), prefix=PREFIX)
    return DIALECTS[dialect].build_request(request, model="m", is_stream=True, card=card or Card())


def sent(dialect, **fields):
    return json.loads(build(dialect, **fields).body)


@pytest.mark.parametrize("dialect", ["vllm", "sglang", "llamacpp"])
def test_engines_are_sent_the_fields_that_continue_the_last_message(dialect):
    body = sent(dialect)
    assert body["messages"] == [*REQUEST["messages"], {"role": "assistant", "content": PREFIX}]
    assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)
    assert build(dialect).path == "/chat/completions"


def test_deepseek_continues_a_prefix_at_its_beta_url():
    """Row 15."""
    assert sent("deepseek")["messages"][-1] == {"role": "assistant", "content": PREFIX, "prefix": True}
    assert build("deepseek").path == "/beta/chat/completions"


@pytest.mark.parametrize("dialect", ["vllm", "sglang", "llamacpp"])
@pytest.mark.parametrize("fields", [{}, {"reasoning_effort": "high"}, {"chat_template_kwargs": {"thinking": True}}])
def test_engines_do_not_think_again_when_they_continue_an_answer(dialect, fields):
    """Their templates and parsers would take the rest of the answer for thinking."""
    switches = sent(dialect, **fields)["chat_template_kwargs"]
    assert switches["enable_thinking"] is False
    assert "reasoning_effort" not in sent(dialect, **fields)


def test_deepseek_does_not_think_again_when_it_continues_an_answer():
    assert sent("deepseek", reasoning_effort="high")["thinking"] == {"type": "disabled"}


@pytest.mark.parametrize("thinking", ["always", "never"])
def test_thinking_that_cannot_be_switched_stays_unchanged(thinking):
    assert "chat_template_kwargs" not in sent("vllm", card=Card(thinking=thinking))


@pytest.mark.parametrize("name", sorted(set(DIALECTS) - {"vllm", "sglang", "llamacpp", "deepseek"}))
def test_hosts_without_a_way_to_continue_are_not_asked_to(name):
    assert not DIALECTS[name].can_continue("chat")
    with pytest.raises(UpstreamLacksModel):
        build(name)


def test_a_completion_continues_any_text():
    request = replace(completions.parse_request(b'{"model":"m","prompt":"Once. "}'), prefix=PREFIX)
    for name in ("vllm", "openai", "deepseek"):
        assert DIALECTS[name].can_continue("completions")
        body = json.loads(DIALECTS[name].build_request(request, model="m", is_stream=True).body)
        assert body["prompt"] == f"Once. {PREFIX}"


def test_without_a_prefix_no_field_for_it_is_sent():
    request = chat.parse_request(json.dumps(REQUEST).encode())
    host_request = DIALECTS["deepseek"].build_request(request, model="m", is_stream=True)
    assert host_request.path == "/chat/completions"
    assert json.loads(host_request.body)["messages"] == REQUEST["messages"]
