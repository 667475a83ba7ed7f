"""`ScriptedResponse`: a host's answer, of which a script says what each read returns or raises."""

from collections.abc import Iterable, Mapping

from tests.fakes.clock import FakeClock
from tidegate.errors import ProxyError


class ScriptedResponse:
    """A `tidegate.pipeline.upstream.Response`; each read advances the clock by `pause_s`."""

    status = 200

    def __init__(
        self,
        pieces: Iterable[bytes | ProxyError],
        *,
        clock: FakeClock | None = None,
        pause_s: float = 0.0,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.headers = headers or {"content-type": "text/event-stream"}
        self.is_closed = False
        self.reads = 0
        self._pieces = list(pieces)
        self._clock = clock
        self._pause_s = pause_s

    async def read_some(self) -> bytes:
        self.reads += 1
        if self._clock is not None:
            self._clock.advance(self._pause_s)
        piece = self._pieces.pop(0) if self._pieces else b""
        if isinstance(piece, ProxyError):
            raise piece
        return piece

    async def read_all(self) -> bytes:
        return b"".join([piece async for piece in self])

    async def __aiter__(self):
        while piece := await self.read_some():
            yield piece

    async def read_error_body(self) -> bytes:
        return await self.read_all()

    def got_event(self, *, has_content: bool) -> None:
        """Do nothing, as the fake measures no times."""

    def expect_end(self) -> None:
        self._pieces = []

    def close(self) -> None:
        self.is_closed = True
