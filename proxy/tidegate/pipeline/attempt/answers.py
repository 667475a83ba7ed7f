"""The innermost answers of an attempt (see `attempt.Answer`): unary, streamed, and replayed as a stream."""

from collections.abc import Callable

from tidegate.errors import ProxyError
from tidegate.pipeline.attempt.source import Source
from tidegate.pipeline.context import AttemptRecord, RequestContext
from tidegate.streaming.sinks import Writer

_MAX_HEAD_BYTES = 64 * 1024  # from the host before its first content; after so many, what has arrived is passed on


class UnaryAnswer:
    """A unary answer, already read."""

    __slots__ = ("_payloads", "close", "record")

    def __init__(self, body: bytes, close: Callable[[], None], record: AttemptRecord) -> None:
        self._payloads = [body]
        self.close = close
        self.record = record

    async def read(self) -> list[bytes]:
        payloads, self._payloads = self._payloads, []
        return payloads

    def heartbeat(self) -> bytes:
        return b""


class ReplayedAnswer:
    """A streamed answer whose chunks are all in the writer already, as it was validated as a whole first."""

    __slots__ = ("_writer", "close", "heartbeat", "record")

    def __init__(self, writer: Writer, record: AttemptRecord) -> None:
        self._writer = writer
        self.record = record
        self.close: Callable[[], None] = nothing_to_close
        self.heartbeat = writer.heartbeat

    async def read(self) -> list[bytes]:
        return self._writer.take()


class StreamedAnswer:
    """A streamed answer, read from the upstream as the caller reads it."""

    __slots__ = ("_context", "_failure", "_is_ended", "_source", "_stream", "_writer", "close", "heartbeat", "record")

    def __init__(self, source: Source, writer: Writer, record: AttemptRecord, context: RequestContext) -> None:
        self._source = source
        self._stream = source.stream
        self._writer = writer
        self.record = record
        self._context = context
        self._is_ended = False
        self._failure: ProxyError | None = None
        self.heartbeat = writer.heartbeat
        self.close = source.close

    async def begin(self, *, keeps_content: bool = False) -> None:
        """Read up to the first content, or to the correct end of an empty answer.

        A role, empty deltas and comments are no content: a host may send them and then fail. Nothing has been sent to
        the caller during this method, so an error keeps its status, and another target may be tried.

        Args:
            keeps_content: whether content that arrives in the same read as a failure is kept, as it has already been
                written into a continuation and cannot be taken back. `read` raises the failure after that content.

        Raises:
            ProxyError: the answer failed before its first content.
        """
        while not (self._stream.has_content or self._is_ended or self._head_is_too_long):
            try:
                await self._read_upstream()
            except ProxyError as error:
                if not (keeps_content and self._stream.has_content):
                    raise
                self._fail(error)
        if self._stream.has_content:
            self.record.note_first_content(self._context.clock.monotonic_s())

    async def read(self) -> list[bytes]:
        while not (payloads := self._writer.take()) and not self._is_ended:
            try:
                await self._read_upstream()
            except ProxyError as error:
                self._fail(error)
        if not payloads and self._failure is not None:
            raise self._failure  # after the content that came before it, also in the same read
        if not self._context.first_content_s and self._stream.has_content:
            self._note_first_content()
        return payloads

    @property
    def _head_is_too_long(self) -> bool:
        """Whether over `_MAX_HEAD_BYTES` came without content. Comments alone do not count: they are not passed on."""
        return self._stream.has_begun and self._source.read_bytes > _MAX_HEAD_BYTES

    def _fail(self, error: ProxyError) -> None:
        self._is_ended, self._failure = True, error
        self.record.failure = error

    def _note_first_content(self) -> None:
        now_s = self._context.clock.monotonic_s()
        self._context.first_content_s = now_s
        if not self.record.first_content_s:
            self.record.note_first_content(now_s)

    async def _read_upstream(self) -> None:
        """Read once from the upstream; at the end of its answer, check that the answer is complete."""
        if not await self._source.read():
            self._is_ended = True
            self.record.usage = await self._source.end()
            self.record.is_whole = True


AttemptAnswer = UnaryAnswer | ReplayedAnswer | StreamedAnswer


def nothing_to_close() -> None:
    """Do nothing: the connection has already been closed or given back."""
