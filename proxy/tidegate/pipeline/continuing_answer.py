"""Continuation after a break (`on_stream_failure: continue`): one answer from several targets.

Its last chunk says so in the field `x_tidegate`.

A stream that broke after its first content is continued by another target, which receives the text so far as a prefix.
That is possible for plain text only, as content that was sent to the caller cannot be taken back: one choice, no tools,
no structured output, no log probabilities, and no break within the reasoning. If no target can continue, the caller
receives the error of the break itself, not the errors of the attempts to continue.
"""

from collections.abc import Mapping
from typing import Protocol

from tidegate.errors import ProxyError, StreamBroken, drop_references
from tidegate.pipeline.attempt.answers import nothing_to_close
from tidegate.pipeline.attempt.attempt import Answer
from tidegate.pipeline.attempt.stream_continuation import StreamContinuation
from tidegate.pipeline.context import AttemptRecord, RequestContext
from tidegate.protocol.raw import as_list, as_object, as_text
from tidegate.protocol.request import ModelRequest

MAX_CONTINUATIONS = 2
_EMPTY_LIST = frozenset({b"[]", b"null"})
_FALSE = frozenset({b"false", b"null"})
_ONE = frozenset({b"1", b"null"})
# The answer is plain text only if each of these fields is missing from the request or has one of these values.
_PLAIN_TEXT: Mapping[str, frozenset[bytes]] = {
    "n": _ONE,
    "best_of": _ONE,
    "logprobs": _FALSE,
    "echo": _FALSE,
    "tools": _EMPTY_LIST,
    "functions": _EMPTY_LIST,
    "modalities": frozenset({b'["text"]', b"null"}),
    **dict.fromkeys(
        (
            "audio",
            "suffix",
            # structured output, under the names that engines give it
            "structured_outputs",
            "json_schema",
            "grammar",
            "regex",
            "ebnf",
            "guided_json",
            "guided_regex",
            "guided_choice",
            "guided_grammar",
            # set by callers that continue an answer themselves
            "continue_final_message",
            "add_generation_prompt",
        ),
        frozenset({b"null"}),
    ),
}


class ContinueElsewhere(Protocol):
    """Finds another target for the rest of a broken answer (see `failover`)."""

    async def __call__(self, request: ModelRequest, broken: AttemptRecord, failure: ProxyError) -> Answer | None:
        """The rest of the answer, which is written into the same `StreamContinuation`; None if no target can continue.

        A target that fails is not an error: the next one is tried.

        Args:
            request: the request for the rest; its `prefix` is the text so far.
            broken: the record of the part that broke.
            failure: the error that ended that part.
        """


class ContinuingAnswer:
    """A streamed `attempt.Answer` that another target continues when it breaks. Owner of the part that is being read.

    Args:
        part: the first part; it writes into `continuation`.
        continuation: what all parts share: the writer, and the splice that joins them.
        request: the caller's request.
        continue_elsewhere: finds another target for the rest.
    """

    def __init__(
        self,
        part: Answer,
        continuation: StreamContinuation,
        request: ModelRequest,
        *,
        context: RequestContext,
        continue_elsewhere: ContinueElsewhere,
    ) -> None:
        self._part = part
        self._close = part.close
        self._continuation = continuation
        self._request = request
        self._context = context
        self._continue_elsewhere = continue_elsewhere
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
            if not payloads and self._continuation.splice.final_usage is not None:
                self._context.total_usage = self._continuation.splice.final_usage
            return payloads

    def close(self) -> None:
        close, self._close = self._close, nothing_to_close
        close()

    async def _continue(self, failure: ProxyError) -> None:
        """Let another target continue the answer.

        Raises:
            ProxyError: `failure`, if no target can.
        """
        is_recoverable = failure.may_try_another_target or isinstance(failure, StreamBroken)
        if (
            not is_recoverable
            or len(self._continuation.targets) > MAX_CONTINUATIONS  # the first target is no continuation
            or not self._continuation.splice.can_continue
        ):
            raise failure
        self.close()  # before the next part begins: a host that stopped sending may still be generating
        part = await self._continue_elsewhere(self._continuation.begin_rest(self._request), self.record, failure)
        if part is None:
            raise failure
        drop_references(failure)
        self._part, self._close = part, part.close
        self._context.record = part.record


def may_continue(request: ModelRequest) -> bool:
    """Whether the fields of this request allow that another target continues its answer."""
    fields = request.fields
    if not request.is_stream or request.endpoint == "embeddings":
        return False
    if any(bytes(fields[name]) not in allowed for name, allowed in _PLAIN_TEXT.items() if name in fields):
        return False
    response_type = as_text(as_object(fields.get("response_format")).get("type"))
    if response_type not in {None, "text"}:
        return False
    if request.endpoint == "completions":
        return as_text(fields.get("prompt")) is not None
    messages = as_list(fields.get("messages"))
    return bool(messages) and as_text(as_object(messages[-1]).get("role")) != "assistant"
