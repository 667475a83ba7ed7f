"""`RoutingRequest`: what of a request matters to where it goes."""

import re
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

import msgspec

from tidegate.protocol.raw import as_list, as_object, as_text
from tidegate.protocol.request import Fields, ModelRequest, json_type
from tidegate.protocol.routing import Priority, Reach, Task

_BYTES_PER_TOKEN = 4  # of English and code; an estimate is all that is wanted
_ANSWER_TOKENS = 256.0
_IMAGE_TOKENS = 512
_MIN_PICTURE_BYTES = 1024  # what is shorter has none worth a look
# only where a picture stands: as a text it would be read
_DATA_URL = re.compile(rb'"url"\s*:\s*"data:[\w.+-]+/[\w.+-]+;base64,[A-Za-z0-9+/=\\]*"')
_LIMITS = ("max_completion_tokens", "max_tokens")
_COPIES = ("n", "best_of")
_MOST_COPIES = 128  # OpenAI's
_PROMPTS = ("messages", "prompt", "input", "tools", "functions")
_TOOLS = ("tools", "functions")
_TASKS: Mapping[str, Task] = {"completions": "completion", "embeddings": "embedding"}


class _SaidBy(msgspec.Struct):
    role: Any = None


_said_by = msgspec.json.Decoder(_SaidBy).decode


class RoutingRequest:
    """One request, as routing sees it.

    Args:
        session: what the caller calls the conversation (`x-tidegate-session`); empty: see `affinity`.
        caller: the principal's name; sessions of one are not those of another.
        drops_params: the caller lets parameters be dropped, so its tools too.

    Attributes:
        task: the kind of work it is, as far as targets may be good at one and bad at another.
        needs_tools: the answer may be a tool call: it has tools, does not forbid their use (`tool_choice: none`), and
            does not let them be dropped.
        prompt_tokens: about how many the prompt has, at least 1; a picture counts as a few hundred, whatever its bytes.
        answer_tokens: about how many the answers will have: a middling number, at most what the caller allows, for each
            of `n`. What answers were lately is not looked at: one caller's long one would be everybody's price.
    """

    def __init__(
        self,
        request: ModelRequest,
        *,
        reach: Reach = "any",
        priority: Priority = "default",
        session: str = "",
        caller: str = "",
        drops_params: bool = False,
    ) -> None:
        self.model = request.model
        self.endpoint = request.endpoint
        self.is_stream = request.is_stream
        self.reach = reach
        self.priority = priority
        self.caller = caller
        self._fields: Fields = request.fields
        self._session = session
        self.task = _find_task(request)
        self.needs_tools = self.task == "tools" and not (drops_params or _forbids_calls(request.fields))
        self.prompt_tokens = _prompt_tokens(request.fields)
        self.answer_tokens = _answer_tokens(request.fields)

    @property
    def tokens(self) -> int:
        """Of prompt and answer together, about."""
        return self.prompt_tokens + self.answer_tokens

    @property
    def tools_field(self) -> str:
        """The request's field that has the tools."""
        return "functions" if _has_functions(self._fields) else "tools"

    @property
    def session(self) -> str:
        """The conversation's name, if the caller gives it one: by header, or as OpenAI's `prompt_cache_key`."""
        return self._session or as_text(self._fields.get("prompt_cache_key")) or ""

    @property
    def affinity(self) -> bytes:
        """What the request sticks by: its session, else the head of its prompt, which all its turns share."""
        session = self.session
        told = b"\0session\0" + session.encode() if session else b"\0head\0" + self._head()
        return blake2b(self.caller.encode() + told, digest_size=16).digest()

    def _head(self) -> bytes:
        """Everything up to the first thing that is not the system's: the same in every turn of a conversation."""
        messages = as_list(self._fields.get("messages"))
        for number, message in enumerate(messages, start=1):
            if json_type(message) != "object" or _said_by(message).role not in {"system", "developer"}:
                return b"".join(map(bytes, messages[:number]))
        raw = self._fields.get("prompt") or self._fields.get("input")
        return b"" if raw is None else bytes(raw)[:1024]


def _find_task(request: ModelRequest) -> Task:
    if request.endpoint in _TASKS:
        return _TASKS[request.endpoint]
    fields = request.fields
    for name in _TOOLS:
        if name in fields and as_list(fields[name]):
            return "tools"
    if (wanted := fields.get("response_format")) is None:
        return "chat"
    return "json" if as_text(as_object(wanted).get("type")) in {"json_object", "json_schema"} else "chat"


def _forbids_calls(fields: Fields) -> bool:
    """Whether the tool choice is `none`; with `functions`, their choice counts, as in `dialects.tools`."""
    choice = fields.get("function_call" if _has_functions(fields) else "tool_choice")
    if choice is None:
        return False
    kind = choice if json_type(choice) == "string" else as_object(choice).get("type")
    return as_text(kind) == "none"


def _has_functions(fields: Fields) -> bool:
    return "functions" in fields and bool(as_list(fields["functions"]))


def _prompt_tokens(fields: Fields) -> int:
    tokens = 0
    for name in _PROMPTS:
        if (raw := fields.get(name)) is not None:
            size = len(memoryview(raw))
            tokens += size // _BYTES_PER_TOKEN if size < _MIN_PICTURE_BYTES else _tokens(bytes(raw))
    return tokens or 1


def _answer_tokens(fields: Fields) -> int:
    tokens, copies = _ANSWER_TOKENS, 0.0
    for name in _LIMITS:
        if name in fields:
            tokens = min(tokens, _asked(fields[name], tokens))
    for name in _COPIES:
        if name in fields:
            copies = max(copies, _asked(fields[name], copies))
    if copies > 1:
        tokens *= min(copies, _MOST_COPIES)
    return int(max(1.0, tokens))


def _asked(raw: msgspec.Raw, otherwise: float) -> float:
    return otherwise if json_type(raw) != "number" else float(bytes(raw))  # 1e999 is a number too


def _tokens(told: bytes) -> int:
    if b"data:" not in told:
        return len(told) // _BYTES_PER_TOKEN
    told, pictures = _DATA_URL.subn(b"", told)
    return len(told) // _BYTES_PER_TOKEN + pictures * _IMAGE_TOKENS
