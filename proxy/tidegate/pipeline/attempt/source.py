"""`Source`: reads a host's response into the state machine of the stream; `TurnMemory` stores finished turns."""

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
from tidegate.streaming.filters import ReasoningRecorder

_MAX_QUIET_BYTES = 1024 * 1024  # of comments and events without content, since the last content
_MAX_COUNTED_BYTES = 4096  # at most, of one event without content: some hold the token ids of the prompt
_SSE_FIELD = re.compile(rb"\s*(?:data|event|id|retry)?:")  # the beginning of an event stream
# An id that ends in a counter (Kimi's) is also the id of calls in other conversations.
_COUNTER_ID = re.compile(r"(.*[:_.-])?\d{1,4}", re.DOTALL)


class TurnMemory:
    """Stores the complete turns of a stream in the reasoning memory."""

    __slots__ = ("_caller", "_reasoning_memory", "_remembering")

    def __init__(self, remembering: ReasoningRecorder, reasoning_memory: ReasoningMemory, caller: str) -> None:
        self._remembering = remembering
        self._reasoning_memory = reasoning_memory
        self._caller = caller

    async def store(self) -> None:
        for turn in self._remembering.take():
            if call_ids := [call_id for call_id in turn.call_ids if not _COUNTER_ID.fullmatch(call_id)]:
                await self._reasoning_memory.remember(self._caller, call_ids, turn.reasoning)


class Source:
    """Feeds the response of a host into the state machine: events, or a JSON body as one event.

    The content type decides which of them, not the request: some hosts answer a streamed request with one JSON body.
    The first bytes override a wrong content type: no event begins with a brace, and no JSON body begins with the name
    of an SSE field.

    Attributes:
        read_bytes: the number of bytes read so far.
        stream: the state machine.
    """

    __slots__ = (
        "_has_data",
        "_has_end_marker",
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
        self._has_end_marker = False
        self._parse = parse
        self._parser = EventParser()
        self._reasoning_memory = reasoning_memory
        self._quiet_bytes = 0
        self.close = response.close
        self.read_bytes = 0
        self.stream = stream

    async def read(self) -> bool:
        """Read what has arrived; False at the end, after which the caller calls `end`.

        Raises:
            ProxyError: the upstream failed, or sent something that is no answer.
        """
        if self._is_json:
            return self._read_body(await self._response.read_all())
        try:
            data = await self._response.read_some()
        except (UpstreamTimeout, UpstreamUnreachable):
            if self.stream.is_complete:  # all choices have finished; only the end of the body is missing
                return False
            raise
        if not self._has_data and (first_bytes := data.removeprefix(BOM).lstrip()):
            self._has_data = True
            if first_bytes.startswith((b"{", b"[")):
                return self._read_body(data + await self._response.read_all())
        self.read_bytes += len(data)
        return await self._read_events(data)

    async def end(self) -> Usage | None:
        """The answer has ended: finish the stream, store the turn in the memory, and return the usage.

        Raises:
            ProxyError: the answer is not complete.
        """
        usage = self.stream.close(has_end_marker=self._has_end_marker)
        if self._reasoning_memory is not None:
            await self._reasoning_memory.store()
        return usage

    def _read_body(self, body: bytes) -> bool:
        if _SSE_FIELD.match(body):
            self._accept([*self._parser.feed(body), *self._parser.close()])
        else:
            self._has_end_marker = True
            for chunk in self._read_all(body):
                self.stream.accept(chunk)
        return False

    async def _read_events(self, data: bytes) -> bool:
        """Read the events in `data`; False after the last event, or at the end of the connection."""
        content_before, pending = self.stream.parts_read, self._parser.pending
        events = self._parser.feed(data) if data else self._parser.close()
        if self._accept(events):
            return False
        if self.stream.parts_read != content_before:
            self._quiet_bytes = 0
        elif data:
            size = len(data) + pending - self._parser.pending
            await self._count_quiet_bytes(min(size, _MAX_COUNTED_BYTES * len(events)) if events else size)
        return bool(data)

    def _accept(self, events: list[bytes]) -> bool:
        """Pass events to the stream; True if one of them marks its end."""
        has_objects = False
        for event in events:
            objects = objects_in(event)
            if objects is None:
                self._has_end_marker = True
                self._response.expect_end()
                return True
            for each in objects:
                has_objects = True
                for chunk in self._read_all(each):
                    self.stream.accept(chunk)
        if has_objects:
            self._response.got_event(has_content=self.stream.has_content)
        return False

    def _read_all(self, data: bytes) -> Iterable[Chunk]:
        """Parse a payload: one object, or several, one on each line. An error may follow a truncated object.

        Raises:
            ProxyError: an object is an error, or cannot be parsed.
        """
        try:
            return (self._parse(data),)
        except ProxyError:
            objects = split_objects(data)
            if not objects:
                raise
        self._parse(objects[-1])  # raises if it is an error, which explains the others
        return map(self._parse, objects)

    async def _count_quiet_bytes(self, size: int) -> None:
        """Count bytes of comments and of events without content: a few keep the connection alive, a flood is a failure.

        Raises:
            UpstreamFailed: there were more than `_MAX_QUIET_BYTES` since the last content.
        """
        self._quiet_bytes += size
        if self._quiet_bytes > _MAX_QUIET_BYTES:
            raise UpstreamFailed(f"The upstream sent more than {_MAX_QUIET_BYTES} bytes that say nothing.")
        await asyncio.sleep(0)  # other tasks must run during a flood that can be read without waiting
