"""Functions that make the bytes that hosts send."""

import json


def chunk(delta: dict | None = None, *, finish: str | None = None, **fields) -> bytes:
    """Return the JSON of one chunk."""
    choice = {"index": 0, "delta": delta or {}, "finish_reason": finish}
    base = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    return json.dumps(base | fields).encode()


def event(payload: bytes) -> bytes:
    return b"data: %b\n\n" % payload


def text_stream(*texts: str, finish: str = "stop", usage: dict | None = None) -> list[bytes]:
    """Return the events of a whole, correct stream."""
    events = [event(chunk({"role": "assistant", "content": ""}))]
    events += [event(chunk({"content": text})) for text in texts]
    events.append(event(chunk(finish=finish)))
    if usage is not None:
        events.append(event(chunk(choices=[], usage=usage)))
    return [*events, b"data: [DONE]\n\n"]


def completion(content: str | None = "Hi", **message) -> bytes:
    """Return the JSON of a unary answer."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": content} | message,
        "finish_reason": "tool_calls" if "tool_calls" in message else "stop",
    }
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    body = {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}
    return json.dumps(body).encode()
