"""From a plan to an answer: target after target until one answers; never after the commit point.

`routing.schedule` decides what to try next. `Failover` does it: it takes a slot at the target, makes the attempt, and
reports the outcome to the target registry.
"""

import asyncio
from collections.abc import Coroutine
from functools import partial
from typing import Any

from tidegate.deadline import Deadline
from tidegate.errors import (
    EngineUnavailable,
    InternalError,
    LocalModelUnavailable,
    ProxyError,
    TargetBusy,
    UpstreamError,
    UpstreamTimeout,
    forget_way,
)
from tidegate.limits.concurrency import Slot
from tidegate.pipeline.attempt.attempt import Answer, Attempt
from tidegate.pipeline.attempt.held_answer import HeldAnswer
from tidegate.pipeline.attempt.stream_continuation import StreamContinuation
from tidegate.pipeline.context import AttemptRecord, RequestContext
from tidegate.pipeline.continuation import Continuing, may_continue
from tidegate.pipeline.failover_context import FailoverContext
from tidegate.pipeline.hedging import race
from tidegate.protocol.request import ModelRequest
from tidegate.routing.planner import Plan
from tidegate.routing.request import RoutingRequest
from tidegate.routing.schedule import AttemptSchedule, NextAttempt
from tidegate.routing.target_registry import TargetStats

_NOT_TRIED = (EngineUnavailable, TargetBusy)


async def first_answer(
    shared: FailoverContext,
    plan: Plan,
    routing_request: RoutingRequest,
    request: ModelRequest,
    context: RequestContext,
) -> Answer:
    """The first answer that begins, which the caller closes; `context.record` is the record of its attempt.

    Raises:
        ProxyError: the failure of the last target, or the first error that another target would not mend;
            `context.record` is then the record of the failed attempt.
    """
    failover = Failover(shared, plan, routing_request, request, context)
    limit_s = plan.settings.deadline_s
    if limit_s is None:
        return await failover.answer()
    deadline = Deadline(shared.deadlines, limit_s)
    deadline.start()
    try:
        return await failover.answer()
    except asyncio.CancelledError:
        if deadline.has_expired():
            late = f"No target has answered within {limit_s:g} s, the model's deadline_s."
            raise UpstreamTimeout(late, should_retry=False) from None
        raise
    finally:
        deadline.stop()


class Failover:
    """One request from its first target to the answer, or to the last failure; `answer` is called once."""

    def __init__(
        self,
        shared: FailoverContext,
        plan: Plan,
        routing_request: RoutingRequest,
        request: ModelRequest,
        context: RequestContext,
    ) -> None:
        self._shared = shared
        self._plan = plan
        self._routing_request = routing_request
        self._request = request
        self._context = context
        budgets = self._budgets = shared.budgets_by_model.get(context.model, shared.other_budgets)
        budgets.retries.deposit()
        if plan.settings.hedge:
            budgets.hedges.deposit()
        self._schedule = AttemptSchedule(
            plan.targets,
            retry=shared.retry,
            withdraw=budgets.retries.withdraw,
            rng=shared.rng,
            favoured=plan.favoured if "local_first" in {plan.settings.policy, routing_request.reach} else 0,
        )
        self._failures: list[tuple[ProxyError, AttemptRecord]] = []
        self._cut: AttemptRecord | None = None  # the first attempt that was cancelled
        self._busy: ProxyError | None = None  # why a target was not tried
        self._goes_on = plan.settings.on_stream_failure == "continue" and may_continue(request)
        self._parts: set[str] = set()  # targets that gave a part of the answer, or could not
        self._unreached: set[str] = set()  # hosts that could not be connected to
        patience_s = min(plan.settings.deadline_s or float("inf"), context.patience_s or float("inf"))
        self._until_s = context.started_s + patience_s

    async def answer(self) -> Answer:
        """The first answer, which the caller closes; `context.record` is its record, or that of the failure.

        Raises:
            ProxyError: what the last target failed with, or the first error that another target would not mend.
        """
        for target in self._plan.loads:
            self._shared.serving.upstreams[target.upstream].load()
        try:
            answer = await self._first_answer()
        except BaseException as error:
            self._context.record = self._record_of(error)
            raise
        self._context.record, self._cut = answer.record, None
        return answer

    async def _first_answer(self) -> Answer:
        clock = self._shared.clock
        while (step := self._schedule.step(clock.monotonic_s())) is not None:
            if step.pause_s:
                if clock.monotonic_s() + step.pause_s > self._until_s:
                    break
                await clock.sleep(step.pause_s)
            try:
                return await self._hedged(step) if self._may_hedge else await self._try(step)
            except ProxyError as error:
                if not error.may_try_another_target:
                    raise
                forget_way(error)
        raise self._final_error()

    def _record_of(self, error: BaseException) -> AttemptRecord:
        """The record of the attempt that raised `error`; of the first one cancelled, if that ended the request."""
        if not isinstance(error, ProxyError) and self._cut is not None:
            return self._cut
        failed = next((record for failure, record in self._failures if failure is error), None)
        return failed or (self._failures[-1][1] if self._failures else AttemptRecord())

    # --- one try --------------------------------------------------------------------------------------------------

    async def _try(self, step: NextAttempt) -> Answer:
        """A whole answer or the first part of one, with all that its end has to be told to."""
        if not self._goes_on:
            return await self._attempt(step, self._request, None)
        continuation = StreamContinuation(self._request, self._context, step.target.name)
        answer = await self._attempt(step, self._request, continuation)
        return Continuing(
            answer,
            continuation,
            self._request,
            context=self._context,
            go_on=partial(self._go_on, continuation),
        )

    async def _attempt(
        self, step: NextAttempt, request: ModelRequest, continuation: StreamContinuation | None
    ) -> Answer:
        shared, context, target = self._shared, self._context, step.target
        record = AttemptRecord(target.upstream, target.model)
        context.attempts += 1
        began_s = shared.clock.monotonic_s()
        in_flight = shared.serving.target_registry.begin(
            target, self._routing_request, in_panic=self._plan.is_panic or step.can_wait
        )
        if in_flight is None:
            error = _busy(shared.serving.target_registry.of(target))
            self._note(step, record, error, began_s)
            raise error
        record.on_first_content = in_flight.began
        held = HeldAnswer(record, in_flight, self._routing_request, context)
        try:
            held.slot = await self._slot(step)
            held.set_answer(await self._run(step, request, continuation, record))
            if not target.is_local:
                shared.note_reachability(target.upstream)
        except ProxyError as error:
            held.give_back(error)
            self._note(step, record, error, began_s)
            raise
        except BaseException:
            held.give_back()
            self._cut = self._cut or record
            raise
        finally:
            context.note_sent(record.sent_s)
        return held

    async def _run(
        self, step: NextAttempt, request: ModelRequest, continuation: StreamContinuation | None, record: AttemptRecord
    ) -> Answer:
        serving, target = self._shared.serving, step.target
        attempt = Attempt(
            serving.upstreams[target.upstream],
            target,
            request,
            record=record,
            context=self._context,
            reasoning_memory=serving.reasoning_memory,
            continuation=continuation,
        )
        return await attempt.run(can_wait=step.can_wait, can_move=step.can_move)

    async def _slot(self, step: NextAttempt) -> Slot | None:
        concurrency_limit = self._shared.serving.concurrency.get(step.target.upstream)
        if concurrency_limit is None:
            return None
        until_s, overflow_s = self._until_s, self._plan.settings.overflow_ttft_s
        if step.can_queue and overflow_s is not None:
            until_s = min(until_s, self._context.started_s + overflow_s)
        return await concurrency_limit.enter(
            caller=self._context.caller,
            priority=self._context.priority,
            tokens=self._routing_request.tokens,
            can_wait=step.can_wait or step.can_queue,
            deadline_s=until_s,
        )

    def _note(self, step: NextAttempt, record: AttemptRecord, error: ProxyError, began_s: float) -> None:
        shared, target = self._shared, step.target
        now_s = shared.clock.monotonic_s()
        has_other_key = record.credential is not None and record.credential.has_other(target.model)
        self._schedule.failed(step, error, now_s=now_s, took_s=now_s - began_s, has_other_key=has_other_key)
        was_tried = not isinstance(error, _NOT_TRIED)
        if not was_tried:
            self._context.attempts -= 1
            self._busy = error
        # the last failure is the one reported, so those of targets that were not tried come first
        self._failures.insert(len(self._failures) if was_tried else 0, (error, record))
        if not target.is_local:
            self._hear(target.upstream, error)
        shared.failed(self._context, record, error)

    def _hear(self, upstream: str, error: ProxyError) -> None:
        """One request tells only once that a host cannot be connected to, however often it tries."""
        if isinstance(error, UpstreamError) and error.is_unconnected:
            if upstream in self._unreached:
                return
            self._unreached.add(upstream)
        self._shared.note_reachability(upstream, error)

    def _final_error(self) -> ProxyError:
        """What the caller is told when nothing is left to be tried."""
        error = self._failures[-1][0] if self._failures else InternalError("a model without targets")
        if isinstance(error, EngineUnavailable) and self._routing_request.reach == "local_only":
            return LocalModelUnavailable(error.message, retry_after_s=error.retry_after_s)
        is_told = error.is_told if isinstance(error, UpstreamError) else error.retry_after_s is not None
        if self._busy is not None and not is_told:  # that one may have room soon
            error.retry_after_s = self._busy.retry_after_s
        elif self._schedule.is_exhausted and not is_told:
            error.should_retry = False
        return error

    # --- the rest of an answer ------------------------------------------------------------------------------------

    async def _go_on(
        self, continuation: StreamContinuation, request: ModelRequest, broken: AttemptRecord, failure: ProxyError
    ) -> Answer | None:
        """See `continuation.GoOn`: the targets of the plan that have not been part of this answer, and can go on."""
        shared = self._shared
        self._parts.add(broken.name)
        for target in self._plan.targets:
            if target.name in self._parts or not shared.serving.upstreams[target.upstream].dialect.can_go_on(
                request.endpoint
            ):
                continue
            if not self._budgets.retries.withdraw():
                break
            self._parts.add(target.name)
            continuation.hand_on(target.name)
            try:
                answer = await self._attempt(NextAttempt(target), request, continuation)
            except ProxyError as error:  # noted; the caller is told of the break itself
                forget_way(error)
                continuation.targets.pop()
            except BaseException:
                self._context.record = self._cut or broken
                raise
            else:
                shared.continued(self._context, broken, failure, answer.record)
                return answer
        return None

    # --- a second one beside it -----------------------------------------------------------------------------------

    @property
    def _may_hedge(self) -> bool:
        """Only the first try, and only where there is somebody else."""
        return self._plan.settings.hedge and not self._schedule.tries and len(self._plan.placed) > 1

    async def _hedged(self, step: NextAttempt) -> Answer:
        after_s = self._shared.serving.target_registry.of(step.target).latency.p95_wait_s(
            is_stream=self._routing_request.is_stream
        )
        if after_s is None:
            return await self._try(step)
        return await race(self._try(step), after_s, self._second)

    def _second(self) -> Coroutine[Any, Any, Answer] | None:
        if not self._budgets.hedges.withdraw():
            return None
        step = self._schedule.step(self._shared.clock.monotonic_s())
        if step is None:
            return None
        self._shared.settlement.metrics.hedged(self._context.model)
        return self._try(step)


def _busy(stats: TargetStats) -> TargetBusy:
    """Why the target may not be tried now."""
    if cooldown_s := stats.cooldown_s:
        message = f"The host of the target {stats.target.name} asked to wait."
        return TargetBusy(message, status=503, retry_after_s=cooldown_s)
    return TargetBusy(f"The target {stats.target.name} is being tried again.")
