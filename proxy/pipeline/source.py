"""What a host sends, into the state machine; and the turns that are to be remembered, out of it."""

import asyncio
import re
from collections.abc import Callable

from proxy.errors import UpstreamFailed, UpstreamTimeout, UpstreamUnreachable
from proxy.memory import Memory
from proxy.pipeline.upstream import Response
from proxy.protocol.chat import Chunk
from proxy.protocol.sse import EventParser
from proxy.streaming.choices import ChoiceStream
from proxy.streaming.filters import Remembering

_DONE = b"[DONE]"
_MAX_QUIET_BYTES = 1024 * 1024  # between two pieces of an answer
_COUNTED = re.compile(r"(.*[:_.-])?\d{1,4}", re.DOTALL)  # such an id (Kimi's) is that of other conversations' calls too


class TurnMemory:
    """Hands complete turns from the stream to the memory."""

    __slots__ = ("_caller", "_memory", "_remembering")

    def __init__(self, remembering: Remembering, memory: Memory, caller: str) -> None:
        self._remembering = remembering
        self._memory = memory
        self._caller = caller

    async def keep(self) -> None:
        for turn in self._remembering.take():
            if call_ids := [call_id for call_id in turn.call_ids if not _COUNTED.fullmatch(call_id)]:
                await self._memory.remember(self._caller, call_ids, turn.reasoning)


class Source:
    """Feeds what a host sends into the state machine: events, or a JSON body as one event.

    The content type decides, not the request: some hosts answer a stream with one JSON body. Where it says neither, the
    first byte does: no event begins with a brace.
    """

    __slots__ = (
        "_is_declared",
        "_is_json",
        "_memory",
        "_parse",
        "_parser",
        "_quiet_bytes",
        "_response",
        "close",
        "read_bytes",
        "stream",
    )

    def __init__(
        self,
        response: Response,
        stream: ChoiceStream,
        parse: Callable[[bytes], Chunk],
        memory: TurnMemory | None,
    ) -> None:
        self._response = response
        content_type = response.headers.get("content-type", "").lower()
        self._is_json = "json" in content_type
        self._is_declared = self._is_json or "event-stream" in content_type
        self._parse = parse
        self._parser = EventParser()
        self._memory = memory
        self._quiet_bytes = 0
        self.close = response.close
        self.read_bytes = 0
        self.stream = stream

    async def read(self) -> bool:
        """Read what has arrived; False at the end."""
        has_more = await self._read()
        if self._memory is not None:
            await self._memory.keep()
        return has_more

    async def _read(self) -> bool:
        if self._is_json:
            self.stream.accept(self._parse(await self._response.read_all()))
            return False
        try:
            data = await self._response.read_some()
        except (UpstreamTimeout, UpstreamUnreachable):
            if self.stream.is_complete:  # only the formal end is missing
                return False
            raise
        if not self._is_declared and (begun := data.lstrip()):
            self._is_declared = True
            if begun.startswith(b"{"):
                self.stream.accept(self._parse(data + await self._response.read_all()))
                return False
        self.read_bytes += len(data)
        heard = self.stream.heard
        if self._take(data):
            return False
        if self.stream.heard != heard:
            self._quiet_bytes = 0
        elif data:
            await self._bear(len(data))
        return bool(data)

    def _take(self, data: bytes) -> bool:
        """The events in it, into the stream; True where one says that it was the last."""
        found = self._parser.feed(data) if data else self._parser.close()
        for event in found:
            if event.startswith(_DONE):
                self._response.expect_end()
                return True
            self.stream.accept(self._parse(event))
        if found:
            self._response.got_event(has_content=self.stream.has_content)
        return False

    async def _bear(self, size: int) -> None:
        """Comments and empty pieces: a few are a sign of life; a flood would keep all others waiting.

        Raises:
            UpstreamFailed: it is one.
        """
        self._quiet_bytes += size
        if self._quiet_bytes > _MAX_QUIET_BYTES:
            raise UpstreamFailed(f"The upstream sent more than {_MAX_QUIET_BYTES} bytes that say nothing.")
        await asyncio.sleep(0)
