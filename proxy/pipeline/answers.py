"""The forms of `attempt.Answer`: whole, streamed, or a stream that is known already."""

from collections.abc import Callable

from proxy.errors import ProxyError
from proxy.pipeline.context import RequestContext, Tried
from proxy.pipeline.source import Source
from proxy.streaming.sinks import Writer


class Whole:
    """A unary answer."""

    __slots__ = ("_payloads", "close")

    def __init__(self, body: bytes, close: Callable[[], None]) -> None:
        self._payloads = [body]
        self.close = close

    async def read(self) -> list[bytes]:
        payloads, self._payloads = self._payloads, []
        return payloads

    def heartbeat(self) -> bytes:
        return b""


class Replayed:
    """A stream that is known already."""

    __slots__ = ("_writer", "close", "heartbeat")

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self.close: Callable[[], None] = no_connection
        self.heartbeat = writer.heartbeat

    async def read(self) -> list[bytes]:
        return self._writer.take()


class Streamed:
    """A streamed answer."""

    __slots__ = ("_context", "_failure", "_is_ended", "_source", "_tried", "_writer", "close", "heartbeat")

    def __init__(self, source: Source, writer: Writer, tried: Tried, context: RequestContext) -> None:
        self._source = source
        self._writer = writer
        self._tried = tried
        self._context = context
        self._is_ended = False
        self._failure: ProxyError | None = None
        self.heartbeat = writer.heartbeat
        self.close = source.close

    async def begin(self) -> None:
        """Read up to the first parsed event; until then an error keeps its status and another target may be tried."""
        while not self._source.stream.has_begun and not self._is_ended:
            await self._advance()

    async def read(self) -> list[bytes]:
        while not (payloads := self._writer.take()) and not self._is_ended:
            try:
                await self._advance()
            except ProxyError as error:
                self._is_ended, self._failure = True, error
        if not payloads and self._failure is not None:
            raise self._failure  # after what came before it, also in the same read
        if not self._context.first_content_s and self._source.stream.has_content:
            self._context.first_content_s = self._context.clock.monotonic_s()
        return payloads

    async def _advance(self) -> None:
        """One read; at the end of the upstream's answer, the check that it is whole."""
        if not await self._source.read():
            self._is_ended = True
            self._tried.usage = self._source.stream.close()


Closable = Whole | Replayed | Streamed


def no_connection() -> None:
    """There is none any more."""
