"""Messages are adapted to a host (contract B.0: Q-DEV, Q-TEXT, Q-NULL, Q-REASON-IN)."""

import json

import msgspec
import pytest
from msgspec import Raw

from tidegate.config.cards import Card
from tidegate.dialects import messages
from tidegate.dialects.messages import Rules
from tidegate.dialects.request_draft import RequestDraft, ignore_note

PARTS = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
IMAGE = {"type": "image_url", "image_url": {"url": "data:,"}}


CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def adapt(*given, reasoning="reasoning_content", note=ignore_note, **rules):
    adapted = messages.adapt(Raw(json.dumps(given).encode()), Rules(**rules), reasoning=reasoning, note=note)
    return json.loads(msgspec.json.encode(adapted))


@pytest.mark.parametrize(("system_role", "role"), [("system", "system"), ("user", "user"), (None, "developer")])
def test_developer_becomes_a_role_that_the_host_supports(system_role, role):
    given = {"role": "developer", "content": "a"}
    assert adapt(given, system_role=system_role) == [{"role": role, "content": "a"}]


@pytest.mark.parametrize("role", ["system", "user", "assistant", "tool"])
def test_text_in_parts_becomes_one_string(role):
    assert adapt({"role": role, "content": PARTS}) == [{"role": role, "content": "ab"}]


@pytest.mark.parametrize("content", [[*PARTS, IMAGE], "text"])
def test_content_that_is_not_only_text_stays(content):
    """The host decides about parts that are not text."""
    assert adapt({"role": "assistant", "content": content}) == [{"role": "assistant", "content": content}]


def test_an_empty_text_beside_other_parts_is_left_out():
    """Zhipu and Bedrock refuse an empty text; it stays if there is no other part."""
    empty = {"type": "text", "text": ""}
    assert adapt({"role": "user", "content": [empty, IMAGE]}) == [{"role": "user", "content": [IMAGE]}]
    assert adapt({"role": "user", "content": [empty]}) == [{"role": "user", "content": ""}]


def test_text_stays_in_parts_if_the_host_accepts_them():
    assert adapt({"role": "user", "content": PARTS}, joins_text=False) == [{"role": "user", "content": PARTS}]


def test_nulls_are_left_out_except_in_content():
    given = {"role": "user", "content": "a", "refusal": None, "audio": None, "name": None}
    assert adapt(given) == [{"role": "user", "content": "a"}]


@pytest.mark.parametrize("given_name", ["reasoning", "reasoning_content"])
@pytest.mark.parametrize("name", ["reasoning", "reasoning_content", None])
def test_past_reasoning_is_sent_under_the_hosts_name(given_name, name):
    """It is left out if the host accepts none."""
    [message] = adapt({"role": "assistant", "content": "a", given_name: "hm"}, reasoning=name)
    assert message == {"role": "assistant", "content": "a"} | ({name: "hm"} if name else {})


def test_reasoning_under_both_names_is_sent_once():
    given = {"role": "assistant", "content": "a", "reasoning": "x", "reasoning_content": "y"}
    assert adapt(given) == [{"role": "assistant", "content": "a", "reasoning_content": "y"}]


def test_empty_reasoning_is_not_sent_back():
    """DeepSeek treats "" as missing and answers 400 (contract row 31)."""
    given = {"role": "assistant", "content": "a", "reasoning_content": ""}
    assert adapt(given) == [{"role": "assistant", "content": "a"}]


def test_unknown_keys_stay():
    given = {"role": "user", "content": "a", "name": "x", "vendor": {"b": [None]}}
    assert adapt(given) == [given]


def test_text_keeps_every_character():
    assert adapt({"role": "user", "content": 'é"\\\n🦊'}) == [{"role": "user", "content": 'é"\\\n🦊'}]


def test_a_refusal_in_parts_becomes_text():
    assert adapt({"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}) == [
        {"role": "assistant", "content": "No."}
    ]


def test_keys_of_openais_own_answers_are_left_out():
    """Clients send answers back unchanged, and strict hosts refuse keys that they do not support."""
    given = {"role": "assistant", "content": None, "refusal": "No.", "annotations": [], "audio": {"id": "a"}}
    assert adapt(given) == [{"role": "assistant", "content": "No."}]


def test_a_refusal_beside_content_does_not_replace_it():
    given = {"role": "assistant", "content": "Yes.", "refusal": "No."}
    assert adapt(given) == [{"role": "assistant", "content": "Yes."}]


@pytest.mark.parametrize("content", ["a", ""], ids=["beside content", "alone"])
def test_a_refusal_of_null_is_left_out_for_openai_too(content):
    given = {"role": "assistant", "refusal": None} | ({"content": content} if content else {})
    assert adapt(given, is_reference=True) == [{"role": "assistant", "content": content}]


def test_openai_is_sent_everything_except_reasoning():
    given = {"role": "developer", "content": PARTS, "reasoning_content": "hm", "vendor": 1}
    assert adapt(given, is_reference=True) == [{"role": "developer", "content": PARTS, "vendor": 1}]


def test_ids_of_calls_are_shortened_for_openai():
    """OpenAI refuses more than 64 characters. A call and its result keep the same id, also in every later turn."""
    long = "call_1__thought__" + "x" * 64
    call = {"id": long, "type": "function", "function": {"name": "f", "arguments": "{}"}}
    other = call | {"id": "call_2"}
    turns = [
        {"role": "assistant", "content": None, "tool_calls": [call, other]},
        {"role": "tool", "tool_call_id": long, "content": "1"},
        {"role": "tool", "tool_call_id": "call_2", "content": "2"},
    ]
    calling, first, second = adapt(*turns, is_reference=True)
    short = first["tool_call_id"]
    assert len(short) <= 64
    assert calling["tool_calls"] == [call | {"id": short}, other]
    assert second == turns[2]
    assert adapt(*turns, is_reference=True)[1]["tool_call_id"] == short
    assert adapt(*turns)[1]["tool_call_id"] == long


@pytest.mark.parametrize(
    ("arguments", "sent"),
    [('{"a":1}', '{"a":1}'), ("", "{}"), ("{", "{}"), ("[1]", "{}"), (None, "{}"), ({"a": 1}, '{"a":1}')],
)
def test_arguments_of_past_calls_are_objects(arguments, sent):
    """Hosts decode the arguments, and fail on other values (Q-ARGS)."""
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}
    [message] = adapt({"role": "assistant", "content": None, "tool_calls": [call]})
    assert message["tool_calls"][0]["function"]["arguments"] == sent


def test_legacy_functions_become_tools():
    """Q-DEV: the call gets an id, and its result refers to it."""
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


def test_system_messages_are_joined_if_the_template_supports_only_one():
    """Q-SYS."""
    given = [
        {"role": "system", "content": "a"},
        {"role": "user", "content": "b"},
        {"role": "developer", "content": "c"},
    ]
    assert adapt(*given, merges_system=True) == [{"role": "system", "content": "a\n\nc"}, given[1]]
    assert adapt(*given)[2] == {"role": "system", "content": "c"}


def test_a_single_late_system_message_moves_to_the_front():
    """Q-SYS: these templates read a system message only at the front."""
    given = [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}, {"role": "user", "content": "c"}]
    assert adapt(*given, merges_system=True) == [given[1], given[0], given[2]]


def test_inline_thinking_is_removed_from_the_content():
    """Q-REASON-IN."""
    assert adapt({"role": "assistant", "content": "<think>hm</think>\n\nYes."}) == [
        {"role": "assistant", "content": "Yes.", "reasoning_content": "hm"}
    ]


def test_reasoning_details_are_past_reasoning():
    given = {"role": "assistant", "content": "a", "reasoning_details": [{"type": "reasoning.text", "text": "hm"}]}
    assert adapt(given) == [{"role": "assistant", "content": "a", "reasoning_content": "hm"}]
    assert adapt(given, keeps_reasoning_details=True) == [given | {"reasoning_content": "hm"}]
    assert adapt(given, keeps_reasoning_details=True, reasoning=None) == [{"role": "assistant", "content": "a"}]


def test_a_null_result_becomes_an_empty_string():
    """Only the role `function` may have a null result, and only OpenAI accepts it (row 103)."""
    result = {"role": "function", "name": "f", "content": None}
    assert adapt(result) == [{"role": "tool", "content": "", "tool_call_id": "call_0"}]
    assert adapt(result, is_reference=True) == [result]


def test_null_content_becomes_an_empty_string_if_the_host_needs_a_string():
    given = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    assert adapt(given) == [given]
    assert adapt(given, takes_null_content=False) == [given | {"content": ""}]


@pytest.mark.parametrize("is_reference", [False, True])
@pytest.mark.parametrize("content", [{"content": None}, {"content": []}, {}])
def test_an_answer_without_content_and_calls_becomes_an_empty_string(content, is_reference):
    """Hosts require content or calls, and refuse an empty list of calls."""
    given = {"role": "assistant", "tool_calls": []} | content
    assert adapt(given, is_reference=is_reference) == [{"role": "assistant", "content": ""}]


@pytest.mark.parametrize("name", ["function_call", "audio", "refusal"])
def test_openai_accepts_null_content_beside_another_form_of_answer(name):
    given = {"role": "assistant", "content": None, name: {"id": "x"}}
    assert adapt(given, is_reference=True) == [given]


@pytest.mark.parametrize(
    ("message", "content", "notes"),
    [
        ({"audio": {"id": "a1"}}, "", ["audio=dropped"]),
        ({"audio": {"id": "a1", "transcript": "Hi."}}, "Hi.", ["audio=dropped"]),
        ({"content": "Ho.", "audio": {"id": "a1", "transcript": "Hi."}}, "Ho.", ["audio=dropped"]),
        ({"refusal": "No."}, "No.", []),
        ({"content": "Ho.", "refusal": "No."}, "Ho.", ["refusal=dropped"]),
        ({"content": "Ho.", "annotations": [], "refusal": None}, "Ho.", []),
        ({"content": "Ho.", "annotations": [{"type": "url_citation"}]}, "Ho.", ["annotations=dropped"]),
    ],
)
def test_refusals_audio_and_annotations_become_text_or_are_reported_as_dropped(message, content, notes):
    draft = RequestDraft({}, Card())
    assert adapt({"role": "assistant"} | message, note=draft.note) == [{"role": "assistant", "content": content}]
    assert draft.adjusted == notes


@pytest.mark.parametrize(
    "part",
    [
        {"type": "thinking", "thinking": [{"type": "text", "text": "h"}, {"type": "text", "text": "m"}]},
        {"type": "thinking", "thinking": "hm", "signature": "c2ln"},
        {"type": "reasoning", "text": "hm"},
    ],
)
def test_thinking_in_content_parts_is_past_reasoning(part):
    """Mistral, Anthropic and the AI SDK send such parts."""
    given = {"role": "assistant", "content": [part, *PARTS]}
    assert adapt(given, reasoning="reasoning") == [{"role": "assistant", "content": "ab", "reasoning": "hm"}]
    draft = RequestDraft({}, Card())
    assert adapt(given, is_reference=True, note=draft.note) == [{"role": "assistant", "content": PARTS}]
    assert draft.adjusted == ["reasoning_content=dropped"]


@pytest.mark.parametrize(("calls", "content"), [({}, ""), ({"tool_calls": [CALL]}, None)])
def test_a_message_of_thinking_alone_has_no_content(calls, content):
    given = {"role": "assistant", "content": [{"type": "redacted_thinking", "data": "c2ln"}]} | calls
    draft = RequestDraft({}, Card())
    assert adapt(given, note=draft.note) == [given | {"content": content}]
    assert draft.adjusted == ["reasoning_content=dropped"]


def test_encrypted_reasoning_is_reported_if_it_is_dropped():
    details = [{"type": "reasoning.encrypted", "data": "c2ln"}]
    given = {"role": "assistant", "content": "a", "reasoning_details": details}
    draft = RequestDraft({}, Card())
    assert adapt(given, keeps_reasoning_details=True, note=draft.note) == [given]
    assert draft.adjusted == []
    assert adapt(given, note=draft.note) == [{"role": "assistant", "content": "a"}]
    assert draft.adjusted == ["reasoning_content=dropped"]


EXTRA = {"extra_content": {"google": {"thought_signature": "c2ln"}}}


@pytest.mark.parametrize("is_reference", [False, True])
def test_geminis_extra_content_is_sent_only_to_hosts_that_support_it(is_reference):
    """Gemini answers 400 to the next turn if it is missing; other hosts answer 400 if it is sent."""
    given = {"role": "assistant", "content": None, "tool_calls": [CALL | EXTRA]} | EXTRA
    assert adapt(given, keeps_extra_content=True, is_reference=is_reference) == [given]
    draft = RequestDraft({}, Card())
    plain = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    assert adapt(given, is_reference=is_reference, note=draft.note) == [plain]
    assert draft.adjusted == ["extra_content=dropped"]


MARKED = PARTS[1] | {"cache_control": {"type": "ephemeral"}}


def test_texts_with_cache_control_are_not_joined():
    given = {"role": "system", "content": [PARTS[0], MARKED], "cache_control": {"type": "ephemeral"}}
    assert adapt(given, keeps_cache_control=True) == [given]
    plain = {"role": "user", "content": PARTS}
    assert adapt(plain, keeps_cache_control=True) == [{"role": "user", "content": "ab"}]


@pytest.mark.parametrize("is_reference", [False, True])
def test_cache_control_is_dropped_and_reported_for_other_hosts(is_reference):
    draft = RequestDraft({}, Card())
    [message] = adapt({"role": "user", "content": [PARTS[0], MARKED]}, is_reference=is_reference, note=draft.note)
    assert message["content"] == (PARTS if is_reference else "ab")
    assert draft.adjusted == ["cache_control=dropped"]


def test_unreadable_past_calls_are_reported_as_dropped():
    draft = RequestDraft({}, Card())
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "f(1)"}}
    [message] = adapt({"role": "assistant", "content": "a", "tool_calls": [None, call]}, note=draft.note)
    assert [each["function"]["arguments"] for each in message["tool_calls"]] == ["{}"]
    assert draft.adjusted == ["tool_calls=dropped", "tool_calls.arguments=replaced"]


def test_a_late_system_message_that_moves_is_reported():
    given = [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}, {"role": "system", "content": "c"}]
    draft = RequestDraft({}, Card())
    adapt(*given, merges_system=True, note=draft.note)
    adapt(given[0], given[2], given[1], merges_system=True, note=draft.note)
    assert draft.adjusted == ["messages=reordered"]


def test_names_are_left_out_for_hosts_that_refuse_them():
    assert adapt({"role": "user", "content": "a", "name": "x"}, takes_names=False) == [{"role": "user", "content": "a"}]
