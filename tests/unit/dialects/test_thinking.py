"""Switches for thinking and effort, translated for each host (contract B.16)."""

import json

import pytest
from msgspec import Raw

from tidegate.config.cards import UNKNOWN, Card
from tidegate.dialects import thinking
from tidegate.dialects.registry import DIALECTS
from tidegate.dialects.request_draft import RequestDraft
from tidegate.dialects.thinking import Thinking
from tidegate.protocol import chat


def draft(card=UNKNOWN, **fields):
    return RequestDraft({name: Raw(json.dumps(value).encode()) for name, value in fields.items()}, card)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, Thinking()),
        ({"reasoning_effort": "high"}, Thinking(effort="high")),
        ({"reasoning_effort": "none"}, Thinking(is_on=False)),
        ({"reasoning_effort": "none", "thinking": {"type": "enabled"}}, Thinking(is_on=False)),
        ({"thinking": {"type": "enabled"}}, Thinking(is_on=True)),
        ({"thinking": {"type": "disabled"}}, Thinking(is_on=False)),
        ({"thinking": {"type": "adaptive"}}, Thinking()),
        ({"thinking": True}, Thinking()),
        ({"reasoning": {"enabled": False}}, Thinking(is_on=False)),
        ({"reasoning": {"effort": "low"}}, Thinking(effort="low")),
        ({"reasoning": {"effort": "low"}, "reasoning_effort": "max"}, Thinking(effort="max")),
        ({"chat_template_kwargs": {"thinking": False}}, Thinking(is_on=False)),
        ({"chat_template_kwargs": {"enable_thinking": True}}, Thinking(is_on=True)),
        ({"chat_template_kwargs": {"enable_thinking": "yes"}}, Thinking()),
    ],
)
def test_every_switch_of_callers_is_removed_and_read(fields, expected):
    request_draft = draft(**fields, model="m")
    assert thinking.take(request_draft) == expected
    assert set(request_draft.fields) == {"model"}


def test_template_switches_stay_for_hosts_that_use_them():
    request_draft = draft(chat_template_kwargs={"thinking": False})
    assert thinking.take(request_draft, keeps_template_kwargs=True) == Thinking()
    assert set(request_draft.fields) == {"chat_template_kwargs"}


@pytest.mark.parametrize(
    ("requested", "fields", "adjusted"),
    [
        (Thinking(effort="medium"), {"reasoning_effort": b'"high"'}, ["reasoning_effort=high"]),
        (Thinking(effort="odd"), {"reasoning_effort": b'"odd"'}, []),
        (Thinking(is_on=False, effort="high"), {"reasoning_effort": b'"none"'}, []),
        (Thinking(is_on=True), {}, []),
        (Thinking(), {}, []),
    ],
)
def test_effort_is_sent_with_the_hosts_value(requested, fields, adjusted):
    """An unknown value is sent unchanged, as the host decides about it; a changed value is reported."""
    request_draft = draft()
    thinking.put_effort({"medium": "high"})(request_draft, requested)
    assert ({name: bytes(value) for name, value in request_draft.fields.items()}, request_draft.adjusted) == (
        fields,
        adjusted,
    )


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"thinking": False, "enable_thinking": False}),
        (
            {"chat_template_kwargs": {"enable_thinking": True, "x": 1}},
            {"thinking": False, "enable_thinking": True, "x": 1},
        ),
    ],
)
def test_a_template_switch_that_the_caller_set_stays(given, expected):
    request_draft = draft(**given)
    thinking.put_template_switch(request_draft, ("thinking", "enable_thinking"), is_on=False)
    assert json.loads(bytes(request_draft.fields["chat_template_kwargs"])) == expected


@pytest.mark.parametrize(
    ("card", "requested", "by_default", "expected"),
    [
        (None, Thinking(), True, True),
        (None, Thinking(), False, False),
        ("on", Thinking(), False, True),
        ("off", Thinking(), True, False),
        ("off", Thinking(effort="low"), False, True),
        ("on", Thinking(is_on=False), True, False),
        ("always", Thinking(is_on=False), False, True),
        ("never", Thinking(is_on=True), True, False),
    ],
)
def test_whether_a_model_will_think_is_predicted(card, requested, by_default, expected):
    assert thinking.is_thinking(draft(Card(thinking=card)), requested, by_default=by_default) is expected


def test_a_template_that_opens_the_tag_means_thinking():
    assert thinking.is_thinking(draft(Card(reasoning_tags="prefilled")), Thinking(), by_default=False)
    assert not thinking.is_thinking(draft(Card(reasoning_tags="prefilled")), Thinking(is_on=False), by_default=False)


def test_a_template_switch_of_the_caller_is_used_for_the_prediction():
    """It is sent to hosts that use templates, and overrides the switch that Tidegate sets there."""
    templated = draft(Card(thinking="off"), chat_template_kwargs={"thinking": True})
    assert thinking.is_thinking(templated, Thinking(), by_default=False)
    assert not thinking.is_thinking(
        draft(chat_template_kwargs={"thinking": False}), Thinking(is_on=True), by_default=True
    )


@pytest.mark.parametrize(
    ("given", "is_on", "remaining"),
    [
        ({"thinking": True, "x": 1}, True, {"x": 1}),
        ({"enable_thinking": False}, False, None),
        ({"x": 1}, None, {"x": 1}),
    ],
)
def test_only_the_switch_is_removed_from_the_template_variables(given, is_on, remaining):
    request_draft = draft(chat_template_kwargs=given)
    assert thinking.take_template_switch(request_draft) is is_on
    raw = request_draft.fields.get("chat_template_kwargs")
    assert (raw and json.loads(bytes(raw))) == remaining


BOTH = {"thinking": False, "enable_thinking": False}
EFFORTS = ("minimal", "low", "medium", "high", "xhigh", "max")
# by dialect: what is sent to switch thinking off, and the host's values for the efforts; None: it has none
SWITCHES = {
    "openai": ({"reasoning_effort": "none"}, EFFORTS),
    "azure": ({"reasoning_effort": "none"}, EFFORTS),
    "deepseek": ({"thinking": {"type": "disabled"}}, ("low", "low", "high", "high", "high", "max")),
    "vllm": ({"chat_template_kwargs": BOTH}, ("low", "low", "high", "high", "xhigh", "max")),
    "sglang": ({"chat_template_kwargs": BOTH}, EFFORTS),
    "llamacpp": ({"chat_template_kwargs": {"enable_thinking": False}}, EFFORTS),
    "llama_cpp_python": ({}, None),
    "ollama": ({"reasoning_effort": "none"}, ("low", "low", "medium", "high", "max", "max")),
    "tgi": ({}, None),
    "together": ({"reasoning": {"enabled": False}}, ("low", "low", "medium", "high", "high", "high")),
    "groq": ({"reasoning_effort": "none"}, ("low", "low", "medium", "high", "high", "high")),
    "fireworks": ({"reasoning_effort": "none"}, ("low", "low", "medium", "high", "high", "high")),
    "deepinfra": ({"reasoning_effort": "none"}, EFFORTS),
    "openrouter": ({"reasoning": {"enabled": False}}, ("minimal", "low", "medium", "high", "xhigh", "xhigh")),
    "meta_llama": ({}, None),
    "meta_llama_native": ({}, None),
    "bedrock": ({"reasoning_effort": "none"}, EFFORTS),
    "generic": ({"reasoning_effort": "none"}, EFFORTS),
}


def sent_effort(dialect, effort):
    """Return what is sent to a host for an effort, and what is reported about it."""
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "reasoning_effort": effort}
    request = chat.parse_request(json.dumps(body).encode())
    built = DIALECTS[dialect].build_request(request, model="a/m", is_stream=False)
    switches = {"reasoning_effort", "reasoning", "thinking", "chat_template_kwargs"}
    sent = {name: value for name, value in json.loads(built.body).items() if name in switches}
    return sent, [note for note in built.adjusted if note.startswith("reasoning")]


def test_the_table_has_every_host():
    assert SWITCHES.keys() == DIALECTS.keys()


@pytest.mark.parametrize("dialect", SWITCHES)
def test_thinking_is_switched_off_in_each_hosts_way(dialect):
    """The table B.16."""
    assert sent_effort(dialect, "none") == (SWITCHES[dialect][0], [])


@pytest.mark.parametrize("place", range(len(EFFORTS)), ids=EFFORTS)
@pytest.mark.parametrize("dialect", SWITCHES)
def test_effort_is_sent_with_each_hosts_value(dialect, place):
    """The table B.16; a changed or dropped value is reported."""
    effort, words = EFFORTS[place], SWITCHES[dialect][1]
    sent, adjusted = sent_effort(dialect, effort)
    if words is None:
        assert (sent, adjusted) == ({}, ["reasoning_effort=dropped"])
        return
    word = words[place]
    assert sent == ({"reasoning": {"effort": word}} if dialect == "openrouter" else {"reasoning_effort": word})
    assert adjusted == ([] if word == effort else [f"reasoning_effort={word}"])


@pytest.mark.parametrize(
    ("dialect", "fields", "adjusted"),
    [
        ("deepseek", {"thinking": {"type": "enabled", "budget_tokens": 500}}, ["thinking.budget=dropped"]),
        ("deepseek", {"reasoning": {"effort": "high", "summary": "auto"}}, ["reasoning.summary=dropped"]),
        ("deepseek", {"reasoning": {"effort": "high", "exclude": False}}, []),
        ("openrouter", {"reasoning": {"max_tokens": 500, "summary": "auto"}}, []),
        ("llamacpp", {"thinking": {"type": "enabled", "budget_tokens": 500}}, []),
        ("tgi", {"thinking": {"type": "enabled"}}, ["thinking=dropped"]),
        ("tgi", {"reasoning_effort": "high"}, ["reasoning_effort=dropped"]),
        ("tgi", {"reasoning_effort": "none"}, []),
        ("generic", {"reasoning": {"max_tokens": 500, "summary": "auto"}}, []),
    ],
)
def test_values_that_a_host_cannot_be_sent_are_reported(dialect, fields, adjusted):
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]} | fields
    request = chat.parse_request(json.dumps(body).encode())
    assert DIALECTS[dialect].build_request(request, model="m", is_stream=False).adjusted == adjusted
