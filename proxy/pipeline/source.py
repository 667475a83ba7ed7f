"""What a host sends, into the state machine; and the turns that are to be remembered, out of it."""

import asyncio
import re
from collections.abc import Callable, Iterable

from proxy.errors import ProxyError, UpstreamFailed, UpstreamTimeout, UpstreamUnreachable
from proxy.memory import Memory
from proxy.pipeline.upstream import Response
from proxy.protocol.chat import Chunk
from proxy.protocol.sse import BOM, EventParser, objects, pieces
from proxy.protocol.usage import Usage
from proxy.streaming.choices import ChoiceStream
from proxy.streaming.filters import Remembering

_MAX_QUIET_BYTES = 1024 * 1024  # between two pieces of an answer
_MOST_OF_ONE = 4096  # bytes of an event that says nothing which count: some hold the ids of a long prompt's tokens
_FIELD = re.compile(rb"\s*(?:data|event|id|retry)?:")  # begins the first line of a stream of events
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

    The content type decides, not the request: some hosts answer a stream with one JSON body. Where it is wrong, the
    first bytes do: no event begins with a brace, and no JSON with the name of a field.
    """

    __slots__ = (
        "_has_begun",
        "_has_said_end",
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
        self._is_json = "json" in response.headers.get("content-type", "").lower()
        self._has_begun = False
        self._has_said_end = False
        self._parse = parse
        self._parser = EventParser()
        self._memory = memory
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
        if not self._has_begun and (begun := data.removeprefix(BOM).lstrip()):
            self._has_begun = True
            if begun.startswith((b"{", b"[")):
                return self._take_body(data + await self._response.read_all())
        self.read_bytes += len(data)
        return await self._take(data)

    async def end(self) -> Usage | None:
        """The answer has ended: what waited for that is told, what has to be remembered is; what the answer took.

        Raises:
            ProxyError: it is not whole.
        """
        usage = self.stream.close(has_said_end=self._has_said_end)
        if self._memory is not None:
            await self._memory.keep()
        return usage

    def _take_body(self, body: bytes) -> bool:
        if _FIELD.match(body):
            self._accept([*self._parser.feed(body), *self._parser.close()])
        else:
            self._has_said_end = True
            for chunk in self._read_all(body):
                self.stream.accept(chunk)
        return False

    async def _take(self, data: bytes) -> bool:
        """The events in a read; False where one says that it was the last, or where there is no more."""
        heard, pending = self.stream.heard, self._parser.pending
        events = self._parser.feed(data) if data else self._parser.close()
        if self._accept(events):
            return False
        if self.stream.heard != heard:
            self._quiet_bytes = 0
        elif data:
            size = len(data) + pending - self._parser.pending
            await self._bear(min(size, _MOST_OF_ONE * len(events)) if events else size)
        return bool(data)

    def _accept(self, events: list[bytes]) -> bool:
        """True where one of them is the end of the stream."""
        has_objects = False
        for event in events:
            found = objects(event)
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
        """What should be one object; several lines of them are read too, and an error behind one that broke off.

        Raises:
            ProxyError: it is an error, or cannot be read.
        """
        try:
            return (self._parse(data),)
        except ProxyError:
            found = pieces(data)
            if not found:
                raise
        self._parse(found[-1])  # an error explains the rest
        return map(self._parse, found)

    async def _bear(self, size: int) -> None:
        """Comments and events that say nothing: a few are a sign of life; a flood would keep all others waiting.

        Raises:
            UpstreamFailed: it is one.
        """
        self._quiet_bytes += size
        if self._quiet_bytes > _MAX_QUIET_BYTES:
            raise UpstreamFailed(f"The upstream sent more than {_MAX_QUIET_BYTES} bytes that say nothing.")
        await asyncio.sleep(0)
