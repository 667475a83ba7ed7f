"""Shows the progress of an engine's load in the stream that waits for it (`models.NAME.progress_in`)."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from tidegate.pipeline.attempt.attempt import Answer
from tidegate.pipeline.attempt.writers import envelope_of
from tidegate.pipeline.context import AttemptRecord, RequestContext
from tidegate.pipeline.hedging import abandon, drop
from tidegate.pipeline.load_progress import EngineChanges, Waiting
from tidegate.protocol.request import ModelRequest
from tidegate.streaming.preface import Preface


async def with_progress(
    answering: Coroutine[Any, Any, Answer], request: ModelRequest, context: RequestContext, changes: EngineChanges
) -> Answer:
    """The answer of `answering`; for a streamed chat request that waits for an engine, one that shows progress first.

    Args:
        answering: gets the answer; not started.
        request: the caller's.
        context: its `waiting` is set here.
        changes: calls when the status of an engine has changed.

    Raises:
        ProxyError: what `answering` raises, before any progress was shown.
    """
    form = context.reasoning_format
    if not request.is_stream or request.endpoint != "chat" or form == "hidden":
        return await answering
    preface = Preface(envelope_of(request, context), wants_usage=request.wants_usage, form=form)
    context.waiting = Waiting(preface, changes)
    task = asyncio.create_task(answering, name=f"answer to {context.id}")
    return await _AwaitedAnswer(task, context.waiting, context).begin()


class _AwaitedAnswer:
    """An `attempt.Answer` that shows progress until the answer is there. Owner of the task that gets the answer.

    No content has left for the caller until then, so failover is free. An error of the task is raised by `read`, as the
    caller has a status line by then.
    """

    def __init__(self, task: asyncio.Task[Answer], waiting: Waiting, context: RequestContext) -> None:
        self._task = task
        self._waiting = waiting
        self._context = context
        self._answer: Answer | None = None
        task.add_done_callback(lambda _: waiting.changed.set())

    async def begin(self) -> Answer:
        """Wait for the answer or for progress; returns the answer, or this object if progress comes first."""
        while not self._task.done():
            self._waiting.tell()
            if self._waiting.preface.text:
                return self
            await self._wait_change()
        return self._task.result()

    @property
    def record(self) -> AttemptRecord:
        """The record of the attempt that answers; before that, the record of the last one."""
        return self._context.record if self._answer is None else self._answer.record

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
        """Wait until there may be new progress, or the task has ended. If the wait is cancelled, so is the task."""
        self._waiting.changed.clear()
        try:
            await self._waiting.changed.wait()
        except BaseException:
            await drop([self._task])
            raise
