"""The forms of `attempt.Answer`: whole, streamed, or a stream that is known already."""

from collections.abc import Callable

from tidegate.errors import ProxyError
from tidegate.pipeline.attempt.source import Source
from tidegate.pipeline.context import AttemptRecord, RequestContext
from tidegate.streaming.sinks import Writer

_MAX_HEAD_BYTES = 64 * 1024  # from the host, without a word of content; then what came is passed on after all


class Whole:
    """A unary answer."""

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


class Replayed:
    """A stream that is known already."""

    __slots__ = ("_writer", "close", "heartbeat", "record")

    def __init__(self, writer: Writer, record: AttemptRecord) -> None:
        self._writer = writer
        self.record = record
        self.close: Callable[[], None] = no_connection
        self.heartbeat = writer.heartbeat

    async def read(self) -> list[bytes]:
        return self._writer.take()


class Streamed:
    """A streamed answer."""

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
        """Hold the head until it is good: read up to the first content, or to the end in good order of an empty answer.

        A role, empty pieces and comments are no content: a host may say them, and give up. What fails here has sent the
        caller nothing, so that the error keeps its status and another target may be tried.

        Args:
            keeps_content: whether content that a failure came with counts all the same: it has been told to others, who
                could not take it back. The failure is then raised behind it.

        Raises:
            ProxyError: it failed.
        """
        while not (self._stream.has_content or self._is_ended or self._is_too_long):
            try:
                await self._advance()
            except ProxyError as error:
                if not (keeps_content and self._stream.has_content):
                    raise
                self._break_off(error)
        if self._stream.has_content:
            self.record.got_content(self._context.clock.monotonic_s())

    async def read(self) -> list[bytes]:
        while not (payloads := self._writer.take()) and not self._is_ended:
            try:
                await self._advance()
            except ProxyError as error:
                self._break_off(error)
        if not payloads and self._failure is not None:
            raise self._failure  # after what came before it, also in the same read
        if not self._context.first_content_s and self._stream.has_content:
            self._note_content()
        return payloads

    @property
    def _is_too_long(self) -> bool:
        """Whether the head has something to pass on, and is longer than any that is good."""
        return self._stream.has_begun and self._source.read_bytes > _MAX_HEAD_BYTES

    def _break_off(self, error: ProxyError) -> None:
        self._is_ended, self._failure = True, error
        self.record.failure = error

    def _note_content(self) -> None:
        now_s = self._context.clock.monotonic_s()
        self._context.first_content_s = now_s
        if not self.record.first_content_s:
            self.record.got_content(now_s)

    async def _advance(self) -> None:
        """One read; at the end of the upstream's answer, the check that it is whole."""
        if not await self._source.read():
            self._is_ended = True
            self.record.usage = await self._source.end()
            self.record.is_whole = True


Closable = Whole | Replayed | Streamed


def no_connection() -> None:
    """There is none any more."""
