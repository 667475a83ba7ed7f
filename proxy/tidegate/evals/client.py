"""`EvalClient`: sends an item to one target through a running Tidegate, and reads the answer."""

from typing import Any

import msgspec
from msgspec import Struct

from tidegate.errors import ProxyError, UpstreamTimeout
from tidegate.evals.grading import ModelAnswer, ReceivedCall
from tidegate.evals.items import Item, ItemSet
from tidegate.protocol.errors import ErrorBody
from tidegate.transport.wire import Transport

_MAX_TOKENS = 2048  # leaves room for the thinking of reasoning models
_encode = msgspec.json.Encoder().encode


class NotAnswered(Exception):
    """There is no answer to grade; the message gives the reason.

    `status` is the HTTP status, or 0 if Tidegate could not be reached.
    """

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class _CalledFunction(Struct, frozen=True):
    name: str = ""
    arguments: str = ""


class _ToolCall(Struct):
    function: _CalledFunction = _CalledFunction()


class _AnswerMessage(Struct):
    content: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _AnswerChoice(Struct):
    message: _AnswerMessage


class _Completion(Struct):
    choices: list[_AnswerChoice]


class EvalClient:
    """Sends items through `transport`, whose base URL is the `/v1` of a Tidegate."""

    def __init__(self, transport: Transport, items: ItemSet) -> None:
        self._transport = transport
        self._items = items

    async def send(self, target: str, item: Item) -> ModelAnswer:
        """Send `item` to `target`, and return its answer.

        Raises:
            NotAnswered: there is no answer that can be graded.
        """
        try:
            response = await self._transport.post(
                "/chat/completions", _encode(request_body(target, item, self._items)), is_stream=False
            )
            try:
                body = await response.read_all()
            finally:
                response.close()
        except UpstreamTimeout as error:
            raise NotAnswered(error.message, error.status) from error
        except ProxyError as error:
            raise NotAnswered("it does not answer; is it running?") from error
        return read_answer(response.status, body)


def request_body(target: str, item: Item, items: ItemSet) -> dict[str, Any]:
    """The chat request for `item`."""
    body: dict[str, Any] = {
        "model": target,
        "messages": [{"role": "system", "content": _instruction(item)}, {"role": "user", "content": item.ask}],
        "temperature": 0,
        "max_tokens": _MAX_TOKENS,
    }
    if item.task == "json":
        body["response_format"] = {"type": "json_object"}
    if item.task == "tools":
        body["tools"] = items.tools
    return body


def read_answer(status: int, body: bytes) -> ModelAnswer:
    """Read the model's answer from an HTTP answer.

    Raises:
        NotAnswered: it is an error, or not an answer of Tidegate.
    """
    try:
        if status != 200:
            raise NotAnswered(msgspec.json.decode(body, type=ErrorBody).error.message, status)
        message = msgspec.json.decode(body, type=_Completion).choices[0].message
    except (msgspec.DecodeError, UnicodeError, RecursionError, IndexError) as error:
        raise NotAnswered("the server there is not Tidegate, or of another version", status) from error
    calls = [ReceivedCall(call.function.name, call.function.arguments) for call in message.tool_calls or ()]
    return ModelAnswer(message.content or "", tuple(calls))


def _instruction(item: Item) -> str:
    if item.task == "tools":
        return "You have tools. Call the one that fits; where none does, answer in one word."
    if item.json is not None:
        return "Answer with one JSON object and nothing else."
    if item.number is not None:
        return "Answer with the number and nothing else."
    if item.words is not None:
        return "Answer with one word or name and nothing else."
    return "Answer with exactly what is asked for and nothing else."
