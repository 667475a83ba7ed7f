"""Validation of answers against a caller's JSON schema, with the `jsonschema` library, made safe for a server.

Neither the caller's schema nor the model's answer can be trusted, and validating must not delay other requests. So
nothing is fetched (a `$ref` to another document fails), regular expressions are not run (Python's can take exponential
time), sizes are limited, and the number of steps is limited. Each keyword that is applied counts as one step, or as
more for a large value. What is not checked is taken as valid.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import msgspec
from jsonschema import Draft202012Validator
from jsonschema.exceptions import UndefinedTypeCheck, UnknownType, ValidationError
from jsonschema.validators import extend
from msgspec import Raw
from referencing import Registry
from referencing.exceptions import Unresolvable

from tidegate.errors import MalformedRequest

_MAX_SCHEMA = 256 * 1024  # bytes
_MAX_ANSWER = 1024 * 1024  # characters
_MAX_STEPS = 40_000  # for validating all answers to one request; about 0.2 s
_MAX_SCHEMA_STEPS = 80_000  # for checking a schema, about 50 for each of its properties; about 0.4 s
_ITEMS_A_STEP = 16
_CHARS_A_STEP = 256
_MAX_VIOLATIONS = 5
_MAX_VIOLATION_CHARS = 300
# Keywords that run regular expressions, or collect the properties of subschemas, or search lists in lists.
_UNCHECKED_KEYWORDS = frozenset(
    {"pattern", "patternProperties", "unevaluatedProperties", "unevaluatedItems", "dependentRequired"}
)
# The errors of jsonschema if a `$ref` points to a part of the document that is not a schema, which `check` cannot see.
_NOT_A_SCHEMA = (UnknownType, UndefinedTypeCheck, TypeError, AttributeError, ValueError, LookupError, ArithmeticError)

Keyword = Callable[[Any, Any, Any, Any], Iterator[ValidationError] | None]
MakeValidator = Callable[..., Any]


class _TooManySteps(Exception):
    pass


def check(schema: Raw) -> None:
    """Check that `schema` is a JSON schema (2020-12) of an acceptable size.

    Raises:
        MalformedRequest: it is not.
    """
    if len(bytes(schema)) > _MAX_SCHEMA:
        raise _invalid(f"it is over {_MAX_SCHEMA} bytes")
    try:
        decoded = msgspec.json.decode(schema, type=dict)
        validator = _step_limited(_MAX_SCHEMA_STEPS)(Draft202012Validator.META_SCHEMA, registry=Registry())
        error = next(validator.iter_errors(decoded), None)
    except (msgspec.DecodeError, RecursionError) as failure:
        raise _invalid("it is no object, or too deep") from failure
    except _TooManySteps as failure:
        raise _invalid("it is too large") from failure
    if error is not None:
        raise _invalid(error.message[:_MAX_VIOLATION_CHARS])


def violations(schema: Raw, answers: Iterable[str]) -> Iterator[list[str]]:
    """Yield for each answer its violations of the checked `schema`, as a few sentences; an empty list if it is valid.

    The limit of steps is for all answers together.
    """
    make_validator = _step_limited(_MAX_STEPS)
    for answer in answers:
        yield _violations_of(make_validator, schema, answer)


def _violations_of(make_validator: MakeValidator, schema: Raw, answer: str) -> list[str]:
    if len(answer) > _MAX_ANSWER:
        return ["It is too long to be validated."]
    try:
        value = msgspec.json.decode(answer)
    except (msgspec.DecodeError, RecursionError):
        return ["It is not valid JSON."]
    try:
        found = make_validator(msgspec.json.decode(schema), registry=Registry()).iter_errors(value)
        return [_violation_text(error) for error, _ in zip(found, range(_MAX_VIOLATIONS), strict=False)]
    except _TooManySteps:
        return ["It takes too long to validate."]
    except (Unresolvable, RecursionError, *_NOT_A_SCHEMA) as error:
        return [f"It cannot be validated: {type(error).__name__}."]


def unwrap(answer: str) -> str:
    """Return the JSON in an answer, without the code fence that models often put around it."""
    text = answer.strip()
    if text.startswith("```") and text.endswith("```") and "\n" in text:
        text = text[text.index("\n") + 1 : -3].strip()
    return text


def _violation_text(error: ValidationError) -> str:
    return f"At {error.json_path}: {error.message[:_MAX_VIOLATION_CHARS]}."


def _invalid(reason: str) -> MalformedRequest:
    return MalformedRequest(
        f"Invalid schema for response_format: {reason}.", param="response_format", code="invalid_json_schema"
    )


def _step_limited(remaining: int) -> MakeValidator:
    """Return a validator class whose instances together raise `_TooManySteps` after `remaining` steps.

    Without the limit the time can be exponential: with `anyOf` in `anyOf` it doubles with each level.
    """

    def count_steps(steps: int) -> None:
        nonlocal remaining
        remaining -= steps
        if remaining < 0:
            raise _TooManySteps

    def counted(keyword: Keyword) -> Keyword:
        def validate(
            validator: Any,  # noqa: ANN401 - jsonschema's signature
            value: Any,  # noqa: ANN401
            instance: Any,  # noqa: ANN401
            schema: Any,  # noqa: ANN401
        ) -> Iterator[ValidationError]:
            count_steps(1 + (_items(value) + _items(instance)) // _ITEMS_A_STEP)
            for error in keyword(validator, value, instance, schema) or ():
                count_steps(1 + len(error.message) // _CHARS_A_STEP)  # the message may quote the whole answer
                yield error

        return validate

    def evolve(self: Any, *, schema: Any, _resolver: Any = None) -> Any:  # noqa: ANN401 - jsonschema's signature
        """Return a validator of this class for a subschema; jsonschema's method takes the class by `$schema`."""
        count_steps(1)
        return type(self)(schema, _resolver=_resolver or self._resolver)

    known: Mapping[str, Keyword] = Draft202012Validator.VALIDATORS
    keywords = {name: keyword for name, keyword in known.items() if name not in _UNCHECKED_KEYWORDS}
    keywords |= {"uniqueItems": _unique, "additionalProperties": _unless_patterns(known["additionalProperties"])}
    validator_class: Any = extend(Draft202012Validator)  # type: ignore[no-untyped-call]
    validator_class.VALIDATORS = {name: counted(keyword) for name, keyword in keywords.items()}
    validator_class.evolve = evolve
    return validator_class  # type: ignore[no-any-return]


def _items(value: object) -> int:
    return len(value) if isinstance(value, list | dict) else 0


def _unique(_validator: object, value: object, instance: object, _schema: object) -> Iterator[ValidationError]:
    """Check `uniqueItems` in linear time; jsonschema compares each object with every other one."""
    if value is True and isinstance(instance, list):
        distinct = {json.dumps(item, sort_keys=True) for item in instance}
        if len(distinct) < len(instance):
            yield ValidationError("It has elements that are alike")


def _unless_patterns(keyword: Keyword) -> Keyword:
    """Skip `additionalProperties` in a schema with `patternProperties`, as patterns are not checked."""

    def validate(
        validator: Any,  # noqa: ANN401 - jsonschema's signature
        value: Any,  # noqa: ANN401
        instance: Any,  # noqa: ANN401
        schema: Any,  # noqa: ANN401
    ) -> Iterator[ValidationError] | None:
        return None if "patternProperties" in schema else keyword(validator, value, instance, schema)

    return validate
