"""Validation of answers; both the caller's schema and the model's answer may be malicious."""

import json

import pytest
from msgspec import Raw

from tidegate.errors import MalformedRequest
from tidegate.protocol import json_schema

ENDLESS = "^(a+)+$"  # a regular expression that takes exponential time on `LONG`
LONG = "a" * 60 + "!"
PERSON = {"type": "object", "properties": {"born": {"type": "integer"}}, "required": ["born"]}


def violations(schema: object, answer: object) -> list[str]:
    """Return the violations of one answer, after checking the schema."""
    raw = Raw(json.dumps(schema).encode())
    json_schema.check(raw)
    return next(json_schema.violations(raw, [answer if isinstance(answer, str) else json.dumps(answer)]))


def rejection(schema: bytes) -> str:
    with pytest.raises(MalformedRequest) as caught:
        json_schema.check(Raw(schema))
    assert (caught.value.code, caught.value.param) == ("invalid_json_schema", "response_format")
    return caught.value.message


def nested(levels: int, make) -> dict:
    """A small schema in which `make` builds each level from a reference to the level below."""
    levels_below = {f"a{level}": make({"$ref": f"#/$defs/a{level - 1}"}) for level in range(1, levels)}
    return {"$defs": {"a0": {"type": "object"}} | levels_below, "$ref": f"#/$defs/a{levels - 1}"}


def test_a_valid_answer_has_no_violations():
    assert violations(PERSON, {"born": 1815}) == []


def test_a_violation_names_the_position_and_the_error():
    assert violations(PERSON, {"born": "x"}) == ["At $.born: 'x' is not of type 'integer'."]
    assert violations(PERSON, "born") == ["It is not valid JSON."]


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
    assert violations(schema, {LONG: LONG}) == []


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
def test_the_number_of_steps_is_limited(schema, answer):
    assert violations(schema, answer) == ["It takes too long to validate."]


def test_the_answers_share_the_limit_of_steps():
    schema = Raw(json.dumps({"items": {"type": "integer"}}).encode())
    *_, last = json_schema.violations(schema, [json.dumps([1] * 5000)] * 8)
    assert last == ["It takes too long to validate."]


def test_unique_objects_are_found_in_linear_time():
    answer = [{"a": number} for number in range(20_000)]
    assert violations({"uniqueItems": True}, answer) == []
    assert violations({"uniqueItems": True}, [{"a": 1, "b": 2}, {"b": 2, "a": 1}]) == [
        "At $: It has elements that are alike."
    ]


def test_an_answer_that_is_too_long_is_not_read():
    assert violations({}, "[" + "0," * 1_000_000 + "0]") == ["It is too long to be validated."]


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
def test_a_reference_to_something_other_than_a_schema_is_a_violation(schema):
    (violation,) = violations(schema, {"a": 1})
    assert violation.startswith("It cannot be validated: ")


@pytest.mark.parametrize("schema", [{"multipleOf": 0.1}, {"multipleOf": 10**400}])
def test_numbers_that_python_cannot_divide_are_a_violation(schema):
    answer = "1" + "0" * 400 if isinstance(schema["multipleOf"], float) else "1.5"
    assert violations(schema, answer) == ["It cannot be validated: OverflowError."]


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
def test_an_invalid_schema_is_rejected(schema, why):
    assert why in rejection(schema)
