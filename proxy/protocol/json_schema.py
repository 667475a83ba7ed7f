"""Validation of answers against a caller's JSON schema, with the `jsonschema` library, made safe for a server.

The schema is the caller's and the answer the model's, so neither may hold up other requests: nothing is fetched (`$ref`
to other documents fails), regular expressions are not run (Python's can take for ever), the steps are counted.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec
from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.exceptions import SchemaError, ValidationError
from jsonschema.validators import extend
from msgspec import Raw
from referencing import Registry
from referencing.exceptions import Unresolvable

from proxy.errors import MalformedRequest

_MAX_STEPS = 20_000  # some 0.2 s
_MAX_COMPLAINTS = 5
_MAX_COMPLAINT = 300
_NO_FORMATS = FormatChecker(formats=())
_PATTERNS = frozenset({"pattern", "patternProperties", "propertyNames"})
# they look at `patternProperties` to know what is additional
_BESIDE_PATTERNS = frozenset({"additionalProperties", "unevaluatedProperties"})

Keyword = Callable[[Any, Any, Any, Any], Iterator[ValidationError] | None]


class _TooManySteps(Exception):
    pass


def check(schema: Raw) -> None:
    """Whether `schema` is a JSON schema (2020-12).

    Raises:
        MalformedRequest: it is not.
    """
    try:
        decoded = msgspec.json.decode(schema, type=dict)
        Draft202012Validator.check_schema(decoded, format_checker=_NO_FORMATS)
    except (SchemaError, msgspec.ValidationError, RecursionError) as error:
        reason = error.message[:_MAX_COMPLAINT] if isinstance(error, SchemaError) else "it is no object, or too deep"
        raise MalformedRequest(
            f"Invalid schema for response_format: {reason}.", param="response_format", code="invalid_json_schema"
        ) from error


def complaints(schema: Raw, answer: str) -> list[str]:
    """What is wrong with `answer`, a few sentences; none where it is valid against `schema`, which was checked."""
    try:
        value = msgspec.json.decode(answer)
    except (msgspec.DecodeError, RecursionError):
        return ["It is not valid JSON."]
    counted = _counted()
    try:
        found = counted(msgspec.json.decode(schema), registry=Registry()).iter_errors(value)
        return [_sentence(error) for error, _ in zip(found, range(_MAX_COMPLAINTS), strict=False)]
    except _TooManySteps:
        return ["It takes too long to validate."]
    except (Unresolvable, RecursionError) as error:
        return [f"It cannot be validated: {type(error).__name__}."]


def unwrap(answer: str) -> str:
    """The JSON in an answer, without the code fence that models like to put around it."""
    text = answer.strip()
    if text.startswith("```") and text.endswith("```") and "\n" in text:
        text = text[text.index("\n") + 1 : -3].strip()
    return text


def _sentence(error: ValidationError) -> str:
    return f"At {error.json_path}: {error.message[:_MAX_COMPLAINT]}."


def _counted() -> Any:  # noqa: ANN401 - a class that jsonschema makes
    """A validator that gives up after `_MAX_STEPS` keywords: `anyOf` in `anyOf` doubles with each level."""
    left = _MAX_STEPS

    def step(keyword: Keyword) -> Keyword:
        def validate(
            validator: Any,  # noqa: ANN401 - jsonschema's signature
            value: Any,  # noqa: ANN401
            instance: Any,  # noqa: ANN401
            schema: Any,  # noqa: ANN401
        ) -> Iterator[ValidationError] | None:
            nonlocal left
            left -= 1
            if left < 0:
                raise _TooManySteps
            return keyword(validator, value, instance, schema)

        return validate

    known: Mapping[str, Keyword] = Draft202012Validator.VALIDATORS
    keywords = {name: step(keyword) for name, keyword in known.items()}
    keywords |= dict.fromkeys(_PATTERNS, _nothing)
    keywords |= {name: _unless_patterns(keywords[name]) for name in _BESIDE_PATTERNS}
    return extend(Draft202012Validator, keywords)  # type: ignore[no-untyped-call]


def _nothing(_validator: object, _value: object, _instance: object, _schema: object) -> None:
    """A keyword that is not looked at."""


def _unless_patterns(keyword: Keyword) -> Keyword:
    def validate(
        validator: Any,  # noqa: ANN401 - jsonschema's signature
        value: Any,  # noqa: ANN401
        instance: Any,  # noqa: ANN401
        schema: Any,  # noqa: ANN401
    ) -> Iterator[ValidationError] | None:
        return None if "patternProperties" in schema else keyword(validator, value, instance, schema)

    return validate
