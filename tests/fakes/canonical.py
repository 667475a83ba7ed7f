"""Reads an answer of Tidegate as strictly as OpenAI's contract (A.2, A.3, A.8), and returns what a caller gets from it.

The result is comparable with `Outcome.plain()` in `tests/fakes/scenarios.py`. A key that OpenAI does not have, a
missing key, or one of a wrong type raises `AssertionError`.
"""

import json
from collections.abc import Sequence
from typing import Any

_ERROR_TYPES = {"invalid_request_error", "rate_limit_error", "upstream_error", "server_error"}
_FINISHES = {"stop", "length", "tool_calls", "content_filter", "function_call"}
# Fields beside the choices that are passed on if requested, or from OpenAI and Azure.
_TOP_LEVEL = {"service_tier", "system_fingerprint", "moderation"}
# Fields beyond OpenAI's that are passed on.
_BEYOND_OPENAI = ("reasoning_details", "extra_content", "images")
_KINDS = {"chat": ("chatcmpl-", "chat.completion"), "completions": ("cmpl-", "text_completion")}


def read_error(body: bytes) -> dict[str, Any]:
    """Check `{"error": …}` and return the error."""
    answer = _loads(body)
    assert list(answer) == ["error"]
    return _error(answer["error"])


def read_answer(body: bytes, endpoint: str, model: str, reasoning_names: Sequence[str]) -> dict[str, Any]:
    """Check a unary answer and return its outcome."""
    answer = _loads(body)
    if endpoint == "embeddings":
        return _embeddings(answer, model)
    prefix, kind = _KINDS[endpoint]
    assert answer.keys() - {"usage"} - _TOP_LEVEL == {"id", "object", "created", "model", "choices"}
    assert answer["id"].startswith(prefix)
    assert answer["object"] == kind
    assert type(answer["created"]) is int
    assert answer["model"] == model
    assert [choice["index"] for choice in answer["choices"]] == list(range(len(answer["choices"])))
    read = _whole_choice if endpoint == "chat" else _whole_text
    outcome = {"choices": [read(choice, reasoning_names) for choice in answer["choices"]]}
    assert all(answer[name] for name in _TOP_LEVEL & answer.keys())
    outcome |= {name: answer[name] for name in _TOP_LEVEL & answer.keys()}
    return outcome | ({"usage": _usage(answer["usage"])} if "usage" in answer else {})


def read_stream(
    body: bytes, endpoint: str, model: str, reasoning_names: Sequence[str], *, wants_usage: bool
) -> dict[str, Any]:
    """Check a streamed answer and return its outcome."""
    reader = _StreamReader(endpoint, model, reasoning_names, wants_usage=wants_usage)
    for chunk in _chunks(body):
        reader.read(chunk)
    return reader.outcome()


def _chunks(body: bytes) -> list[dict[str, Any]]:
    """Return the chunks; only comments, `data: {…}` on one line, and `data: [DONE]` at the end are allowed."""
    *blocks, rest = body.decode().split("\n\n")
    assert rest == "", "the last event does not end"
    assert blocks, "no events"
    assert blocks[-1] == "data: [DONE]"
    assert not any("\n" in block or "\r" in block for block in blocks), "an event of more than one line"
    events = [block for block in blocks[:-1] if not block.startswith(":")]
    assert all(block.startswith("data: {") for block in events)
    return [_loads(block.removeprefix("data: ")) for block in events]


class _StreamReader:
    """Reads and checks one stream, chunk by chunk."""

    def __init__(self, endpoint: str, model: str, reasoning_names: Sequence[str], *, wants_usage: bool) -> None:
        self._prefix, kind = _KINDS[endpoint]
        self._kind = f"{kind}.chunk" if endpoint == "chat" else kind
        self._read_choice = self._read_chat_choice if endpoint == "chat" else self._read_text_choice
        self._model = model
        self._names = reasoning_names
        self._wants_usage = wants_usage
        self._head: tuple | None = None
        self._choices: list[_Accumulated] = []
        self._top_level: dict[str, Any] = {}
        self._usage: dict[str, Any] | None = None
        self._error: dict[str, Any] | None = None

    def outcome(self) -> dict[str, Any]:
        """Return what a caller has at the end."""
        assert self._error is not None or all(choice.finish for choice in self._choices), "a choice without a finish"
        outcome: dict[str, Any] = {"choices": [choice.plain() for choice in self._choices]} | self._top_level
        if self._usage is not None:
            outcome["usage"] = self._usage
        if self._error is not None:
            outcome["error"] = self._error
        return outcome

    def read(self, chunk: dict[str, Any]) -> None:
        assert self._usage is None, "something after the usage"
        assert self._error is None, "something after the error"
        if "error" in chunk:
            assert list(chunk) == ["error"]
            self._error = _error(chunk["error"])
            return
        self._check_envelope(chunk)
        self._top_level |= {name: chunk[name] for name in _TOP_LEVEL & chunk.keys()}
        if "moderation" in chunk:
            assert chunk["choices"] == [], "the moderation has a chunk of its own"
            return
        if not chunk["choices"]:
            assert self._wants_usage, "usage that was not asked for"
            self._usage = _usage(chunk["usage"])
            return
        assert chunk.get("usage") is None, "usage before the last chunk"
        for choice in chunk["choices"]:
            self._read_choice(choice)

    def _check_envelope(self, chunk: dict[str, Any]) -> None:
        assert chunk.keys() - _TOP_LEVEL == {"id", "object", "created", "model", "choices"} | (
            {"usage"} if self._wants_usage else set()
        )
        head = chunk["id"], chunk["object"], chunk["created"], chunk["model"]
        if self._head is None:
            assert chunk["id"].startswith(self._prefix)
            assert type(chunk["created"]) is int
            assert head[1] == self._kind
            assert head[3] == self._model
            self._head = head
        assert head == self._head, "id, object, created and model are the same on all chunks"

    def _choice(self, index: int) -> "_Accumulated":
        if index == len(self._choices):
            self._choices.append(_Accumulated())
        choice = self._choices[index]
        assert choice.finish is None, "something after the finish"
        return choice

    def _read_chat_choice(self, given: dict[str, Any]) -> None:
        assert given.keys() == {"index", "delta", "logprobs", "finish_reason"}
        is_first = given["index"] == len(self._choices)
        choice = self._choice(given["index"])
        self._read_delta(given["delta"], choice, is_first=is_first)
        choice.add_logprobs(_logprobs(given["logprobs"]))
        choice.end(given["finish_reason"])

    def _read_delta(self, delta: dict[str, Any], choice: "_Accumulated", *, is_first: bool) -> None:
        if is_first:
            assert delta == {"role": "assistant", "content": "", "refusal": None}, "the first delta has the role alone"
            return
        assert delta.keys() <= {
            "content",
            "refusal",
            "tool_calls",
            "function_call",
            "audio",
            "annotations",
            *_BEYOND_OPENAI,
            *self._names,
        }
        assert all(value is not None for value in delta.values()), "a null in a delta"
        for name in ("content", "refusal"):
            if name in delta:
                choice.add_text(name, delta[name])
        if reasoning := _reasoning(delta, self._names):
            choice.add_text("reasoning", reasoning)
        for call in delta.get("tool_calls", ()):
            choice.add_call(call)
        for name in ("function_call", "audio", "annotations", *_BEYOND_OPENAI):
            if name in delta:
                choice.add_extra(name, delta[name])

    def _read_text_choice(self, given: dict[str, Any]) -> None:
        assert given.keys() == {"index", "text", "logprobs", "finish_reason"}
        while given["index"] >= len(self._choices):  # no delta opens a choice here, so any choice may come first
            self._choices.append(_Accumulated())
        choice = self._choice(given["index"])
        choice.add_text("content", given["text"])
        choice.add_logprobs(given["logprobs"])
        choice.end(given["finish_reason"])


class _Accumulated:
    """One choice of a stream, joined as a client joins it."""

    def __init__(self) -> None:
        self.finish: str | None = None
        self._texts: dict[str, str] = {}
        self._calls: list[dict[str, Any]] = []
        self._extras: dict[str, Any] = {}
        self._logprobs: Any = None

    def plain(self) -> dict[str, Any]:
        plain = {name: text for name, text in self._texts.items() if text} | self._extras
        if self._calls:
            _check_ids(self._calls)
            plain["tool_calls"] = [_plain_call(call) for call in self._calls]
        if self._logprobs is not None:
            plain["logprobs"] = self._logprobs
        if self.finish is not None:
            plain["finish"] = self.finish
        return plain

    def add_text(self, name: str, text: str) -> None:
        assert type(text) is str
        self._texts[name] = self._texts.get(name, "") + text

    def add_extra(self, name: str, value: object) -> None:
        self._extras[name] = _joined(self._extras.get(name), value)

    def add_logprobs(self, value: list | dict | None) -> None:
        if value is not None:
            self._logprobs = _joined(self._logprobs, value)

    def add_call(self, call: dict[str, Any]) -> None:
        """Add a delta of a call. Indexes are dense; id, type and name come once."""
        index = call["index"]
        kind = "custom" if "custom" in call else "function"
        if index == len(self._calls):
            assert call.keys() - {"extra_content"} == {"index", "id", "type", kind}
            assert call["type"] == kind
            whole = {"name", "input" if kind == "custom" else "arguments"}
            assert call[kind].keys() == whole, "the first delta of a call has its name and the beginning of its input"
            self._calls.append({name: value for name, value in call.items() if name != "index"})
            return
        assert call.keys() - {"extra_content"} == {"index", kind}
        assert call[kind].keys() == {"input" if kind == "custom" else "arguments"}
        for name in (kind, "extra_content"):
            if name in call:
                self._calls[index][name] = _joined(self._calls[index].get(name), call[name])

    def end(self, reason: str | None) -> None:
        if reason is not None:
            assert reason in _FINISHES
            self.finish = reason


def _whole_choice(choice: dict[str, Any], reasoning_names: Sequence[str]) -> dict[str, Any]:
    assert choice.keys() == {"index", "message", "logprobs", "finish_reason"}
    message = choice["message"]
    extras = {"tool_calls", "function_call", "audio", *_BEYOND_OPENAI}
    assert message.keys() - extras - set(reasoning_names) == {"role", "content", "refusal", "annotations"}
    assert message["role"] == "assistant"
    assert choice["finish_reason"] in _FINISHES
    plain = {name: message[name] for name in ("content", "refusal") if message[name] is not None}
    assert all(type(text) is str for text in plain.values())
    if reasoning := _reasoning(message, reasoning_names):
        plain["reasoning"] = reasoning
    if "tool_calls" in message:
        plain["tool_calls"] = _whole_calls(message["tool_calls"])
    plain |= {name: message[name] for name in ("function_call", "audio", *_BEYOND_OPENAI) if name in message}
    if message["annotations"]:
        plain["annotations"] = message["annotations"]
    if (logprobs := _logprobs(choice["logprobs"])) is not None:
        plain["logprobs"] = logprobs
    return plain | {"finish": choice["finish_reason"]}


def _whole_text(choice: dict[str, Any], _reasoning_names: Sequence[str]) -> dict[str, Any]:
    assert choice.keys() == {"index", "text", "logprobs", "finish_reason"}
    assert choice["finish_reason"] in _FINISHES
    plain = {"content": choice["text"], "finish": choice["finish_reason"]}
    return plain if choice["logprobs"] is None else plain | {"logprobs": choice["logprobs"]}


def _whole_calls(calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
    assert calls, "an empty list of calls"
    for call in calls:
        kind = "custom" if "custom" in call else "function"
        assert call.keys() - {"extra_content"} == {"id", "type", kind}
        assert call["type"] == kind
        assert call[kind].keys() == {"name", "input" if kind == "custom" else "arguments"}
    _check_ids(calls)
    return [_plain_call(call) for call in calls]


def _check_ids(calls: list[dict[str, Any]]) -> None:
    ids = [call["id"] for call in calls]
    assert all(type(id_) is str and id_ for id_ in ids)
    assert len(set(ids)) == len(ids), "two calls with one id"


def _plain_call(call: dict[str, Any]) -> dict[str, Any]:
    extra = {"extra_content": call["extra_content"]} if "extra_content" in call else {}
    if "custom" in call:
        return {"custom": call["custom"], "id": call["id"]} | extra
    function = call["function"]
    assert all(type(text) is str for text in function.values())
    return {"name": function["name"], "arguments": function["arguments"], "id": call["id"]} | extra


def _reasoning(holder: dict[str, Any], names: Sequence[str]) -> str | None:
    """Return the text under `names`, which must be the same under all of them or missing under all."""
    texts = [holder[name] for name in names if name in holder]
    if not texts:
        return None
    assert texts == [texts[0]] * len(names)
    assert type(texts[0]) is str
    assert texts[0], "an empty reasoning"
    return texts[0]


def _logprobs(value: dict[str, Any] | None) -> list | None:
    if value is None:
        return None
    assert value.keys() == {"content", "refusal"}
    for entry in (*(value["content"] or ()), *(value["refusal"] or ())):
        assert entry.keys() == {"token", "logprob", "bytes", "top_logprobs"}
        assert all(top.keys() == {"token", "logprob", "bytes"} for top in entry["top_logprobs"])
    return value["content"]


def _usage(usage: dict[str, Any]) -> dict[str, Any]:
    assert usage.keys() >= {"prompt_tokens", "completion_tokens", "total_tokens"}
    return usage


def _embeddings(answer: dict[str, Any], model: str) -> dict[str, Any]:
    assert answer.keys() == {"object", "data", "model", "usage"}
    assert answer["object"] == "list"
    assert answer["model"] == model
    for index, item in enumerate(answer["data"]):
        assert item.keys() == {"object", "index", "embedding"}
        assert (item["object"], item["index"]) == ("embedding", index)
    return {"embeddings": [item["embedding"] for item in answer["data"]], "usage": answer["usage"]}


def _error(error: dict[str, Any]) -> dict[str, Any]:
    assert error.keys() == {"message", "type", "param", "code"}
    assert type(error["message"]) is str
    assert error["message"]
    assert error["type"] in _ERROR_TYPES
    assert type(error["param"]) in {str, type(None)}
    assert type(error["code"]) in {str, type(None)}
    return error


def _joined(old: Any, new: Any) -> Any:
    """Return two deltas joined as clients join them: texts and lists one after the other, objects key by key."""
    if isinstance(old, dict) and isinstance(new, dict):
        return old | {name: _joined(old.get(name), value) for name, value in new.items()}
    if isinstance(old, str | list) and type(old) is type(new):
        return old + new
    return new


def _loads(text: str | bytes) -> Any:
    return json.loads(text, parse_constant=refuse)


def refuse(constant: str) -> None:
    """Refuse NaN and the infinities, as `parse_constant` of `json.loads`."""
    raise AssertionError(f"{constant} is not JSON")
