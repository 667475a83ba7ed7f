"""What a host sends, into the state machine; and the turns that are to be remembered, out of it."""

import asyncio
import re
from collections.abc import Callable, Iterable

from tidegate.errors import ProxyError, UpstreamFailed, UpstreamTimeout, UpstreamUnreachable
from tidegate.pipeline.upstream import UpstreamResponse
from tidegate.protocol.chat import Chunk
from tidegate.protocol.sse import BOM, EventParser, objects_in, split_objects
from tidegate.protocol.usage import Usage
from tidegate.reasoning_memory import ReasoningMemory
from tidegate.streaming.choices import ChoiceStream
from tidegate.streaming.filters import Remembering

_MAX_QUIET_BYTES = 1024 * 1024  # between two pieces of an answer
_MAX_COUNTED_BYTES = 4096  # of an event without content: some are long, as they hold the token ids of the prompt
_SSE_FIELD = re.compile(rb"\s*(?:data|event|id|retry)?:")  # the beginning of an event stream
_COUNTED = re.compile(r"(.*[:_.-])?\d{1,4}", re.DOTALL)  # such an id (Kimi's) is that of other conversations' calls too


class TurnMemory:
    """Hands complete turns from the stream to the memory."""

    __slots__ = ("_caller", "_reasoning_memory", "_remembering")

    def __init__(self, remembering: Remembering, reasoning_memory: ReasoningMemory, caller: str) -> None:
        self._remembering = remembering
        self._reasoning_memory = reasoning_memory
        self._caller = caller

    async def keep(self) -> None:
        for turn in self._remembering.take():
            if call_ids := [call_id for call_id in turn.call_ids if not _COUNTED.fullmatch(call_id)]:
                await self._reasoning_memory.remember(self._caller, call_ids, turn.reasoning)


class Source:
    """Feeds what a host sends into the state machine: events, or a JSON body as one event.

    The content type decides, not the request: some hosts answer a stream with one JSON body. The first bytes override a
    wrong content type: no event begins with a brace, and no JSON with the name of an SSE field.
    """

    __slots__ = (
        "_has_data",
        "_has_said_end",
        "_is_json",
        "_parse",
        "_parser",
        "_quiet_bytes",
        "_reasoning_memory",
        "_response",
        "close",
        "read_bytes",
        "stream",
    )

    def __init__(
        self,
        response: UpstreamResponse,
        stream: ChoiceStream,
        parse: Callable[[bytes], Chunk],
        reasoning_memory: TurnMemory | None,
    ) -> None:
        self._response = response
        self._is_json = "json" in response.headers.get("content-type", "").lower()
        self._has_data = False
        self._has_said_end = False
        self._parse = parse
        self._parser = EventParser()
        self._reasoning_memory = reasoning_memory
        self._quiet_bytes = 0
        self.close = response.close
        self.read_bytes = 0
        self.stream = stream

    async def read(self) -> bool:
        """Read what has arrived; False at the end, when `end` is to be called.

        Raises:
            ProxyError: the upstream failed, or sent what is no answer.
        """
        if self._is_json:
            return self._take_body(await self._response.read_all())
        try:
            data = await self._response.read_some()
        except (UpstreamTimeout, UpstreamUnreachable):
            if self.stream.is_complete:  # only the formal end is missing
                return False
            raise
        if not self._has_data and (begun := data.removeprefix(BOM).lstrip()):
            self._has_data = True
            if begun.startswith((b"{", b"[")):
                return self._take_body(data + await self._response.read_all())
        self.read_bytes += len(data)
        return await self._take(data)

    async def end(self) -> Usage | None:
        """The answer has ended: finish the stream, store the turn in the memory, and return the usage.

        Raises:
            ProxyError: the answer is not whole.
        """
        usage = self.stream.close(has_said_end=self._has_said_end)
        if self._reasoning_memory is not None:
            await self._reasoning_memory.keep()
        return usage

    def _take_body(self, body: bytes) -> bool:
        if _SSE_FIELD.match(body):
            self._accept([*self._parser.feed(body), *self._parser.close()])
        else:
            self._has_said_end = True
            for chunk in self._read_all(body):
                self.stream.accept(chunk)
        return False

    async def _take(self, data: bytes) -> bool:
        """Read the events in `data`; False after the last event, or at the end of the connection."""
        heard, pending = self.stream.heard, self._parser.pending
        events = self._parser.feed(data) if data else self._parser.close()
        if self._accept(events):
            return False
        if self.stream.heard != heard:
            self._quiet_bytes = 0
        elif data:
            size = len(data) + pending - self._parser.pending
            await self._bear(min(size, _MAX_COUNTED_BYTES * len(events)) if events else size)
        return bool(data)

    def _accept(self, events: list[bytes]) -> bool:
        """Pass events to the stream; True if one of them marks its end."""
        has_objects = False
        for event in events:
            found = objects_in(event)
            if found is None:
                self._has_said_end = True
                self._response.expect_end()
                return True
            for each in found:
                has_objects = True
                for chunk in self._read_all(each):
                    self.stream.accept(chunk)
        if has_objects:
            self._response.got_event(has_content=self.stream.has_content)
        return False

    def _read_all(self, data: bytes) -> Iterable[Chunk]:
        """Parse one object; also several, one on each line, and an error object after a truncated one.

        Raises:
            ProxyError: an object is an error, or cannot be read.
        """
        try:
            return (self._parse(data),)
        except ProxyError:
            found = split_objects(data)
            if not found:
                raise
        self._parse(found[-1])  # raises if it is an error, which explains the others
        return map(self._parse, found)

    async def _bear(self, size: int) -> None:
        """Count bytes of comments and events without content: a few keep the connection alive, a flood is a failure.

        Raises:
            UpstreamFailed: there were too many since the last content.
        """
        self._quiet_bytes += size
        if self._quiet_bytes > _MAX_QUIET_BYTES:
            raise UpstreamFailed(f"The upstream sent more than {_MAX_QUIET_BYTES} bytes that say nothing.")
        await asyncio.sleep(0)
