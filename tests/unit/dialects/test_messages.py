"""Messages as hosts take them (contract B.0: Q-DEV, Q-TEXT, Q-NULL, Q-REASON-IN)."""

import json

import pytest
from msgspec import Raw

from proxy.dialects import messages

PARTS = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
IMAGE = {"type": "image_url", "image_url": {"url": "data:,"}}


def adapt(*given, system_role="system", joins_text=True, reasoning_name="reasoning_content"):
    raw = Raw(json.dumps(given).encode())
    adapted = messages.adapt(raw, system_role=system_role, joins_text=joins_text, reasoning_name=reasoning_name)
    return json.loads(bytes(adapted))


@pytest.mark.parametrize(("system_role", "role"), [("system", "system"), ("user", "user"), (None, "developer")])
def test_developer_becomes_what_the_host_knows(system_role, role):
    given = {"role": "developer", "content": "a"}
    assert adapt(given, system_role=system_role) == [{"role": role, "content": "a"}]


@pytest.mark.parametrize("role", ["system", "user", "assistant", "tool"])
def test_text_in_parts_becomes_one_string(role):
    assert adapt({"role": role, "content": PARTS}) == [{"role": role, "content": "ab"}]


@pytest.mark.parametrize("content", [[*PARTS, IMAGE], [{"type": "refusal", "refusal": "no"}], ["text"], "text", None])
def test_other_content_stays(content):
    """Parts that are more than text are the host's to judge."""
    assert adapt({"role": "assistant", "content": content}) == [{"role": "assistant", "content": content}]


def test_text_stays_in_parts_where_the_host_takes_them():
    assert adapt({"role": "user", "content": PARTS}, joins_text=False) == [{"role": "user", "content": PARTS}]


def test_nulls_are_left_out_but_content():
    given = {"role": "assistant", "content": None, "refusal": None, "audio": None, "tool_calls": [{"id": None}]}
    assert adapt(given) == [{"role": "assistant", "content": None, "tool_calls": [{"id": None}]}]


@pytest.mark.parametrize("given_name", ["reasoning", "reasoning_content"])
@pytest.mark.parametrize("name", ["reasoning", "reasoning_content", None])
def test_past_reasoning_goes_back_under_the_hosts_name(given_name, name):
    """Or not at all, where the host wants none."""
    [message] = adapt({"role": "assistant", "content": "a", given_name: "hm"}, reasoning_name=name)
    assert message == {"role": "assistant", "content": "a"} | ({name: "hm"} if name else {})


def test_reasoning_under_both_names_goes_back_once():
    given = {"role": "assistant", "content": "a", "reasoning": "x", "reasoning_content": "y"}
    assert adapt(given) == [{"role": "assistant", "content": "a", "reasoning_content": "y"}]


def test_empty_reasoning_is_never_sent_back():
    """DeepSeek counts "" as missing and answers 400 (contract row 31)."""
    given = {"role": "assistant", "content": "a", "reasoning_content": ""}
    assert adapt(given) == [{"role": "assistant", "content": "a"}]


def test_unknown_keys_stay():
    given = {"role": "user", "content": "a", "name": "x", "vendor": {"b": [None]}}
    assert adapt(given) == [given]


def test_text_keeps_every_character():
    assert adapt({"role": "user", "content": 'é"\\\n🦊'}) == [{"role": "user", "content": 'é"\\\n🦊'}]
