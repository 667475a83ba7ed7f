"""Going on after a break (`on_stream_failure: continue`): one answer from several targets, and marked as such.

A stream that broke after its first content is taken up by another target, which is told what has been said. Only plain
text can be: one choice, no tools, no form, no log probabilities, and no thought that was cut, as what has left cannot
be taken back. Where nobody can go on, the caller is told of the break itself, and not of what became of the tries.
"""

from collections.abc import Mapping
from typing import Protocol

from tidegate.errors import ProxyError, StreamBroken, forget_way
from tidegate.pipeline.attempt.answers import no_connection
from tidegate.pipeline.attempt.attempt import Answer
from tidegate.pipeline.attempt.stream_continuation import StreamContinuation
from tidegate.pipeline.context import AttemptRecord, RequestContext
from tidegate.protocol.raw import as_list, as_object, as_text
from tidegate.protocol.request import ModelRequest

MAX_CONTINUATIONS = 2
_NO_LIST = frozenset({b"[]", b"null"})
_NO = frozenset({b"false", b"null"})
_ONE = frozenset({b"1", b"null"})
# What an answer must not have been asked for: these fields, unless they say one of these words.
_PLAIN: Mapping[str, frozenset[bytes]] = {
    "n": _ONE,
    "best_of": _ONE,
    "logprobs": _NO,
    "echo": _NO,
    "tools": _NO_LIST,
    "functions": _NO_LIST,
    "modalities": frozenset({b'["text"]', b"null"}),
    **dict.fromkeys(
        (
            "audio",
            "suffix",
            # forms, in the words of all engines
            "structured_outputs",
            "json_schema",
            "grammar",
            "regex",
            "ebnf",
            "guided_json",
            "guided_regex",
            "guided_choice",
            "guided_grammar",
            # callers who go on with an answer themselves
            "continue_final_message",
            "add_generation_prompt",
        ),
        frozenset({b"null"}),
    ),
}


class GoOn(Protocol):
    """Finds another target for the rest of an answer (see `failover`)."""

    async def __call__(self, request: ModelRequest, broken: AttemptRecord, failure: ProxyError) -> Answer | None:
        """Its answer, sent into the joint; None if no target can continue. Failures of targets are not raised.

        Args:
            request: for the rest, with the `prefix` to go on from.
            broken: the record of the part that broke.
            failure: the error that it broke with.
        """


class Continuing:
    """A streamed answer that goes on elsewhere when it breaks; an `attempt.Answer`.

    Args:
        part: the first part, told into `continuation`.
        request: the caller's.
        go_on: where the rest is to be had.
    """

    def __init__(
        self,
        part: Answer,
        continuation: StreamContinuation,
        request: ModelRequest,
        *,
        context: RequestContext,
        go_on: GoOn,
    ) -> None:
        self._part = part
        self._close = part.close
        self._continuation = continuation
        self._request = request
        self._context = context
        self._go_on = go_on
        self.heartbeat = continuation.writer.heartbeat

    @property
    def record(self) -> AttemptRecord:
        """The record of the part that is being read."""
        return self._part.record

    async def read(self) -> list[bytes]:
        while True:
            try:
                payloads = await self._part.read()
            except ProxyError as failure:
                await self._continue(failure)
                continue
            if not payloads and self._continuation.splice.told_usage is not None:
                self._context.joined_usage = self._continuation.splice.told_usage
            return payloads

    def close(self) -> None:
        close, self._close = self._close, no_connection
        close()

    async def _continue(self, failure: ProxyError) -> None:
        """Have another target take it up.

        Raises:
            ProxyError: `failure`, as none can.
        """
        may_mend = failure.may_try_another_target or isinstance(failure, StreamBroken)
        if (
            not may_mend
            or len(self._continuation.targets) > MAX_CONTINUATIONS
            or not self._continuation.splice.can_go_on
        ):
            raise failure
        self.close()  # before the next one begins: a host that fell silent may still be at it
        part = await self._go_on(self._continuation.join(self._request), self.record, failure)
        if part is None:
            raise failure
        forget_way(failure)
        self._part, self._close = part, part.close
        self._context.record = part.record


def may_continue(request: ModelRequest) -> bool:
    """Whether the answer to this request may be gone on with, as far as the request says."""
    fields = request.fields
    if not request.is_stream or request.endpoint == "embeddings":
        return False
    if any(bytes(fields[name]) not in plain for name, plain in _PLAIN.items() if name in fields):
        return False
    form = as_text(as_object(fields.get("response_format")).get("type"))
    if form not in {None, "text"}:
        return False
    if request.endpoint == "completions":
        return as_text(fields.get("prompt")) is not None
    messages = as_list(fields.get("messages"))
    return bool(messages) and as_text(as_object(messages[-1]).get("role")) != "assistant"
