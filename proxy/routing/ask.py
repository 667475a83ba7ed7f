"""`Ask`: what of a request matters to where it goes. Read lazily: most of it is nobody's question most of the time."""

import re
from collections.abc import Mapping
from functools import cached_property
from hashlib import blake2b

import msgspec

from proxy.protocol.raw import as_list, as_object, as_text
from proxy.protocol.request import Fields, ModelRequest, json_type
from proxy.protocol.routing import Priority, Reach, Task

_BYTES_PER_TOKEN = 4  # of English and code; an estimate is all that is wanted
_ANSWER_TOKENS = 256  # where nothing is known yet
_IMAGE_TOKENS = 512
_DATA_URL = re.compile(rb'"data:[^"]*"')
_PROMPTS = ("messages", "prompt", "input", "tools", "functions")
_TASKS: Mapping[str, Task] = {"completions": "completion", "embeddings": "embedding"}
_number = msgspec.json.Decoder(int | float).decode


class Ask:
    """One request, as routing sees it.

    Args:
        session: what the caller calls the conversation (`x-tidegate-session`); empty: see `affinity`.
        caller: the principal's name; sessions of one are not those of another.
        usual_tokens: of this model's answers lately; 0 where none has been seen.
    """

    def __init__(
        self,
        request: ModelRequest,
        *,
        reach: Reach = "any",
        priority: Priority = "default",
        session: str = "",
        caller: str = "",
        usual_tokens: float = 0.0,
    ) -> None:
        self.model = request.model
        self.endpoint = request.endpoint
        self.reach = reach
        self.priority = priority
        self.caller = caller
        self._fields: Fields = request.fields
        self._session = session
        self._usual_tokens = usual_tokens

    @cached_property
    def prompt_tokens(self) -> int:
        """About how many the prompt has, at least 1; a picture counts as a few hundred, whatever its bytes."""
        size, pictures = 0, 0
        for name in _PROMPTS:
            if (raw := self._fields.get(name)) is None:
                continue
            told = bytes(raw)
            if b"data:" in told:
                told, found = _DATA_URL.subn(b"", told)
                pictures += found
            size += len(told)
        return max(1, size // _BYTES_PER_TOKEN + pictures * _IMAGE_TOKENS)

    @cached_property
    def answer_tokens(self) -> int:
        """About how many the answer will have: the model's usual number, at most what the caller allows."""
        usual = self._usual_tokens or _ANSWER_TOKENS
        for name in ("max_completion_tokens", "max_tokens"):
            raw = self._fields.get(name)
            if raw is not None and json_type(raw) == "number":
                return max(1, int(min(usual, _number(raw))))
        return int(usual)

    @property
    def tokens(self) -> int:
        """Of prompt and answer together, about."""
        return self.prompt_tokens + self.answer_tokens

    @cached_property
    def task(self) -> Task:
        """The kind of work it is, as far as targets may be good at one and bad at another."""
        if self.endpoint in _TASKS:
            return _TASKS[self.endpoint]
        if as_list(self._fields.get("tools")) or as_list(self._fields.get("functions")):
            return "tools"
        wanted = as_text(as_object(self._fields.get("response_format")).get("type"))
        return "json" if wanted in {"json_object", "json_schema"} else "chat"

    @cached_property
    def session(self) -> str:
        """The conversation's name, if the caller gives it one: by header, or as OpenAI's `prompt_cache_key`."""
        return self._session or as_text(self._fields.get("prompt_cache_key")) or ""

    @cached_property
    def affinity(self) -> bytes:
        """What the request sticks by: its session, else the head of its prompt, which all its turns share."""
        digest = blake2b(self.caller.encode(), digest_size=16)
        if self.session:
            digest.update(b"\0session\0" + self.session.encode())
        else:
            digest.update(b"\0head\0" + self._head())
        return digest.digest()

    def _head(self) -> bytes:
        """Everything up to the first thing that is not the system's: the same in every turn of a conversation."""
        messages = as_list(self._fields.get("messages"))
        for number, message in enumerate(messages, start=1):
            if as_text(as_object(message).get("role")) not in {"system", "developer"}:
                return b"".join(map(bytes, messages[:number]))
        raw = self._fields.get("prompt") or self._fields.get("input")
        return b"" if raw is None else bytes(raw)[:1024]
