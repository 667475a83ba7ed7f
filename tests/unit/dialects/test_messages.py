"""Messages as hosts take them (contract B.0: Q-DEV, Q-TEXT, Q-NULL, Q-REASON-IN)."""

import json

import msgspec
import pytest
from msgspec import Raw
from tidegate.config.cards import Card
from tidegate.dialects import messages
from tidegate.dialects.draft import Draft, ignore_note
from tidegate.dialects.messages import Rules

PARTS = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
IMAGE = {"type": "image_url", "image_url": {"url": "data:,"}}


CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def adapt(*given, reasoning="reasoning_content", note=ignore_note, **rules):
    adapted = messages.adapt(Raw(json.dumps(given).encode()), Rules(**rules), reasoning=reasoning, note=note)
    return json.loads(msgspec.json.encode(adapted))


@pytest.mark.parametrize(("system_role", "role"), [("system", "system"), ("user", "user"), (None, "developer")])
def test_developer_becomes_what_the_host_knows(system_role, role):
    given = {"role": "developer", "content": "a"}
    assert adapt(given, system_role=system_role) == [{"role": role, "content": "a"}]


@pytest.mark.parametrize("role", ["system", "user", "assistant", "tool"])
def test_text_in_parts_becomes_one_string(role):
    assert adapt({"role": role, "content": PARTS}) == [{"role": role, "content": "ab"}]


@pytest.mark.parametrize("content", [[*PARTS, IMAGE], "text"])
def test_other_content_stays(content):
    """Parts that are more than text are the host's to judge."""
    assert adapt({"role": "assistant", "content": content}) == [{"role": "assistant", "content": content}]


def test_an_empty_text_beside_other_parts_is_left_out():
    """Zhipu and Bedrock refuse an empty text; it stays if there is no other part."""
    empty = {"type": "text", "text": ""}
    assert adapt({"role": "user", "content": [empty, IMAGE]}) == [{"role": "user", "content": [IMAGE]}]
    assert adapt({"role": "user", "content": [empty]}) == [{"role": "user", "content": ""}]


def test_text_stays_in_parts_where_the_host_takes_them():
    assert adapt({"role": "user", "content": PARTS}, joins_text=False) == [{"role": "user", "content": PARTS}]


def test_nulls_are_left_out_but_content():
    given = {"role": "user", "content": "a", "refusal": None, "audio": None, "name": None}
    assert adapt(given) == [{"role": "user", "content": "a"}]


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


@pytest.mark.parametrize("content", ["a", ""], ids=["beside content", "alone"])
def test_a_refusal_of_null_is_left_out_at_openai_too(content):
    given = {"role": "assistant", "refusal": None} | ({"content": content} if content else {})
    assert adapt(given, is_reference=True) == [{"role": "assistant", "content": content}]


def test_openai_itself_gets_everything_but_reasoning():
    given = {"role": "developer", "content": PARTS, "reasoning_content": "hm", "vendor": 1}
    assert adapt(given, is_reference=True) == [{"role": "developer", "content": PARTS, "vendor": 1}]


def test_openai_gets_short_ids():
    """It refuses more than 64 characters; a call and its result keep one id, the same one in every turn."""
    long = "call_1__thought__" + "x" * 64
    call = {"id": long, "type": "function", "function": {"name": "f", "arguments": "{}"}}
    other = call | {"id": "call_2"}
    turns = [
        {"role": "assistant", "content": None, "tool_calls": [call, other]},
        {"role": "tool", "tool_call_id": long, "content": "1"},
        {"role": "tool", "tool_call_id": "call_2", "content": "2"},
    ]
    asked, first, second = adapt(*turns, is_reference=True)
    short = first["tool_call_id"]
    assert len(short) <= 64
    assert asked["tool_calls"] == [call | {"id": short}, other]
    assert second == turns[2]
    assert adapt(*turns, is_reference=True)[1]["tool_call_id"] == short
    assert adapt(*turns)[1]["tool_call_id"] == long


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
    """Q-SYS: such templates read it only there."""
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
    assert adapt(given, keeps_reasoning_details=True) == [given | {"reasoning_content": "hm"}]
    assert adapt(given, keeps_reasoning_details=True, reasoning=None) == [{"role": "assistant", "content": "a"}]


def test_a_result_of_null_is_an_empty_one():
    """Only the role `function` may have it, and only at OpenAI (row 103)."""
    result = {"role": "function", "name": "f", "content": None}
    assert adapt(result) == [{"role": "tool", "content": "", "tool_call_id": "call_0"}]
    assert adapt(result, is_reference=True) == [result]


def test_no_content_is_an_empty_one_where_the_host_wants_a_string():
    given = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    assert adapt(given) == [given]
    assert adapt(given, takes_null_content=False) == [given | {"content": ""}]


@pytest.mark.parametrize("is_reference", [False, True])
@pytest.mark.parametrize("content", [{"content": None}, {"content": []}, {}])
def test_an_answer_that_says_nothing_is_empty(content, is_reference):
    """Hosts want content or calls, and no list of calls that is empty."""
    given = {"role": "assistant", "tool_calls": []} | content
    assert adapt(given, is_reference=is_reference) == [{"role": "assistant", "content": ""}]


@pytest.mark.parametrize("name", ["function_call", "audio", "refusal"])
def test_openai_takes_an_answer_that_says_something_else(name):
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
def test_what_only_openai_says_goes_as_text_or_is_told_as_dropped(message, content, notes):
    told = Draft({}, Card())
    assert adapt({"role": "assistant"} | message, note=told.note) == [{"role": "assistant", "content": content}]
    assert told.adjusted == notes


@pytest.mark.parametrize(
    "part",
    [
        {"type": "thinking", "thinking": [{"type": "text", "text": "h"}, {"type": "text", "text": "m"}]},
        {"type": "thinking", "thinking": "hm", "signature": "c2ln"},
        {"type": "reasoning", "text": "hm"},
    ],
)
def test_thinking_among_the_parts_is_past_reasoning(part):
    """Of Mistral, Anthropic, the AI SDK."""
    given = {"role": "assistant", "content": [part, *PARTS]}
    assert adapt(given, reasoning="reasoning") == [{"role": "assistant", "content": "ab", "reasoning": "hm"}]
    told = Draft({}, Card())
    assert adapt(given, is_reference=True, note=told.note) == [{"role": "assistant", "content": PARTS}]
    assert told.adjusted == ["reasoning_content=dropped"]


@pytest.mark.parametrize(("calls", "content"), [({}, ""), ({"tool_calls": [CALL]}, None)])
def test_thinking_alone_leaves_no_content(calls, content):
    given = {"role": "assistant", "content": [{"type": "redacted_thinking", "data": "c2ln"}]} | calls
    told = Draft({}, Card())
    assert adapt(given, note=told.note) == [given | {"content": content}]
    assert told.adjusted == ["reasoning_content=dropped"]


def test_encrypted_reasoning_is_reported_where_it_is_dropped():
    details = [{"type": "reasoning.encrypted", "data": "c2ln"}]
    given = {"role": "assistant", "content": "a", "reasoning_details": details}
    told = Draft({}, Card())
    assert adapt(given, keeps_reasoning_details=True, note=told.note) == [given]
    assert told.adjusted == []
    assert adapt(given, note=told.note) == [{"role": "assistant", "content": "a"}]
    assert told.adjusted == ["reasoning_content=dropped"]


EXTRA = {"extra_content": {"google": {"thought_signature": "c2ln"}}}


@pytest.mark.parametrize("is_reference", [False, True])
def test_what_gemini_says_beside_a_call_goes_back_to_hosts_that_know_it(is_reference):
    """The host answers 400 to the next turn without it; others answer 400 to it."""
    given = {"role": "assistant", "content": None, "tool_calls": [CALL | EXTRA]} | EXTRA
    assert adapt(given, keeps_extra_content=True, is_reference=is_reference) == [given]
    told = Draft({}, Card())
    plain = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    assert adapt(given, is_reference=is_reference, note=told.note) == [plain]
    assert told.adjusted == ["extra_content=dropped"]


MARKED = PARTS[1] | {"cache_control": {"type": "ephemeral"}}


def test_texts_with_cache_control_are_not_joined():
    given = {"role": "system", "content": [PARTS[0], MARKED], "cache_control": {"type": "ephemeral"}}
    assert adapt(given, keeps_cache_control=True) == [given]
    plain = {"role": "user", "content": PARTS}
    assert adapt(plain, keeps_cache_control=True) == [{"role": "user", "content": "ab"}]


@pytest.mark.parametrize("is_reference", [False, True])
def test_hosts_without_cache_control_get_none_and_it_is_reported(is_reference):
    told = Draft({}, Card())
    [message] = adapt({"role": "user", "content": [PARTS[0], MARKED]}, is_reference=is_reference, note=told.note)
    assert message["content"] == (PARTS if is_reference else "ab")
    assert told.adjusted == ["cache_control=dropped"]


def test_unreadable_past_calls_are_reported_as_dropped():
    told = Draft({}, Card())
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "f(1)"}}
    [message] = adapt({"role": "assistant", "content": "a", "tool_calls": [None, call]}, note=told.note)
    assert [each["function"]["arguments"] for each in message["tool_calls"]] == ["{}"]
    assert told.adjusted == ["tool_calls=dropped", "tool_calls.arguments=replaced"]


def test_a_late_system_message_that_moves_is_told():
    given = [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}, {"role": "system", "content": "c"}]
    told = Draft({}, Card())
    adapt(*given, merges_system=True, note=told.note)
    adapt(given[0], given[2], given[1], merges_system=True, note=told.note)
    assert told.adjusted == ["messages=reordered"]


def test_names_are_left_out_where_they_are_refused():
    assert adapt({"role": "user", "content": "a", "name": "x"}, takes_names=False) == [{"role": "user", "content": "a"}]
