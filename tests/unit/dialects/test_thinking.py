"""Whether and how hard a model thinks, in each host's way (contract B.16)."""

import json

import pytest
from msgspec import Raw
from tidegate.config.cards import UNKNOWN, Card
from tidegate.dialects import thinking
from tidegate.dialects.draft import Draft
from tidegate.dialects.registry import DIALECTS
from tidegate.dialects.thinking import Thinking
from tidegate.protocol import chat


def draft(card=UNKNOWN, **fields):
    return Draft({name: Raw(json.dumps(value).encode()) for name, value in fields.items()}, card)


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
def test_every_switch_that_callers_use_is_taken_out(fields, expected):
    made = draft(**fields, model="m")
    assert thinking.take(made) == expected
    assert set(made.fields) == {"model"}


def test_templates_are_left_to_hosts_that_have_them():
    made = draft(chat_template_kwargs={"thinking": False})
    assert thinking.take(made, leaves_template=True) == Thinking()
    assert set(made.fields) == {"chat_template_kwargs"}


@pytest.mark.parametrize(
    ("wanted", "fields", "adjusted"),
    [
        (Thinking(effort="medium"), {"reasoning_effort": b'"high"'}, ["reasoning_effort=high"]),
        (Thinking(effort="odd"), {"reasoning_effort": b'"odd"'}, []),
        (Thinking(is_on=False, effort="high"), {"reasoning_effort": b'"none"'}, []),
        (Thinking(is_on=True), {}, []),
        (Thinking(), {}, []),
    ],
)
def test_effort_is_put_under_the_hosts_name(wanted, fields, adjusted):
    """An unknown one goes as it is, for the host to judge; another word than was asked for is said."""
    made = draft()
    thinking.put_effort({"medium": "high"})(made, wanted)
    assert ({name: bytes(value) for name, value in made.fields.items()}, made.adjusted) == (fields, adjusted)


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
def test_a_switch_of_the_caller_stays(given, expected):
    made = draft(**given)
    thinking.put_template_switch(made, ("thinking", "enable_thinking"), is_on=False)
    assert json.loads(bytes(made.fields["chat_template_kwargs"])) == expected


@pytest.mark.parametrize(
    ("card", "wanted", "by_default", "expected"),
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
def test_it_can_be_known_whether_a_model_will_think(card, wanted, by_default, expected):
    assert thinking.is_thinking(draft(Card(thinking=card)), wanted, by_default=by_default) is expected


def test_a_template_that_opens_a_thought_has_one():
    assert thinking.is_thinking(draft(Card(reasoning_tags="prefilled")), Thinking(), by_default=False)
    assert not thinking.is_thinking(draft(Card(reasoning_tags="prefilled")), Thinking(is_on=False), by_default=False)


def test_a_switch_in_the_template_tells_too():
    """It is left to hosts that have templates, and overrules what we put there."""
    templated = draft(Card(thinking="off"), chat_template_kwargs={"thinking": True})
    assert thinking.is_thinking(templated, Thinking(), by_default=False)
    assert not thinking.is_thinking(
        draft(chat_template_kwargs={"thinking": False}), Thinking(is_on=True), by_default=True
    )


@pytest.mark.parametrize(
    ("given", "is_on", "left"),
    [
        ({"thinking": True, "x": 1}, True, {"x": 1}),
        ({"enable_thinking": False}, False, None),
        ({"x": 1}, None, {"x": 1}),
    ],
)
def test_only_the_switch_is_taken_out_of_a_template(given, is_on, left):
    made = draft(chat_template_kwargs=given)
    assert thinking.take_template_switch(made) is is_on
    raw = made.fields.get("chat_template_kwargs")
    assert (raw and json.loads(bytes(raw))) == left


BOTH = {"thinking": False, "enable_thinking": False}
EFFORTS = ("minimal", "low", "medium", "high", "xhigh", "max")
# by host: what it is told of no thinking, and its words for the efforts
TOLD = {
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


def told(dialect, effort):
    """What a host hears of an effort, and what the caller is told about that."""
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "reasoning_effort": effort}
    request = chat.parse_request(json.dumps(body).encode())
    built = DIALECTS[dialect].build_request(request, model="a/m", is_stream=False)
    switches = {"reasoning_effort", "reasoning", "thinking", "chat_template_kwargs"}
    sent = {name: value for name, value in json.loads(built.body).items() if name in switches}
    return sent, [note for note in built.adjusted if note.startswith("reasoning")]


def test_the_table_has_every_host():
    assert TOLD.keys() == DIALECTS.keys()


@pytest.mark.parametrize("dialect", TOLD)
def test_every_host_is_told_not_to_think_in_its_own_way(dialect):
    """The table B.16."""
    assert told(dialect, "none") == (TOLD[dialect][0], [])


@pytest.mark.parametrize("place", range(len(EFFORTS)), ids=EFFORTS)
@pytest.mark.parametrize("dialect", TOLD)
def test_every_host_is_told_how_hard_in_its_own_words(dialect, place):
    """The table B.16; another word than the caller's is said, and so is none at all."""
    asked, words = EFFORTS[place], TOLD[dialect][1]
    sent, adjusted = told(dialect, asked)
    if words is None:
        assert (sent, adjusted) == ({}, ["reasoning_effort=dropped"])
        return
    word = words[place]
    assert sent == ({"reasoning": {"effort": word}} if dialect == "openrouter" else {"reasoning_effort": word})
    assert adjusted == ([] if word == asked else [f"reasoning_effort={word}"])


@pytest.mark.parametrize(
    ("dialect", "fields", "told"),
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
def test_what_a_host_cannot_be_sent_is_reported(dialect, fields, told):
    asked = {"model": "m", "messages": [{"role": "user", "content": "hi"}]} | fields
    request = chat.parse_request(json.dumps(asked).encode())
    assert DIALECTS[dialect].build_request(request, model="m", is_stream=False).adjusted == told
