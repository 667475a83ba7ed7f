"""Schemas of callers and answers of models, both of which may be meant to do harm."""

import json

import pytest
from msgspec import Raw
from tidegate.errors import MalformedRequest
from tidegate.protocol import json_schema

ENDLESS = "^(a+)+$"  # as a regular expression
LONG = "a" * 60 + "!"
PERSON = {"type": "object", "properties": {"born": {"type": "integer"}}, "required": ["born"]}


def complaints(schema: object, answer: object) -> list[str]:
    """Of one answer, against a schema that is checked first."""
    raw = Raw(json.dumps(schema).encode())
    json_schema.check(raw)
    return next(json_schema.complaints(raw, [answer if isinstance(answer, str) else json.dumps(answer)]))


def refused(schema: bytes) -> str:
    with pytest.raises(MalformedRequest) as caught:
        json_schema.check(Raw(schema))
    assert (caught.value.code, caught.value.param) == ("invalid_json_schema", "response_format")
    return caught.value.message


def nested(levels: int, make) -> dict:
    """A small schema of which each level has the one below twice."""
    levels_below = {f"a{level}": make({"$ref": f"#/$defs/a{level - 1}"}) for level in range(1, levels)}
    return {"$defs": {"a0": {"type": "object"}} | levels_below, "$ref": f"#/$defs/a{levels - 1}"}


def test_a_valid_answer_has_no_complaints():
    assert complaints(PERSON, {"born": 1815}) == []


def test_complaints_say_where_and_what():
    assert complaints(PERSON, {"born": "x"}) == ["At $.born: 'x' is not of type 'integer'."]
    assert complaints(PERSON, "born") == ["It is not valid JSON."]


@pytest.mark.parametrize(
    "schema",
    [
        {"additionalProperties": {"pattern": ENDLESS}},
        {"patternProperties": {ENDLESS: {}}, "additionalProperties": False},
        {"additionalProperties": {"$schema": "http://json-schema.org/draft-07/schema#", "pattern": ENDLESS}},
        {"unevaluatedProperties": False, "allOf": [{"patternProperties": {ENDLESS: {}}}]},
    ],
    ids=["plain", "of names", "under an older draft", "of names, in a schema below"],
)
def test_no_regular_expression_is_run(schema):
    assert complaints(schema, {LONG: LONG}) == []


@pytest.mark.parametrize(
    ("schema", "answer"),
    [
        (nested(30, lambda below: {"anyOf": [{"type": "string"}, {"allOf": [below, below]}]}), {}),
        (nested(30, lambda below: {"allOf": [below, below]}), {}),
        ({"items": {"not": {"contains": {"const": 1}}}}, [[2] * 1000] * 100),
        ({"items": {"allOf": [{}] * 1000}}, [1] * 1000),
        ({"anyOf": [{"items": {"required": [f"property_{n}" for n in range(2000)]}}]}, [{}] * 1000),
    ],
    ids=["any of any", "all of all", "contained", "empty schemas", "many errors"],
)
def test_what_takes_too_long_is_given_up(schema, answer):
    assert complaints(schema, answer) == ["It takes too long to validate."]


def test_answers_share_their_steps():
    schema = Raw(json.dumps({"items": {"type": "integer"}}).encode())
    *_, last = json_schema.complaints(schema, [json.dumps([1] * 5000)] * 8)
    assert last == ["It takes too long to validate."]


def test_unlike_objects_are_told_apart_in_linear_time():
    answer = [{"a": number} for number in range(20_000)]
    assert complaints({"uniqueItems": True}, answer) == []
    assert complaints({"uniqueItems": True}, [{"a": 1, "b": 2}, {"b": 2, "a": 1}]) == [
        "At $: It has elements that are alike."
    ]


def test_an_answer_that_is_too_long_is_not_read():
    assert complaints({}, "[" + "0," * 1_000_000 + "0]") == ["It is too long to be validated."]


@pytest.mark.parametrize(
    "schema",
    [
        {"minimum": 5, "$ref": "#/minimum"},
        {"required": ["a"], "$ref": "#/required"},
        {"default": None, "$ref": "#/default"},
        {"default": {"type": 5}, "$ref": "#/default"},
        {"default": {"type": "persons"}, "$ref": "#/default"},
        {"default": {"$ref": 5}, "$ref": "#/default"},
        {"anyOf": [True], "$ref": "#/anyOf/x"},
        {"$ref": "#"},
        {"$ref": "#nowhere"},
        {"$ref": "http://["},
        {"$ref": "http://127.0.0.1:9/schema"},
        {"$ref": "file:///etc/passwd"},
    ],
)
def test_a_reference_to_what_is_no_schema_here_is_a_complaint(schema):
    (told,) = complaints(schema, {"a": 1})
    assert told.startswith("It cannot be validated: ")


@pytest.mark.parametrize("schema", [{"multipleOf": 0.1}, {"multipleOf": 10**400}])
def test_numbers_that_python_cannot_divide_are_a_complaint(schema):
    answer = "1" + "0" * 400 if isinstance(schema["multipleOf"], float) else "1.5"
    assert complaints(schema, answer) == ["It cannot be validated: OverflowError."]


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        (b'{"type": "persons"}', "'persons'"),
        (b"true", "no object"),
        (b'{"const": "\\ud800"}', "no object"),
        (b'{"minimum": 1e999}', "no object"),
        (b'{"title": "%b"}' % (b"x" * 300_000), "over"),
        (json.dumps({"properties": {f"p{n}": {"type": "string"} for n in range(5000)}}).encode(), "too large"),
        (json.dumps({"required": [{"a": n} for n in range(5000)]}).encode(), "not of type 'string'"),
    ],
    ids=["no type", "no object", "a surrogate", "infinite", "huge", "many properties", "objects for names"],
)
def test_a_schema_that_is_none_is_refused(schema, why):
    assert why in refused(schema)
