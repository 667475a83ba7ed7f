"""Validation of answers against a caller's JSON schema, with the `jsonschema` library, made safe for a server.

The schema is the caller's and the answer the model's, so neither may hold up other requests: nothing is fetched (`$ref`
to other documents fails), regular expressions are not run (Python's can take for ever), sizes are bounded, and the
steps are counted, each by what it looks through. What is not looked at is taken for valid.
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
_MAX_STEPS = 40_000  # some 0.2 s
_MAX_CHECK = 80_000  # some 0.4 s; about fifty for each property
_ITEMS_A_STEP = 16
_CHARS_A_STEP = 256
_MAX_COMPLAINTS = 5
_MAX_COMPLAINT = 300
# Regular expressions, what looks at them in schemas below, and what looks through lists in lists.
_NOT_LOOKED_AT = frozenset(
    {"pattern", "patternProperties", "unevaluatedProperties", "unevaluatedItems", "dependentRequired"}
)
# What a `$ref` may point to was not checked to be a schema; jsonschema fails on it in these ways.
_NOT_A_SCHEMA = (UnknownType, UndefinedTypeCheck, TypeError, AttributeError, ValueError, LookupError, ArithmeticError)

Keyword = Callable[[Any, Any, Any, Any], Iterator[ValidationError] | None]
MakeValidator = Callable[..., Any]


class _TooManySteps(Exception):
    pass


def check(schema: Raw) -> None:
    """Whether `schema` is a JSON schema (2020-12) of a size that can be worked with.

    Raises:
        MalformedRequest: it is not.
    """
    if len(bytes(schema)) > _MAX_SCHEMA:
        raise _invalid(f"it is over {_MAX_SCHEMA} bytes")
    try:
        decoded = msgspec.json.decode(schema, type=dict)
        validator = _counted(_MAX_CHECK)(Draft202012Validator.META_SCHEMA, registry=Registry())
        error = next(validator.iter_errors(decoded), None)
    except (msgspec.DecodeError, RecursionError) as failure:
        raise _invalid("it is no object, or too deep") from failure
    except _TooManySteps as failure:
        raise _invalid("it is too large") from failure
    if error is not None:
        raise _invalid(error.message[:_MAX_COMPLAINT])


def complaints(schema: Raw, answers: Iterable[str]) -> Iterator[list[str]]:
    """What is wrong with each of the answers, a few sentences; none where it is valid against the checked `schema`.

    The answers share the steps.
    """
    make = _counted(_MAX_STEPS)
    for answer in answers:
        yield _complaints(make, schema, answer)


def _complaints(make: MakeValidator, schema: Raw, answer: str) -> list[str]:
    if len(answer) > _MAX_ANSWER:
        return ["It is too long to be validated."]
    try:
        value = msgspec.json.decode(answer)
    except (msgspec.DecodeError, RecursionError):
        return ["It is not valid JSON."]
    try:
        found = make(msgspec.json.decode(schema), registry=Registry()).iter_errors(value)
        return [_sentence(error) for error, _ in zip(found, range(_MAX_COMPLAINTS), strict=False)]
    except _TooManySteps:
        return ["It takes too long to validate."]
    except (Unresolvable, RecursionError, *_NOT_A_SCHEMA) as error:
        return [f"It cannot be validated: {type(error).__name__}."]


def unwrap(answer: str) -> str:
    """The JSON in an answer, without the code fence that models like to put around it."""
    text = answer.strip()
    if text.startswith("```") and text.endswith("```") and "\n" in text:
        text = text[text.index("\n") + 1 : -3].strip()
    return text


def _sentence(error: ValidationError) -> str:
    return f"At {error.json_path}: {error.message[:_MAX_COMPLAINT]}."


def _invalid(reason: str) -> MalformedRequest:
    return MalformedRequest(
        f"Invalid schema for response_format: {reason}.", param="response_format", code="invalid_json_schema"
    )


def _counted(left: int) -> MakeValidator:
    """Validators that together give up after `left` steps: `anyOf` in `anyOf` doubles with each level."""

    def pay(steps: int) -> None:
        nonlocal left
        left -= steps
        if left < 0:
            raise _TooManySteps

    def counted(keyword: Keyword) -> Keyword:
        def validate(
            validator: Any,  # noqa: ANN401 - jsonschema's signature
            value: Any,  # noqa: ANN401
            instance: Any,  # noqa: ANN401
            schema: Any,  # noqa: ANN401
        ) -> Iterator[ValidationError]:
            pay(1 + (_items(value) + _items(instance)) // _ITEMS_A_STEP)
            for error in keyword(validator, value, instance, schema) or ():
                pay(1 + len(error.message) // _CHARS_A_STEP)  # it may quote all of the answer
                yield error

        return validate

    def evolve(self: Any, *, schema: Any, _resolver: Any = None) -> Any:  # noqa: ANN401 - jsonschema's signature
        """The same validator for a schema below; jsonschema's own takes the class that its `$schema` names."""
        pay(1)
        return type(self)(schema, _resolver=_resolver or self._resolver)

    known: Mapping[str, Keyword] = Draft202012Validator.VALIDATORS
    keywords = {name: keyword for name, keyword in known.items() if name not in _NOT_LOOKED_AT}
    keywords |= {"uniqueItems": _unique, "additionalProperties": _unless_patterns(known["additionalProperties"])}
    made: Any = extend(Draft202012Validator)  # type: ignore[no-untyped-call]
    made.VALIDATORS = {name: counted(keyword) for name, keyword in keywords.items()}
    made.evolve = evolve
    return made  # type: ignore[no-any-return]


def _items(value: object) -> int:
    return len(value) if isinstance(value, list | dict) else 0


def _unique(_validator: object, value: object, instance: object, _schema: object) -> Iterator[ValidationError]:
    """In linear time; jsonschema compares objects each with each."""
    if value is True and isinstance(instance, list):
        alike = {json.dumps(item, sort_keys=True) for item in instance}
        if len(alike) < len(instance):
            yield ValidationError("It has elements that are alike")


def _unless_patterns(keyword: Keyword) -> Keyword:
    """What is additional cannot be known where patterns are not looked at."""

    def validate(
        validator: Any,  # noqa: ANN401 - jsonschema's signature
        value: Any,  # noqa: ANN401
        instance: Any,  # noqa: ANN401
        schema: Any,  # noqa: ANN401
    ) -> Iterator[ValidationError] | None:
        return None if "patternProperties" in schema else keyword(validator, value, instance, schema)

    return validate
