"""A scripted host that can do what conformance suites require: call tools, follow a JSON schema, obey stop sequences.

It reads only numbers, quoted words and tool names from the prompt, and fills schemas with them. Its answers have
OpenAI's form, unary and streamed, with usage.
"""

import asyncio
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Thread
from typing import Any

from tests.fakes.upstream import Call, ScenarioUpstream, answers, streams
from tests.fakes.wire import event

_TEXT = "Hello there, how are you today? I am well, and I can help you with a great many things."
_CHUNK = 7  # characters in each chunk of a stream
_NUMBER = re.compile(r"-?\d+")
_QUOTED = re.compile(r"'([^']+)'")


@contextmanager
def serving() -> Iterator[ScenarioUpstream]:
    """Serve the host on a free port, in a separate thread, as synchronous suites block theirs."""
    host = ScenarioUpstream()
    host.play(answer)
    loop, running = asyncio.new_event_loop(), host.running()
    thread = Thread(target=loop.run_forever)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(running.__aenter__(), loop).result()
        yield host
        asyncio.run_coroutine_threadsafe(running.__aexit__(None, None, None), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def answer(call: Call) -> None:
    """Answer a request: a script for `ScenarioUpstream`."""
    body = json.loads(call.body)
    reply = _reply(body)
    usage = _usage(body, reply)
    head = {"id": "chatcmpl-capable", "created": 1, "model": body["model"]}
    if not body.get("stream"):
        choice = {"index": 0, "message": reply.message(), "logprobs": None, "finish_reason": reply.finish}
        whole = head | {"object": "chat.completion", "choices": [choice], "usage": usage}
        await answers(json.dumps(whole).encode())(call)
        return
    head["object"] = "chat.completion.chunk"
    chunks = [{"choices": [{"index": 0, "logprobs": None} | choice]} for choice in reply.choices()]
    if (body.get("stream_options") or {}).get("include_usage"):
        chunks.append({"choices": [], "usage": usage})
    events = [event(json.dumps(head | each).encode()) for each in chunks]
    await streams(*events, b"data: [DONE]\n\n")(call)


@dataclass
class _Reply:
    """The answer of the model: a text, or tool calls as (name, arguments)."""

    text: str = ""
    calls: list[tuple[str, str]] = field(default_factory=list)
    finish: str = "stop"

    def message(self) -> dict[str, Any]:
        message = {"role": "assistant", "content": self.text or None, "refusal": None}
        calls = [
            {"id": f"call_{number}", "type": "function", "function": {"name": name, "arguments": arguments}}
            for number, (name, arguments) in enumerate(self.calls)
        ]
        return message | ({"tool_calls": calls} if calls else {})

    def choices(self) -> Iterator[dict[str, Any]]:
        """Yield the delta and the finish reason of each chunk of a stream."""
        for delta in self._deltas():
            yield {"delta": delta, "finish_reason": None}
        yield {"delta": {}, "finish_reason": self.finish}

    def _deltas(self) -> Iterator[dict[str, Any]]:
        yield {"role": "assistant", "content": "", "refusal": None}
        for fragment in _fragments(self.text):
            yield {"content": fragment}
        for number, (name, arguments) in enumerate(self.calls):
            call = {"id": f"call_{number}", "type": "function", "function": {"name": name, "arguments": ""}}
            yield {"tool_calls": [{"index": number} | call]}
            for fragment in _fragments(arguments):
                yield {"tool_calls": [{"index": number, "function": {"arguments": fragment}}]}


def _fragments(text: str) -> list[str]:
    return [text[at : at + _CHUNK] for at in range(0, len(text), _CHUNK)]


def _usage(body: dict[str, Any], reply: _Reply) -> dict[str, int]:
    prompt = len(json.dumps(body["messages"]).split())
    completion = 1 + len(reply.text.split()) + sum(1 + len(arguments.split()) for _, arguments in reply.calls)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


# --- the model ----------------------------------------------------------------------------------------------------


def _reply(body: dict[str, Any]) -> _Reply:
    prompt = _prompt(body["messages"])
    if tool := _tool(body, prompt):
        arguments = _Filler(prompt).fill(tool.get("parameters") or {})
        return _Reply(calls=[(tool["name"], json.dumps(arguments, ensure_ascii=False))], finish="tool_calls")
    response_format = body.get("response_format") or {}
    if response_format.get("type") == "json_schema":
        return _Reply(json.dumps(_Filler(prompt).fill(response_format["json_schema"]["schema"])))
    if response_format.get("type") == "json_object":
        return _Reply(json.dumps({name: f"some {name}" for name in _QUOTED.findall(prompt)}))
    return _limited(body)


def _limited(body: dict[str, Any]) -> _Reply:
    """Return a text up to the first stop sequence and the token limit, where a word is a token."""
    text = _TEXT
    stops = body.get("stop") or []
    for stop in [stops] if isinstance(stops, str) else stops:
        text = text.partition(stop)[0]
    limit = body.get("max_completion_tokens") or body.get("max_tokens")
    if limit and len(text.split(" ")) > limit:
        return _Reply(" ".join(text.split(" ")[:limit]), finish="length")
    return _Reply(text)


def _prompt(messages: list[dict[str, Any]]) -> str:
    """Return the text of the last user message."""
    content = next((each["content"] for each in reversed(messages) if each["role"] == "user"), "") or ""
    return content if isinstance(content, str) else " ".join(part.get("text", "") for part in content)


def _tool(body: dict[str, Any], prompt: str) -> dict[str, Any] | None:
    """Return the tool to call: the forced one, or an optional one whose name or a word of it is in the prompt."""
    tools = [tool["function"] for tool in body.get("tools") or []]
    choice = body.get("tool_choice") or "auto"
    if isinstance(choice, dict):
        return next(tool for tool in tools if tool["name"] == choice["function"]["name"])
    if not tools or choice == "none" or body["messages"][-1]["role"] == "tool":
        return None
    related = [
        tool for tool in tools if set(re.findall(r"[a-z]{4,}", tool["name"])) & set(re.split(r"\W+", prompt.lower()))
    ]
    named = [tool for tool in tools if tool["name"] in prompt]
    return next(iter(named + related + (tools if choice == "required" else [])), None)


class _Filler:
    """Fills schemas with the numbers and quoted words of the prompt in order, then with any valid value."""

    def __init__(self, prompt: str) -> None:
        self._numbers = iter(_NUMBER.findall(prompt))
        self._words = iter(_QUOTED.findall(prompt))

    def fill(self, schema: dict[str, Any], name: str = "text", root: dict[str, Any] | None = None) -> Any:
        root = root or schema
        if "$ref" in schema:
            return self.fill(root["$defs"][schema["$ref"].rpartition("/")[2]], name, root)
        if "anyOf" in schema:
            return self.fill(next(each for each in schema["anyOf"] if each.get("type") != "null"), name, root)
        if schema.get("type", "object") == "object":
            fields = schema.get("properties") or {}
            return {key: self.fill(value, key, root) for key, value in fields.items()}
        if schema["type"] == "array":
            return [self.fill(schema["items"], name, root)]
        return self._value(schema, name)

    def _value(self, schema: dict[str, Any], name: str) -> Any:
        if "enum" in schema:
            return schema["enum"][0]
        if schema["type"] in {"integer", "number"}:
            return {"integer": int, "number": float}[schema["type"]](next(self._numbers, 1))
        return schema["type"] == "boolean" or next(self._words, f"some {name}")
