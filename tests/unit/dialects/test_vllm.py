"""vLLM's OpenAI server (contract B.2)."""

import json

import pytest

from tidegate.config.cards import Card
from tidegate.dialects.registry import DIALECTS
from tidegate.dialects.vllm import DIALECT
from tidegate.protocol import chat, completions, embeddings

USER = {"role": "user", "content": "hi"}


def build(**fields):
    request = chat.parse_request(json.dumps({"model": "m", "messages": [USER]} | fields).encode())
    body = json.loads(DIALECT.build_request(request, model="m", is_stream=False).body)
    del body["model"], body["messages"]
    return body


OFF = {"thinking": False, "enable_thinking": False}
ON = {"thinking": True, "enable_thinking": True}


@pytest.mark.parametrize(
    ("fields", "sent"),
    [
        ({"reasoning_effort": "none"}, {"chat_template_kwargs": OFF}),
        ({"thinking": {"type": "disabled"}}, {"chat_template_kwargs": OFF}),
        ({"thinking": {"type": "enabled"}}, {"chat_template_kwargs": ON}),
        ({"thinking": {"type": "enabled"}, "reasoning_effort": "none"}, {"chat_template_kwargs": OFF}),
        (
            {"thinking": {"type": "enabled"}, "reasoning_effort": "max"},
            {"chat_template_kwargs": ON, "reasoning_effort": "max"},
        ),
        ({"reasoning_effort": "minimal"}, {"reasoning_effort": "low"}),
        ({"reasoning_effort": "low"}, {"reasoning_effort": "low"}),
        ({"reasoning_effort": "medium"}, {"reasoning_effort": "high"}),
        ({"reasoning_effort": "xhigh"}, {"reasoning_effort": "xhigh"}),
        ({"chat_template_kwargs": {"thinking": True}}, {"chat_template_kwargs": {"thinking": True}}),
        (
            {"chat_template_kwargs": {"thinking": True}, "reasoning_effort": "none"},
            {"chat_template_kwargs": {"thinking": True, "enable_thinking": False}},
        ),
    ],
)
def test_thinking_is_switched_in_the_template(fields, sent):
    """The server ignores `thinking` (row 54); V4.1 answers 400 to some efforts (row 63)."""
    assert build(**fields) == sent


def test_past_reasoning_is_sent_as_reasoning():
    """Row 34."""
    messages = [USER, {"role": "assistant", "content": "a", "reasoning_content": "hm"}, USER]
    request = chat.parse_request(json.dumps({"model": "m", "messages": messages}).encode())
    sent = json.loads(DIALECT.build_request(request, model="m", is_stream=False).body)["messages"]
    assert sent[1] == {"role": "assistant", "content": "a", "reasoning": "hm"}


@pytest.mark.parametrize(
    ("fields", "sent"),
    [
        ({"n": 2, "temperature": 0}, {"n": 2, "temperature": 0.01}),
        ({"n": 1, "temperature": 0}, {"n": 1, "temperature": 0}),
        ({"top_p": 0}, {"top_p": 1e-06}),
        ({"guided_choice": ["a"]}, {"structured_outputs": {"choice": ["a"]}}),
        (
            {"guided_regex": "a", "guided_json": {}, "structured_outputs": {"regex": "b"}},
            {"structured_outputs": {"json": {}, "regex": "b"}},
        ),
    ],
)
def test_values_that_only_openai_accepts_are_changed(fields, sent):
    """Rows 55 and 76d."""
    assert build(**fields) == sent


def test_a_limit_over_the_window_is_left_out():
    """The rest of the context window is then the limit (76d)."""
    request = chat.parse_request(json.dumps({"model": "m", "messages": [USER], "max_tokens": 4096}).encode())
    built = DIALECT.build_request(request, model="m", is_stream=False, card=Card(context_window=4096))
    assert "max_tokens" not in json.loads(built.body)
    assert built.adjusted == ["max_tokens=dropped"]


def test_legacy_completions_are_adjusted_too():
    """Rows 55 and 76d apply to them too."""
    body = {"model": "m", "prompt": "hi", "n": 2, "temperature": 0, "stop": [""], "guided_regex": "a"}
    request = completions.parse_request(json.dumps(body).encode())
    built = DIALECT.build_request(request, model="m", is_stream=False)
    expected = {"model": "m", "prompt": "hi", "n": 2, "temperature": 0.01, "structured_outputs": {"regex": "a"}}
    assert json.loads(built.body) == expected
    assert built.adjusted == ["temperature=0.01"]


@pytest.mark.parametrize(
    ("efforts", "sent"), [(None, "high"), ({}, "medium"), ({"medium": "low"}, "low"), ({"high": "max"}, "medium")]
)
def test_the_card_maps_the_efforts_of_a_model(efforts, sent):
    """An effort that is not in the card is sent unchanged."""
    request = chat.parse_request(json.dumps({"model": "m", "messages": [USER], "reasoning_effort": "medium"}).encode())
    built = DIALECT.build_request(request, model="m", is_stream=False, card=Card(efforts=efforts))
    assert json.loads(built.body)["reasoning_effort"] == sent
    assert built.adjusted == ([] if sent == "medium" else [f"reasoning_effort={sent}"])


def test_an_effort_switches_on_thinking_if_the_model_does_not_think_by_default():
    """V3.1 thinks only if its template's switch is set (row 64)."""
    request = chat.parse_request(json.dumps({"model": "m", "messages": [USER], "reasoning_effort": "high"}).encode())
    built = DIALECT.build_request(request, model="m", is_stream=False, card=Card(thinking="off"))
    assert json.loads(built.body)["chat_template_kwargs"] == ON


def test_either_name_of_the_limit_is_sent():
    assert build(max_completion_tokens=5) == {"max_completion_tokens": 5}
    assert build(max_tokens=5) == {"max_tokens": 5}


@pytest.mark.parametrize("name", ["temperature", "top_p", "n", "max_tokens"])
def test_fields_that_embeddings_do_not_have_are_not_read_as_numbers(name):
    """The server decides about them."""
    request = embeddings.parse_request(json.dumps({"model": "m", "input": "hi", name: "x"}).encode())
    card = Card(context_window=100)
    assert json.loads(DIALECT.build_request(request, model="m", is_stream=False, card=card).body)[name] == "x"


def test_each_callers_prompts_have_their_own_cache():
    """Otherwise a caller could find out another one's prompts by measuring time; callers without a key share one."""
    request = chat.parse_request(b'{"model": "m", "messages": [{"role": "user", "content": "Hi"}]}')

    def salt(dialect, salt_caller):
        built = dialect.build_request(request, model="m", is_stream=False, salt_caller=salt_caller)
        return json.loads(built.body).get("cache_salt")

    assert len(salt(DIALECT, "alice")) == 43
    assert salt(DIALECT, "alice") == salt(DIALECT, "alice")
    assert salt(DIALECT, "alice") != salt(DIALECT, "bob")
    assert salt(DIALECT, "") is None
    assert salt(DIALECTS["openai"], "alice") is None
