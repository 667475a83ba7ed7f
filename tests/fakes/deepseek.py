"""A DeepSeek host that thinks, and enforces its rules (contract B.1) with DeepSeek's own error messages."""

import json
import secrets
from collections.abc import Iterator

from tests.fakes.upstream import Call, answers, streams
from tests.fakes.wire import event

_ROLES = {"system", "user", "assistant", "tool"}
_MISSING = "The `reasoning_content` in the thinking mode must be passed back to the API."


class Refusal(Exception):
    """The host's error message for a request that breaks a rule."""


class ThinkingHost:
    """A script for `ScenarioUpstream`: calls the first tool once, then answers; for `json_object`, with `objects`.

    Attributes:
        thoughts: the thinking of its answers, in order; each is unique, so that a test can distinguish them.
        seen: the messages of every request that followed the rules.
        objects: the answers that it sends, in order, if JSON is requested.
    """

    def __init__(self, *objects: str) -> None:
        self.objects = list(objects)
        self.thoughts: list[str] = []
        self.seen: list[list[dict]] = []

    async def __call__(self, call: Call) -> None:
        body = json.loads(call.body)
        try:
            _check(body)
        except Refusal as refusal:
            error = {"message": str(refusal), "type": "invalid_request_error", "param": None}
            refused = json.dumps({"error": error | {"code": "invalid_request_error"}})
            await answers(refused.encode(), status=400)(call)
            return
        self.seen.append(body["messages"])
        message, reason = self._answer(body)
        if body.get("stream"):
            await streams(*_events(message, reason))(call)
        else:
            choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
            await answers(json.dumps(_envelope("chat.completion", choice) | {"usage": _USAGE}).encode())(call)

    def _answer(self, body: dict) -> tuple[dict, str]:
        message: dict = {"role": "assistant", "content": ""}
        if _is_thinking(body):
            self.thoughts.append(f"Thought {len(self.thoughts)} {secrets.token_hex(4)}.")
            message["reasoning_content"] = self.thoughts[-1]
        forced = body.get("tool_choice", "auto") not in ("auto", "none")
        if body.get("tools") and (body["messages"][-1]["role"] == "user" or forced):
            name = body["tools"][0]["function"]["name"]
            arguments = self.objects.pop(0) if self.objects else '{"city": "Paris"}'
            call_id = f"call_00_{secrets.token_hex(12)}"
            function = {"name": name, "arguments": arguments}
            message["tool_calls"] = [{"index": 0, "id": call_id, "type": "function", "function": function}]
            return message, "tool_calls"
        is_object = body.get("response_format", {}).get("type") == "json_object"
        message["content"] = self.objects.pop(0) if is_object else "It is 18 degrees in Paris."
        return message, "stop"


_USAGE = {
    "prompt_tokens": 10,
    "completion_tokens": 5,
    "total_tokens": 15,
    "prompt_tokens_details": {"cached_tokens": 0},
    "prompt_cache_hit_tokens": 0,
    "prompt_cache_miss_tokens": 10,
}


def _is_thinking(body: dict) -> bool:
    return body.get("thinking", {}).get("type", "enabled") == "enabled"


def _check(body: dict) -> None:
    for number, message in enumerate(body["messages"]):
        if message["role"] not in _ROLES:
            raise Refusal(f"unknown variant `{message['role']}`, expected one of `system`, `user`, `assistant`, `tool`")
        if not isinstance(message.get("content"), str | None):
            raise Refusal(f"messages[{number}]: invalid type: sequence, expected a string")
        is_answer = message["role"] == "assistant"
        if is_answer and _is_thinking(body) and not message.get("reasoning_content"):
            raise Refusal(_MISSING)
    if _is_thinking(body) and body.get("tool_choice", "auto") not in ("auto", "none"):
        raise Refusal("Thinking mode does not support this tool_choice")
    form = body.get("response_format", {}).get("type", "text")
    if form == "json_schema":
        raise Refusal("This response_format type is unavailable now")
    if form == "json_object" and "json" not in json.dumps(body["messages"]).lower():
        raise Refusal(
            "Prompt must contain the word 'json' in some form to use 'response_format' of type 'json_object'."
        )


def _envelope(kind: str, choice: dict) -> dict:
    return {
        "id": "930c60df-bf64-41c9-a88e-3ec75f81e00e",
        "object": kind,
        "created": 1795462312,
        "model": "deepseek-v4-pro",
        "choices": [choice],
        "system_fingerprint": "fp_eaab8d114b_prod0820_fp8_kvcache",
    }


def _events(message: dict, reason: str) -> Iterator[bytes]:
    """Yield the events of a stream; usage is in the last chunk, and `content` is null while it thinks (rows 18, 20)."""
    yield b": keep-alive\n\n"
    deltas: list[dict] = [{"role": "assistant", "content": None, "reasoning_content": ""}]
    deltas += [
        {"content": None, "reasoning_content": word + " "} for word in message.get("reasoning_content", "").split()
    ]
    deltas += [{"content": fragment, "reasoning_content": None} for fragment in _fragments(message["content"])]
    for call in message.get("tool_calls", ()):
        function = call["function"]
        deltas.append({"tool_calls": [call | {"function": function | {"arguments": ""}}]})
        deltas += [
            {"tool_calls": [{"index": 0, "function": {"arguments": fragment}}]}
            for fragment in _fragments(function["arguments"])
        ]
    for delta in deltas:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
        yield event(json.dumps(_envelope("chat.completion.chunk", choice)).encode())
    last = {"index": 0, "delta": {"content": "", "reasoning_content": None}, "logprobs": None, "finish_reason": reason}
    yield event(json.dumps(_envelope("chat.completion.chunk", last) | {"usage": _USAGE}).encode())
    yield b"data: [DONE]\n\n"


def _fragments(text: str) -> list[str]:
    return [text[at : at + 7] for at in range(0, len(text), 7)]
