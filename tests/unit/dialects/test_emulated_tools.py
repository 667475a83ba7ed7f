"""Tools for models whose chat template does not support them."""

import json

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from tidegate.config.cards import Card
from tidegate.dialects.emulated_tools import point_to_tools
from tidegate.dialects.llamacpp import DIALECT
from tidegate.errors import MalformedRequest, UnsupportedParameter, UpstreamFailed, UpstreamRejected
from tidegate.protocol import chat
from tidegate.protocol.text_calls import TextCalls

EMBEDDED = structs.replace(DIALECT, supports_tools=False)
CHOOSER = Card(tools_in_prompt=True)
USER = {"role": "user", "content": "hi"}
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
F = {"type": "function", "function": {"name": "f", "description": "Weather.", "parameters": CITY}}
G = {"type": "function", "function": {"name": "g"}}
NAMED = {"type": "function", "function": {"name": "g"}}
TREE = {
    "type": "object",
    "properties": {"root": {"$ref": "#/$defs/Node"}, "self": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
    "required": ["root"],
    "$defs": {
        "Node": {
            "type": "object",
            "properties": {"$ref": {"type": "integer"}, "kids": {"type": "array", "items": {"$ref": "#/$defs/Node"}}},
            "default": {"$ref": "#/nowhere"},
        }
    },
}


def built(*, card=Card(), drops_params=False, dialect=EMBEDDED, **fields):  # noqa: B008 - it is frozen
    request = chat.parse_request(json.dumps({"model": "m", "messages": [USER]} | fields).encode())
    return dialect.build_request(request, model="m", is_stream=True, card=card, drops_params=drops_params)


def body(**fields):
    return json.loads(built(**fields).body)


def schema(**fields) -> dict:
    response_format = body(**fields)["response_format"]
    assert response_format["type"] == "json_schema"
    return response_format["json_schema"]["schema"]


def call_of(name: str, parameters) -> dict:
    return {
        "type": "object",
        "properties": {"name": {"const": name}, "arguments": parameters},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


NONE = {"type": "object", "properties": {}}


# --- a call is required -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"tools": [F, G], "tool_choice": "required"}, {"anyOf": [call_of("f", CITY), call_of("g", NONE)]}),
        ({"tools": [F], "tool_choice": "required"}, call_of("f", CITY)),
        ({"tools": [F, G], "tool_choice": NAMED}, call_of("g", NONE)),
        (
            {
                "tools": [F, G],
                "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [NAMED]}},
            },
            call_of("g", NONE),
        ),
        ({"functions": [F["function"], {"name": "g"}], "function_call": {"name": "f"}}, call_of("f", CITY)),
    ],
)
def test_a_required_call_restricts_the_answer_to_its_schema_and_lists_the_tools(fields, expected):
    assert schema(**fields) == expected
    sent = body(**fields)
    assert not {"tools", "tool_choice", "functions", "function_call", "parallel_tool_calls"} & sent.keys()
    system, user = sent["messages"]
    assert user == USER
    assert system["role"] == "system"
    assert "Call one of these tools." in system["content"]
    names = [each["properties"]["name"]["const"] for each in expected.get("anyOf", [expected])]
    listed = [json.loads(line)["name"] for line in system["content"].splitlines() if line.startswith("{")]
    assert listed == names
    host_request = built(**fields)
    field = next(iter(fields))
    is_filtered = len(names) < len(fields[field])
    assert host_request.adjusted == [f"{field}=filtered"] * is_filtered + [f"{field}=emulated"]
    assert host_request.text_calls == TextCalls(
        names=frozenset(names), is_forced=True, one_call=field == "functions", field=field
    )


def test_the_tools_are_listed_after_the_callers_own_instruction():
    system = {"role": "system", "content": "Be brief."}
    [first, _] = body(messages=[system, USER], tools=[F], tool_choice="required")["messages"]
    assert first["content"].startswith("Be brief.\n\nCall one of these tools.")
    assert json.loads(first["content"].splitlines()[-1]) == F["function"]


def test_parallel_tool_calls_false_is_always_honoured():
    host_request = built(tools=[F], tool_choice="required", parallel_tool_calls=False)
    assert host_request.text_calls.one_call
    assert "parallel_tool_calls" not in json.loads(host_request.body)


def test_a_required_call_replaces_response_format():
    host_request = built(tools=[F], tool_choice="required", response_format={"type": "json_object"})
    assert host_request.adjusted == ["response_format=dropped", "tools=emulated"]
    assert schema(tools=[F], tool_choice="required", response_format={"type": "json_object"}) == call_of("f", CITY)


def test_log_probabilities_beside_a_required_call_are_refused():
    fields = {"tools": [F], "tool_choice": "required", "logprobs": True, "top_logprobs": 2}
    with pytest.raises(UnsupportedParameter) as caught:
        built(**fields)
    assert caught.value.param == "logprobs"
    host_request = built(**fields, drops_params=True)
    assert host_request.adjusted == ["logprobs=dropped", "top_logprobs=dropped", "tools=emulated"]
    assert not {"logprobs", "top_logprobs"} & json.loads(host_request.body).keys()


# --- parameters ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        (None, NONE),
        ({}, {"type": "object"}),
        ({"properties": {"a": {}}}, {"type": "object", "properties": {"a": {}}}),
        ({"type": ["object", "null"]}, {"type": ["object", "null"]}),
        ({"anyOf": [CITY, NONE]}, {"anyOf": [CITY, NONE]}),
    ],
)
def test_the_schema_of_arguments_is_an_object(parameters, expected):
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    assert schema(tools=[tool], tool_choice="required") == call_of("f", expected)


@pytest.mark.parametrize("parameters", [{"type": "string"}, {"type": ["string"]}, {"type": 5}, [], "x", 5, True])
def test_parameters_that_are_not_objects_are_refused(parameters):
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    with pytest.raises(MalformedRequest) as caught:
        built(tools=[F, tool], tool_choice="required")
    assert (caught.value.param, caught.value.code) == ("tools[1].function.parameters", "invalid_function_parameters")
    with pytest.raises(MalformedRequest) as caught:
        built(functions=[tool["function"]], function_call={"name": "f"})
    assert caught.value.param == "functions[0].parameters"


@pytest.mark.parametrize("function", [{}, {"name": ""}, {"name": 5}, 5])
def test_a_tool_without_a_name_is_refused(function):
    with pytest.raises(MalformedRequest) as caught:
        built(tools=[{"type": "function", "function": function}], tool_choice="required")
    assert caught.value.param == "tools[0].function.name"


@pytest.mark.parametrize("names", [["t"], ["t", "u"]])
def test_references_inside_parameters_still_resolve(names):
    """Two tools may have definitions of the same name."""
    tools = [{"type": "function", "function": {"name": name, "parameters": TREE}} for name in names]
    resulting = schema(tools=tools, tool_choice="required")
    validator = jsonschema.Draft202012Validator(resulting)
    tree = {"root": {"$ref": 1, "kids": [{"$ref": 2, "kids": []}]}, "self": {"root": {}, "self": None}}
    assert validator.is_valid({"name": names[-1], "arguments": tree})
    assert not validator.is_valid({"name": names[-1], "arguments": {"root": {"kids": [{"$ref": "x"}]}}})
    assert not validator.is_valid({"name": names[-1], "arguments": {"root": {}, "self": {}}})
    assert resulting["$defs"]["tool_0"]["$defs"]["Node"]["default"] == {"$ref": "#/nowhere"}


NAMES = st.sampled_from(["a", "b", "$ref", "$defs", "properties", "enum"])
SCHEMAS = st.recursive(
    st.sampled_from([{"type": "integer"}, {"enum": [{"$ref": "#/a"}]}, {"$ref": "#/$defs/x"}, {"$ref": "#"}, {}]),
    lambda inner: st.one_of(
        st.builds(lambda held: {"type": "object", "properties": held}, st.dictionaries(NAMES, inner, max_size=3)),
        st.builds(lambda item: {"type": "array", "items": item}, inner),
        st.builds(lambda held: {"anyOf": held}, st.lists(inner, min_size=1, max_size=2)),
    ),
    max_leaves=6,
)
VALUES = st.recursive(
    st.integers(0, 2) | st.none(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner, max_size=2),
    max_leaves=5,
)


@given(SCHEMAS, st.dictionaries(NAMES, VALUES, max_size=3))
def test_a_schema_moved_to_defs_accepts_the_same_values(inner, arguments):
    parameters = {"type": "object", "properties": {"a": inner}, "$defs": {"x": {"type": ["integer", "object"]}}}
    tool = {"type": "function", "function": {"name": "t", "parameters": parameters}}
    resulting = schema(tools=[tool], tool_choice="required")

    def takes(against, value) -> bool | None:
        try:
            return jsonschema.Draft202012Validator(against).is_valid(value)
        except RecursionError:
            return None

    assert takes(resulting, {"name": "t", "arguments": arguments}) == takes(parameters, arguments)


# --- the model may choose -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [F]}, "tools"),
        ({"tools": [F], "tool_choice": "auto"}, "tools"),
        (
            {"tools": [F], "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [F]}}},
            "tools",
        ),
        ({"functions": [F["function"]]}, "functions"),
        ({"functions": [F["function"]], "function_call": "auto"}, "functions"),
    ],
)
def test_a_choice_is_refused_unless_the_card_allows_it(fields, param):
    with pytest.raises(UnsupportedParameter) as caught:
        built(**fields)
    assert (caught.value.param, caught.value.code) == (param, "unsupported_parameter")
    dropped = built(**fields, drops_params=True)
    assert dropped.adjusted[-1] == f"{param}=dropped"
    assert json.loads(dropped.body).keys() == {"model", "messages", "stream", "stream_options"}
    assert dropped.text_calls is None


@pytest.mark.parametrize("fields", [{"tools": [F, G]}, {"functions": [F["function"], G["function"]]}])
def test_if_the_card_allows_it_the_tools_are_listed_and_the_answer_is_free(fields):
    host_request = built(**fields, card=CHOOSER)
    sent = json.loads(host_request.body)
    assert sent.keys() == {"model", "messages", "stream", "stream_options"}
    system = sent["messages"][0]["content"]
    assert "If no tool is needed, answer in plain text." in system
    assert [json.loads(line)["name"] for line in system.splitlines() if line.startswith("{")] == ["f", "g"]
    [field] = fields
    assert host_request.adjusted == [f"{field}=emulated"]
    assert not host_request.text_calls.is_forced
    assert not host_request.answer_format.may_call


def test_response_format_beside_tools_that_may_be_called_is_refused():
    fields = {"tools": [F], "response_format": {"type": "json_object"}}
    with pytest.raises(UnsupportedParameter) as caught:
        built(**fields, card=CHOOSER)
    assert caught.value.param == "response_format"
    assert built(**fields, card=CHOOSER, drops_params=True).adjusted == ["response_format=dropped", "tools=emulated"]
    assert built(tools=[F], response_format={"type": "text"}, card=CHOOSER).adjusted == ["tools=emulated"]


@pytest.mark.parametrize(
    ("fields", "adjusted"),
    [
        ({"tool_choice": "none"}, []),
        ({"tools": []}, []),
        ({"tools": [F], "tool_choice": "none"}, ["tools=dropped"]),
        ({"functions": [F["function"]], "function_call": "none"}, ["functions=dropped"]),
    ],
)
@pytest.mark.parametrize("card", [Card(), CHOOSER])
def test_tools_that_may_not_be_called_are_left_out(fields, adjusted, card):
    host_request = built(**fields, card=card)
    assert json.loads(host_request.body)["messages"] == [USER]
    assert (host_request.adjusted, host_request.text_calls) == (adjusted, None)
    assert "tools" not in json.loads(host_request.body)


def test_tools_are_sent_to_a_server_whose_template_is_unknown():
    sent = json.loads(built(tools=[F], tool_choice="required", dialect=DIALECT).body)
    assert (sent["tools"], sent["tool_choice"]) == ([F], "required")


# --- history ------------------------------------------------------------------------------------------------------


def called(call_id: str, name: str, arguments: str) -> dict:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


HISTORY = [
    USER,
    {"role": "assistant", "content": None, "tool_calls": [called("1", "f", '{"city": "Rom"}'), called("2", "g", "{}")]},
    {"role": "tool", "tool_call_id": "2", "content": "12:00"},
    {"role": "tool", "tool_call_id": "1", "content": [{"type": "text", "text": "20 C"}]},
]


def messages_of(**fields) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in body(**fields)["messages"]]


def test_past_calls_and_their_results_become_text():
    assert messages_of(messages=HISTORY) == [
        ("user", "hi"),
        ("assistant", '[Called f with {"city": "Rom"}]\n[Called g with {}]'),
        ("user", "Result of g:\n12:00\n\nResult of f:\n20 C"),
    ]
    assert all(message.keys() == {"role", "content"} for message in body(messages=HISTORY)["messages"])
    assert built(messages=HISTORY).adjusted == ["messages=tools_as_text"]


def test_past_calls_are_written_as_json_if_tools_are_offered():
    [_, _, assistant, *_] = messages_of(messages=HISTORY, tools=[F], tool_choice="required")
    assert assistant[1] == '{"name": "f", "arguments": {"city": "Rom"}}\n{"name": "g", "arguments": {}}'


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        (
            [{"role": "assistant", "content": "Let me see.", "tool_calls": [called("1", "f", "")]}],
            "Let me see.\n[Called f with {}]",
        ),
        (
            [{"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}}],
            "[Called f with {}]",
        ),
        (
            [
                {
                    "role": "assistant",
                    "tool_calls": [{"id": "1", "type": "custom", "custom": {"name": "c", "input": "x"}}],
                }
            ],
            '[Called c with {"input":"x"}]',
        ),
    ],
)
def test_every_form_of_a_past_call_becomes_text(messages, text):
    assert messages_of(messages=[USER, *messages, USER])[1] == ("assistant", text)


@pytest.mark.parametrize(
    ("result", "text"),
    [
        ({"role": "tool", "tool_call_id": "other", "content": "5"}, "Result of the tool:\n5"),
        ({"role": "tool", "tool_call_id": "1", "content": ""}, "Result of f:\n"),
        ({"role": "function", "name": "f", "content": None}, "Result of the tool:\n"),
    ],
)
def test_every_form_of_a_result_becomes_text(result, text):
    history = [USER, {"role": "assistant", "content": "", "tool_calls": [called("1", "f", "{}")]}]
    assert messages_of(messages=[*history, result, USER])[2:] == [("user", text), ("user", "hi")]
    assert built(messages=[USER, result]).adjusted == ["messages=tools_as_text"]


def test_a_call_without_a_result_at_the_end_is_still_refused():
    with pytest.raises(MalformedRequest, match="no message holds their results"):
        built(messages=HISTORY[:2])


def test_a_history_without_tools_stays_unchanged():
    messages = [USER, {"role": "assistant", "content": "Hello."}, USER]
    assert messages_of(messages=messages) == [("user", "hi"), ("assistant", "Hello."), ("user", "hi")]
    assert built(messages=messages).adjusted == []


# --- errors of the host -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [
        "Unable to generate parser for this template. Automatic parser generation failed: JSON schema error at #/x: no",
        "Failed to initialize samplers: failed to parse grammar",
    ],
)
def test_an_error_about_the_schema_names_the_tools(message):
    error = UpstreamRejected(message)
    point_to_tools(error, TextCalls(names=frozenset(), field="functions"))
    assert (error.status, error.param) == (400, "functions")
    assert error.message.endswith(message)


@pytest.mark.parametrize(
    "error",
    [
        UpstreamRejected("the request exceeds the context of the grammar", code="context_length_exceeded"),
        UpstreamRejected("temperature must be a number"),
        UpstreamFailed("grammar"),
    ],
)
def test_other_errors_stay_unchanged(error):
    message = error.message
    point_to_tools(error, TextCalls(names=frozenset()))
    assert (error.param, error.message) == (None, message)
