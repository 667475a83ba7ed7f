"""An answer that is waited for: its stream begins with what the engine does meanwhile (`models.NAME.progress_in`)."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from proxy.pipeline.attempt import Answer
from proxy.pipeline.context import RequestContext, Tried
from proxy.pipeline.hedging import abandon, drop
from proxy.pipeline.shapes import envelope_of
from proxy.pipeline.waiting import EngineChanges, Waiting
from proxy.protocol.request import ModelRequest
from proxy.streaming.preface import Preface


async def with_progress(
    coming: Coroutine[Any, Any, Answer], request: ModelRequest, context: RequestContext, changes: EngineChanges
) -> Answer:
    """What `coming` returns or, as soon as a streamed chat request waits for an engine, an answer that tells of it.

    Args:
        coming: the way to the answer, not begun.
        request: the caller's.
        context: its `waiting` is set here.
        changes: of the status of engines.

    Raises:
        ProxyError: what `coming` raises, before anything was told.
    """
    form = context.reasoning_format
    if not request.is_stream or request.endpoint != "chat" or form == "hidden":
        return await coming
    preface = Preface(envelope_of(request, context), wants_usage=request.wants_usage, form=form)
    context.waiting = Waiting(preface, changes)
    task = asyncio.create_task(coming, name=f"answer to {context.id}")
    return await _AwaitedAnswer(task, context.waiting, context).begin()


class _AwaitedAnswer:
    """An `attempt.Answer` that first tells what it waits for. Owner of the task that gets the answer itself.

    Nothing of that answer has left meanwhile, so failover is as free as ever. What comes of the task is raised by
    `read`: by then the caller has a status line.
    """

    def __init__(self, task: asyncio.Task[Answer], waiting: Waiting, context: RequestContext) -> None:
        self._task = task
        self._waiting = waiting
        self._context = context
        self._answer: Answer | None = None
        task.add_done_callback(lambda _: waiting.changed.set())

    async def begin(self) -> Answer:
        """The answer itself, if it comes before there is something to tell; else this one."""
        while not self._task.done():
            self._waiting.tell()
            if self._waiting.preface.text:
                return self
            await self._wait_change()
        return self._task.result()

    @property
    def tried(self) -> Tried:
        """The record of the attempt that answers; until then, or if none does, that of the last failure."""
        return self._context.tried if self._answer is None else self._answer.tried

    async def read(self) -> list[bytes]:
        while self._answer is None:
            self._waiting.tell()
            if payloads := self._waiting.preface.take():
                return payloads
            if self._task.done():
                self._answer = self._task.result()
            else:
                await self._wait_change()
        return await self._answer.read()

    def heartbeat(self) -> bytes:
        return self._waiting.preface.heartbeat() if self._answer is None else self._answer.heartbeat()

    def close(self) -> None:
        if self._answer is None:
            abandon(self._task)
        else:
            self._answer.close()

    async def _wait_change(self) -> None:
        """Wait until there may be something to tell, or the task has ended; it is cancelled with the wait."""
        self._waiting.changed.clear()
        try:
            await self._waiting.changed.wait()
        except BaseException:
            await drop([self._task])
            raise
