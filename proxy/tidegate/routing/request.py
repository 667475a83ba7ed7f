"""`RoutingRequest`: the facts about a request that routing uses."""

import re
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

import msgspec

from tidegate.protocol.raw import as_list, as_object, as_text
from tidegate.protocol.request import Fields, ModelRequest, json_type
from tidegate.protocol.routing import Priority, Reach, Task

_BYTES_PER_TOKEN = 4  # of English and code; an estimate is enough
_ANSWER_TOKENS = 256.0  # the assumed length of an answer
_IMAGE_TOKENS = 512
_MIN_IMAGE_BYTES = 1024  # a shorter field is not searched for images
# only as an image's URL: the same text in a prompt counts by its length
_DATA_URL = re.compile(rb'"url"\s*:\s*"data:[\w.+-]+/[\w.+-]+;base64,[A-Za-z0-9+/=\\]*"')
_LIMITS = ("max_completion_tokens", "max_tokens")
_COPIES = ("n", "best_of")  # fields that hold a number of answers
_MAX_COPIES = 128  # OpenAI's limit
_PROMPTS = ("messages", "prompt", "input", "tools", "functions")
_TOOLS = ("tools", "functions")
_TASKS: Mapping[str, Task] = {"completions": "completion", "embeddings": "embedding"}


class _Role(msgspec.Struct):
    role: Any = None


_read_role = msgspec.json.Decoder(_Role).decode


class RoutingRequest:
    """One request, as routing sees it.

    Args:
        session: the caller's name for the conversation (`x-tidegate-session`); if empty, see `affinity`.
        caller: the principal's name; equal sessions of two callers are different sessions.
        drops_params: parameters that a host does not support may be left out of the request, its tools too.

    Attributes:
        task: the kind of work, as targets may be good at one kind and bad at another.
        needs_tools: the answer may be a tool call: the request has tools, does not forbid their use
            (`tool_choice: none`), and does not let them be dropped.
        prompt_tokens: about how many tokens the prompt has, at least 1; an image counts a few hundred, whatever its
            size in bytes.
        answer_tokens: about how many tokens the answers will have: a fixed guess (`_ANSWER_TOKENS`), at most the
            caller's limit, for each of `n` answers. It is not learnt from recent answers: one caller's long answer
            would raise the estimated price of all requests.
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
        """About how many tokens prompt and answers have together."""
        return self.prompt_tokens + self.answer_tokens

    @property
    def tools_field(self) -> str:
        """The name of the request's field that holds the tools."""
        return "functions" if _has_functions(self._fields) else "tools"

    @property
    def session(self) -> str:
        """The caller's name for the conversation: by header, or OpenAI's `prompt_cache_key`; empty if there is none."""
        return self._session or as_text(self._fields.get("prompt_cache_key")) or ""

    @property
    def affinity(self) -> bytes:
        """The key by which the request stays at a target.

        It is a hash of the session, else of the head of the prompt, which all turns of a conversation share.
        """
        session = self.session
        source = b"\0session\0" + session.encode() if session else b"\0head\0" + self._prompt_head()
        return blake2b(self.caller.encode() + source, digest_size=16).digest()

    def _prompt_head(self) -> bytes:
        """The head of the prompt, which is the same in each turn of a conversation.

        Of messages, it ends with the first one that is not the system's or developer's; of other prompts, after 1024
        bytes.
        """
        messages = as_list(self._fields.get("messages"))
        for number, message in enumerate(messages, start=1):
            if json_type(message) != "object" or _read_role(message).role not in {"system", "developer"}:
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
    if (response_format := fields.get("response_format")) is None:
        return "chat"
    return "json" if as_text(as_object(response_format).get("type")) in {"json_object", "json_schema"} else "chat"


def _forbids_calls(fields: Fields) -> bool:
    """Whether the tool choice is `none`; with `functions` it is read from `function_call`, as in `dialects.tools`."""
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
            tokens += size // _BYTES_PER_TOKEN if size < _MIN_IMAGE_BYTES else _tokens(bytes(raw))
    return tokens or 1


def _answer_tokens(fields: Fields) -> int:
    tokens, copies = _ANSWER_TOKENS, 0.0
    for name in _LIMITS:
        if name in fields:
            tokens = min(tokens, _number_or(fields[name], tokens))
    for name in _COPIES:
        if name in fields:
            copies = max(copies, _number_or(fields[name], copies))
    if copies > 1:
        tokens *= min(copies, _MAX_COPIES)
    return int(max(1.0, tokens))


def _number_or(raw: msgspec.Raw, otherwise: float) -> float:
    return otherwise if json_type(raw) != "number" else float(bytes(raw))  # 1e999 is a number too


def _tokens(raw: bytes) -> int:
    if b"data:" not in raw:
        return len(raw) // _BYTES_PER_TOKEN
    raw, images = _DATA_URL.subn(b"", raw)
    return len(raw) // _BYTES_PER_TOKEN + images * _IMAGE_TOKENS
