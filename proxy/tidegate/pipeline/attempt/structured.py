"""`Structured`: validates answers that must fit a schema, for hosts that do not guarantee it (Q-JSON)."""

from collections.abc import Iterator, Sequence

import msgspec
from msgspec import Raw

from tidegate.errors import SchemaMismatch
from tidegate.protocol import json_schema
from tidegate.protocol.raw import as_list
from tidegate.protocol.request import ModelRequest
from tidegate.protocol.usage import sum_usage
from tidegate.streaming.chat import AssembledChoice, ChatAssembler

_encode = msgspec.json.Encoder().encode


class Structured:
    """One request for a structured answer. An answer that does not fit is requested once more.

    Args:
        schema: the JSON schema; None: any JSON value fits.
    """

    def __init__(self, request: ModelRequest, schema: Raw | None) -> None:
        self._request = request
        self._schema = schema or Raw(b"{}")

    def violations(self, answer: ChatAssembler) -> Sequence[str]:
        """How the answer violates the schema, in sentences; in a valid answer, a code fence around it is removed."""
        violations: list[str] = []
        choices = list(_choices_to_validate(answer))
        texts = [json_schema.unwrap("".join(choice.text)) for choice in choices]
        for choice, text, wrong in zip(choices, texts, json_schema.violations(self._schema, texts), strict=True):
            if not wrong:
                choice.text = [text]
            violations += wrong
        return violations

    def check(self, answer: ChatAssembler) -> None:
        """Validate the second answer.

        Raises:
            SchemaMismatch: it does not fit the schema either.
        """
        if violations := self.violations(answer):
            raise SchemaMismatch(
                f"The model's answer does not fit the schema of response_format. {' '.join(violations)}",
                is_quoted=True,
            )

    def with_violations(self, answer: ChatAssembler, violations: Sequence[str]) -> ModelRequest:
        """The request once more, with the wrong answer and its violations appended as messages."""
        texts = ["".join(choice.text) for choice in _choices_to_validate(answer)]
        answered = {"role": "assistant", "content": texts[0] or "{}"}
        correction = {
            "role": "user",
            "content": f"That does not fit the schema. {' '.join(violations)} Answer with the corrected JSON alone.",
        }
        messages = [*as_list(self._request.fields["messages"]), Raw(_encode(answered)), Raw(_encode(correction))]
        return msgspec.structs.replace(
            self._request, fields=self._request.fields | {"messages": Raw(_encode(messages))}
        )

    def add_usage(self, first: ChatAssembler, second: ChatAssembler) -> None:
        """Add the usage of the first answer to that of the second, as both are paid for."""
        if first.final_usage is not None and second.final_usage is not None:
            second.usage(sum_usage(first.final_usage, second.final_usage))


def _choices_to_validate(answer: ChatAssembler) -> Iterator[AssembledChoice]:
    """The choices that are validated: those that were not cut off and are no refusal and no tool call."""
    for choice in answer.choices:
        if choice.reason == "stop" and not (choice.refusal or choice.tools):
            yield choice
