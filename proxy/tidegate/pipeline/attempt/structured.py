"""Answers that must fit a schema at hosts that cannot see to it: validated here, asked for once more (Q-JSON)."""

from collections.abc import Iterator, Sequence

import msgspec
from msgspec import Raw

from tidegate.errors import AnswerMisfit
from tidegate.protocol import json_schema
from tidegate.protocol.raw import as_list
from tidegate.protocol.request import ModelRequest
from tidegate.protocol.usage import sum_usage
from tidegate.streaming.chat import AssembledChoice, ChatAssembler

_encode = msgspec.json.Encoder().encode


class Structured:
    """One request for a structured answer."""

    def __init__(self, request: ModelRequest, schema: Raw | None) -> None:
        self._request = request
        self._schema = schema or Raw(b"{}")

    def complaints(self, answer: ChatAssembler) -> Sequence[str]:
        """What is wrong with the answer; a good one loses the code fence around it."""
        found: list[str] = []
        choices = list(_finished(answer))
        texts = [json_schema.unwrap("".join(choice.text)) for choice in choices]
        for choice, text, wrong in zip(choices, texts, json_schema.complaints(self._schema, texts), strict=True):
            if not wrong:
                choice.text = [text]
            found += wrong
        return found

    def check(self, answer: ChatAssembler) -> None:
        """The same after the second try.

        Raises:
            AnswerMisfit: it is still wrong.
        """
        if complaints := self.complaints(answer):
            raise AnswerMisfit(
                f"The model's answer does not fit the schema of response_format. {' '.join(complaints)}",
                is_quoted=True,
            )

    def with_complaints(self, answer: ChatAssembler, complaints: Sequence[str]) -> ModelRequest:
        """The request once more, with the wrong answer and what is wrong with it."""
        texts = ["".join(choice.text) for choice in _finished(answer)]
        said = {"role": "assistant", "content": texts[0] or "{}"}
        told = {
            "role": "user",
            "content": f"That does not fit the schema. {' '.join(complaints)} Answer with the corrected JSON alone.",
        }
        messages = [*as_list(self._request.fields["messages"]), Raw(_encode(said)), Raw(_encode(told))]
        return msgspec.structs.replace(
            self._request, fields=self._request.fields | {"messages": Raw(_encode(messages))}
        )

    def add_usage(self, first: ChatAssembler, second: ChatAssembler) -> None:
        """Both tries are paid for, so both count."""
        if first.told_usage is not None and second.told_usage is not None:
            second.usage(sum_usage(first.told_usage, second.told_usage))


def _finished(answer: ChatAssembler) -> Iterator[AssembledChoice]:
    """The choices that are to be validated: not cut, no refusal, no tool call."""
    for choice in answer.choices:
        if choice.reason == "stop" and not (choice.refusal or choice.tools):
            yield choice
