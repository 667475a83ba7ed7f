"""Messages as hosts take them (contract B.0: Q-DEV, Q-TEXT, Q-NULL, Q-REASON-IN)."""

import json

import msgspec
import pytest
from msgspec import Raw

from proxy.dialects import messages
from proxy.dialects.messages import Rules
from proxy.errors import MalformedRequest, UnsupportedParameter

PARTS = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
IMAGE = {"type": "image_url", "image_url": {"url": "data:,"}}


def adapt(*given, reasoning="reasoning_content", **rules):
    adapted = messages.adapt(Raw(json.dumps(given).encode()), Rules(**rules), reasoning=reasoning)
    return json.loads(msgspec.json.encode(adapted))


@pytest.mark.parametrize(("system_role", "role"), [("system", "system"), ("user", "user"), (None, "developer")])
def test_developer_becomes_what_the_host_knows(system_role, role):
    given = {"role": "developer", "content": "a"}
    assert adapt(given, system_role=system_role) == [{"role": role, "content": "a"}]


@pytest.mark.parametrize("role", ["system", "user", "assistant", "tool"])
def test_text_in_parts_becomes_one_string(role):
    assert adapt({"role": role, "content": PARTS}) == [{"role": role, "content": "ab"}]


@pytest.mark.parametrize("content", [[*PARTS, IMAGE], "text", None])
def test_other_content_stays(content):
    """Parts that are more than text are the host's to judge."""
    assert adapt({"role": "assistant", "content": content}) == [{"role": "assistant", "content": content}]


def test_text_stays_in_parts_where_the_host_takes_them():
    assert adapt({"role": "user", "content": PARTS}, joins_text=False) == [{"role": "user", "content": PARTS}]


def test_nulls_are_left_out_but_content():
    given = {"role": "assistant", "content": None, "refusal": None, "audio": None, "name": None}
    assert adapt(given) == [{"role": "assistant", "content": None}]


@pytest.mark.parametrize("given_name", ["reasoning", "reasoning_content"])
@pytest.mark.parametrize("name", ["reasoning", "reasoning_content", None])
def test_past_reasoning_goes_back_under_the_hosts_name(given_name, name):
    """Or not at all, where the host wants none."""
    [message] = adapt({"role": "assistant", "content": "a", given_name: "hm"}, reasoning=name)
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


def test_a_refusal_in_parts_is_text_too():
    assert adapt({"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}) == [
        {"role": "assistant", "content": "No."}
    ]


def test_what_only_openai_says_in_its_answers_is_left_out():
    """Clients send answers back as they came, and strict hosts refuse keys that they do not know."""
    given = {"role": "assistant", "content": None, "refusal": "No.", "annotations": [], "audio": {"id": "a"}}
    assert adapt(given) == [{"role": "assistant", "content": "No."}]


def test_a_refusal_beside_content_does_not_replace_it():
    given = {"role": "assistant", "content": "Yes.", "refusal": "No."}
    assert adapt(given) == [{"role": "assistant", "content": "Yes."}]


@pytest.mark.parametrize("more", [{"content": "a"}, {}], ids=["beside content", "alone"])
def test_a_refusal_of_null_is_left_out_at_openai_too(more):
    given = {"role": "assistant", "refusal": None} | more
    assert adapt(given, is_reference=True) == [{"role": "assistant"} | more]


def test_openai_itself_gets_everything_but_reasoning():
    given = {"role": "developer", "content": PARTS, "reasoning_content": "hm", "vendor": 1}
    assert adapt(given, is_reference=True) == [{"role": "developer", "content": PARTS, "vendor": 1}]


@pytest.mark.parametrize(
    ("arguments", "sent"),
    [('{"a":1}', '{"a":1}'), ("", "{}"), ("{", "{}"), ("[1]", "{}"), (None, "{}"), ({"a": 1}, '{"a":1}')],
)
def test_arguments_of_past_calls_are_objects(arguments, sent):
    """Hosts read them, and fail on what is none (Q-ARGS)."""
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}
    [message] = adapt({"role": "assistant", "content": None, "tool_calls": [call]})
    assert message["tool_calls"][0]["function"]["arguments"] == sent


def test_functions_of_old_are_tools():
    """Q-DEV: the call gets an id, and its result points to it."""
    sent = adapt(
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "function", "name": "f", "content": "18"},
    )
    assert sent == [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "call_0", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
        },
        {"role": "tool", "content": "18", "tool_call_id": "call_0"},
    ]


def test_system_messages_become_one_where_the_template_wants_one():
    """Q-SYS."""
    given = [
        {"role": "system", "content": "a"},
        {"role": "user", "content": "b"},
        {"role": "developer", "content": "c"},
    ]
    assert adapt(*given, merges_system=True) == [{"role": "system", "content": "a\n\nc"}, given[1]]
    assert adapt(*given)[2] == {"role": "system", "content": "c"}


def test_one_system_message_that_comes_late_goes_to_the_front():
    """Q-SYS: such templates look for it there alone."""
    given = [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}, {"role": "user", "content": "c"}]
    assert adapt(*given, merges_system=True) == [given[1], given[0], given[2]]


def test_thinking_that_a_client_keeps_inline_is_taken_out():
    """Q-REASON-IN."""
    assert adapt({"role": "assistant", "content": "<think>hm</think>\n\nYes."}) == [
        {"role": "assistant", "content": "Yes.", "reasoning_content": "hm"}
    ]


def test_reasoning_details_are_reasoning_too():
    given = {"role": "assistant", "content": "a", "reasoning_details": [{"type": "reasoning.text", "text": "hm"}]}
    assert adapt(given) == [{"role": "assistant", "content": "a", "reasoning_content": "hm"}]
    assert adapt(given, keeps_reasoning_details=True) == [given]


def test_a_result_of_null_is_an_empty_one():
    """Only the role `function` may have it, and only at OpenAI (row 103)."""
    result = {"role": "function", "name": "f", "content": None}
    assert adapt(result) == [{"role": "tool", "content": "", "tool_call_id": "call_0"}]
    assert adapt(result, is_reference=True) == [result]


def test_no_content_is_an_empty_one_where_the_host_wants_a_string():
    assert adapt({"role": "assistant", "content": None}, takes_null_content=False) == [
        {"role": "assistant", "content": ""}
    ]


def test_names_are_left_out_where_they_are_refused():
    assert adapt({"role": "user", "content": "a", "name": "x"}, takes_names=False) == [{"role": "user", "content": "a"}]


def parts(*given, known=frozenset({"text", "image_url"}), has_vision=None, fetches_urls=True):
    adapted = messages.adapt(Raw(json.dumps([{"role": "user", "content": given}]).encode()), Rules(), reasoning=None)
    messages.check_parts(adapted, known=known, has_vision=has_vision, fetches_urls=fetches_urls)


def image(url):
    return {"type": "image_url", "image_url": {"url": url}}


def test_images_pass_where_they_can_be_seen():
    parts(PARTS[0], image("https://example.com/a.png"), image("data:image/png;base64,AA=="))


@pytest.mark.parametrize(
    "url", ["http://169.254.169.254/", "HTTPS://a/", "file:///etc/passwd", " http://a", "//a", "ftp://a", ""]
)
def test_a_local_engine_fetches_nothing(url):
    """It would fetch anything, from where it stands."""
    with pytest.raises(MalformedRequest) as caught:
        parts(PARTS[0], image(url), fetches_urls=False)
    assert caught.value.param == "messages[0].content[1].image_url"
    assert caught.value.code == "unsupported_image_url"
    parts(image("data:image/png;base64,AA=="), fetches_urls=False)


def test_images_are_refused_by_a_model_that_sees_none():
    with pytest.raises(UnsupportedParameter) as caught:
        parts(image("data:,"), has_vision=False)
    assert (caught.value.param, caught.value.code) == ("messages[0].content[0].image_url", "unsupported_content")


def test_parts_that_the_host_does_not_know_are_refused_by_name():
    """Row 53."""
    with pytest.raises(UnsupportedParameter) as caught:
        parts({"type": "smell", "smell": {}}, PARTS[0])
    assert caught.value.param == "messages[0].content[0].type"


@pytest.mark.parametrize("part", [5, {}, {"type": 5}])
def test_a_part_without_a_type_is_none(part):
    with pytest.raises(MalformedRequest):
        parts(part, PARTS[0])
