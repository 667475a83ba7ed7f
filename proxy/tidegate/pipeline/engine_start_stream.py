"""Shows how an engine's start gets on, in the stream of the request that waits for it (`models.NAME.progress_in`)."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from tidegate.pipeline.attempt.attempt import Answer
from tidegate.pipeline.attempt.writers import envelope_of
from tidegate.pipeline.context import AttemptRecord, RequestContext
from tidegate.pipeline.engine_start_progress import EngineChanges, EngineStartProgress
from tidegate.pipeline.hedging import cancel_and_wait, cancel_without_waiting
from tidegate.protocol.request import ModelRequest
from tidegate.streaming.reasoning_preface import ReasoningPreface


async def with_progress(
    get_answer: Coroutine[Any, Any, Answer], request: ModelRequest, context: RequestContext, changes: EngineChanges
) -> Answer:
    """The answer of `get_answer`; for a streamed chat request that waits for an engine, with the progress before it.

    Args:
        get_answer: the coroutine that makes the answer; not started.
        request: the caller's request.
        context: its `engine_start_progress` is set here, if progress may be shown.
        changes: calls its listeners when the status of an engine has changed.

    Raises:
        ProxyError: an error of `get_answer`, if no progress has been shown before it.
    """
    form = context.reasoning_format
    if not request.is_stream or request.endpoint != "chat" or form == "hidden":
        return await get_answer
    preface = ReasoningPreface(envelope_of(request, context), wants_usage=request.wants_usage, form=form)
    context.engine_start_progress = EngineStartProgress(preface, changes)
    task = asyncio.create_task(get_answer, name=f"answer to {context.id}")
    return await _AwaitedAnswer(task, context.engine_start_progress, context).begin()


class _AwaitedAnswer:
    """An `attempt.Answer` that shows progress until the real answer has begun. Owner of the task that makes the answer.

    No content has left for the caller until then, so failover is still possible. An error of the task is raised by
    `read`, as the status line has left by then.
    """

    def __init__(
        self, task: asyncio.Task[Answer], engine_start_progress: EngineStartProgress, context: RequestContext
    ) -> None:
        self._task = task
        self._engine_start_progress = engine_start_progress
        self._context = context
        self._answer: Answer | None = None
        task.add_done_callback(lambda _: engine_start_progress.changed.set())

    async def begin(self) -> Answer:
        """Wait for the answer or for progress; returns the answer, or this object if progress comes first."""
        while not self._task.done():
            self._engine_start_progress.show()
            if self._engine_start_progress.preface.text:
                return self
            await self._wait_change()
        return self._task.result()

    @property
    def record(self) -> AttemptRecord:
        """The record of the attempt that answers; before that, the record of the last one."""
        return self._context.record if self._answer is None else self._answer.record

    async def read(self) -> list[bytes]:
        while self._answer is None:
            self._engine_start_progress.show()
            if payloads := self._engine_start_progress.preface.take():
                return payloads
            if self._task.done():
                self._answer = self._task.result()
            else:
                await self._wait_change()
        return await self._answer.read()

    def heartbeat(self) -> bytes:
        return self._engine_start_progress.preface.heartbeat() if self._answer is None else self._answer.heartbeat()

    def close(self) -> None:
        if self._answer is None:
            cancel_without_waiting(self._task)
        else:
            self._answer.close()

    async def _wait_change(self) -> None:
        """Wait until there may be new progress or the task has ended. If the wait is cancelled, the task is too."""
        self._engine_start_progress.changed.clear()
        try:
            await self._engine_start_progress.changed.wait()
        except BaseException:
            await cancel_and_wait([self._task])
            raise
