"""`Failover`: tries the targets of a plan one after another until one answers; never after the commit point.

`routing.schedule` decides which target to try next. `Failover` does it: it acquires a slot at the target, makes the
attempt, and reports the outcome to the target registry.
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
    drop_references,
)
from tidegate.limits.concurrency import Slot
from tidegate.pipeline.attempt.answer_lease import AnswerLease
from tidegate.pipeline.attempt.attempt import Answer, Attempt
from tidegate.pipeline.attempt.stream_continuation import StreamContinuation
from tidegate.pipeline.context import AttemptRecord, RequestContext
from tidegate.pipeline.continuing_answer import ContinuingAnswer, may_continue
from tidegate.pipeline.failover_context import FailoverContext
from tidegate.pipeline.hedging import race
from tidegate.protocol.request import ModelRequest
from tidegate.routing.planner import Plan
from tidegate.routing.request import RoutingRequest
from tidegate.routing.schedule import AttemptSchedule, NextAttempt
from tidegate.routing.target_registry import TargetStats

_NOT_TRIED = (EngineUnavailable, TargetBusy)  # nothing was sent, so the target does not count as tried


async def first_answer(
    shared: FailoverContext,
    plan: Plan,
    routing_request: RoutingRequest,
    request: ModelRequest,
    context: RequestContext,
) -> Answer:
    """Return the first answer that begins, within the model's `deadline_s`; the caller of this function closes it.

    `context.record` is set to the record of its attempt.

    Raises:
        ProxyError: the failure of the last target, or the first error with which no other target may be tried;
            `context.record` is then the record of the failed attempt.
    """
    failover = Failover(shared, plan, routing_request, request, context)
    deadline_s = plan.settings.deadline_s
    if deadline_s is None:
        return await failover.answer()
    deadline = Deadline(shared.deadlines, deadline_s)
    deadline.start()
    try:
        return await failover.answer()
    except asyncio.CancelledError:
        if deadline.has_expired():
            message = f"No target has answered within {deadline_s:g} s, the model's deadline_s."
            raise UpstreamTimeout(message, should_retry=False) from None
        raise
    finally:
        deadline.stop()


class Failover:
    """The failover of one request; `answer` is called once, and `_continue_elsewhere` for each break of the answer."""

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
            favoured_count=plan.favoured_count if "local_first" in {plan.settings.policy, routing_request.reach} else 0,
        )
        self._failures: list[tuple[ProxyError, AttemptRecord]] = []
        self._cancelled_record: AttemptRecord | None = None  # the first attempt that was cancelled
        self._busy_error: ProxyError | None = None  # the last one of `_NOT_TRIED`
        self._may_continue = plan.settings.on_stream_failure == "continue" and may_continue(request)
        self._used_for_parts: set[str] = set()  # names of targets that gave a part of the answer, or failed to
        self._unreachable: set[str] = set()  # hosts that could not be connected to
        # the end of the model's deadline or of the caller's timeout, whichever is earlier
        wait_s = min(plan.settings.deadline_s or float("inf"), context.caller_timeout_s or float("inf"))
        self._wait_until_s = context.started_s + wait_s

    async def answer(self) -> Answer:
        """Return the first answer that begins; the caller of this method closes it.

        `context.record` is set to its record, or to the record of the attempt whose failure is raised.

        Raises:
            ProxyError: the failure of the last target, or the first error with which no other target may be tried.
        """
        for target in self._plan.replicas_to_load:
            self._shared.serving.upstreams[target.upstream].load()
        try:
            answer = await self._first_answer()
        except BaseException as error:
            self._context.record = self._record_of(error)
            raise
        self._context.record, self._cancelled_record = answer.record, None
        return answer

    async def _first_answer(self) -> Answer:
        clock = self._shared.clock
        while (next_attempt := self._schedule.next_attempt(clock.monotonic_s())) is not None:
            if next_attempt.pause_s:
                if clock.monotonic_s() + next_attempt.pause_s > self._wait_until_s:
                    break
                await clock.sleep(next_attempt.pause_s)
            try:
                return (
                    await self._hedged(next_attempt)
                    if self._may_hedge
                    else await self._continuable_attempt(next_attempt)
                )
            except ProxyError as error:
                if not error.may_try_another_target:
                    raise
                drop_references(error)
        raise self._final_error()

    def _record_of(self, error: BaseException) -> AttemptRecord:
        """The record of the attempt that raised `error`; for a cancellation, that of the first cancelled attempt."""
        if not isinstance(error, ProxyError) and self._cancelled_record is not None:
            return self._cancelled_record
        failed = next((record for failure, record in self._failures if failure is error), None)
        return failed or (self._failures[-1][1] if self._failures else AttemptRecord())

    # --- one attempt ----------------------------------------------------------------------------------------------

    async def _continuable_attempt(self, next_attempt: NextAttempt) -> Answer:
        """Make an attempt; if the request allows it, the answer can be continued by other targets after a break."""
        if not self._may_continue:
            return await self._attempt(next_attempt, self._request, None)
        continuation = StreamContinuation(self._request, self._context, next_attempt.target.name)
        answer = await self._attempt(next_attempt, self._request, continuation)
        return ContinuingAnswer(
            answer,
            continuation,
            self._request,
            context=self._context,
            continue_elsewhere=partial(self._continue_elsewhere, continuation),
        )

    async def _attempt(
        self, next_attempt: NextAttempt, request: ModelRequest, continuation: StreamContinuation | None
    ) -> Answer:
        shared, context, target = self._shared, self._context, next_attempt.target
        record = AttemptRecord(target.upstream, target.model)
        context.attempts += 1
        began_s = shared.clock.monotonic_s()
        # the last resort (`can_wait`) is tried even if it is ejected, as every target is in a panic
        in_flight = shared.serving.target_registry.begin(
            target, self._routing_request, in_panic=self._plan.is_panic or next_attempt.can_wait
        )
        if in_flight is None:
            error = _target_busy(shared.serving.target_registry.stats_of(target))
            self._record_failure(next_attempt, record, error, began_s)
            raise error
        record.on_first_content = in_flight.note_first_content
        lease = AnswerLease(record, in_flight, self._routing_request, context)
        try:
            lease.slot = await self._acquire_slot(next_attempt)
            lease.set_answer(await self._run_attempt(next_attempt, request, continuation, record))
            if not target.is_local:
                shared.note_reachability(target.upstream)
        except ProxyError as error:
            lease.release(error)
            self._record_failure(next_attempt, record, error, began_s)
            raise
        except BaseException:
            lease.release()
            self._cancelled_record = self._cancelled_record or record
            raise
        finally:
            context.note_sent(record.sent_s)
        return lease

    async def _run_attempt(
        self,
        next_attempt: NextAttempt,
        request: ModelRequest,
        continuation: StreamContinuation | None,
        record: AttemptRecord,
    ) -> Answer:
        serving, target = self._shared.serving, next_attempt.target
        attempt = Attempt(
            serving.upstreams[target.upstream],
            target,
            request,
            record=record,
            context=self._context,
            reasoning_memory=serving.reasoning_memory,
            continuation=continuation,
        )
        return await attempt.run(can_wait=next_attempt.can_wait, may_leave=next_attempt.may_leave)

    async def _acquire_slot(self, next_attempt: NextAttempt) -> Slot | None:
        concurrency_limit = self._shared.serving.concurrency.get(next_attempt.target.upstream)
        if concurrency_limit is None:
            return None
        until_s, overflow_s = self._wait_until_s, self._plan.settings.overflow_ttft_s
        if next_attempt.can_queue and overflow_s is not None:
            until_s = min(until_s, self._context.started_s + overflow_s)
        return await concurrency_limit.acquire(
            caller=self._context.caller,
            priority=self._context.priority,
            tokens=self._routing_request.tokens,
            can_wait=next_attempt.can_wait or next_attempt.can_queue,
            deadline_s=until_s,
        )

    def _record_failure(
        self, next_attempt: NextAttempt, record: AttemptRecord, error: ProxyError, began_s: float
    ) -> None:
        shared, target = self._shared, next_attempt.target
        now_s = shared.clock.monotonic_s()
        has_other_key = record.credential is not None and record.credential.has_other(target.model)
        self._schedule.failed(next_attempt, error, now_s=now_s, took_s=now_s - began_s, has_other_key=has_other_key)
        was_tried = not isinstance(error, _NOT_TRIED)
        if not was_tried:
            self._context.attempts -= 1
            self._busy_error = error
        # the last failure is the one that is reported, so the errors of targets that were not tried go to the front
        self._failures.insert(len(self._failures) if was_tried else 0, (error, record))
        if not target.is_local:
            self._record_reachability(target.upstream, error)
        shared.record_failure(self._context, record, error)

    def _record_reachability(self, upstream: str, error: ProxyError) -> None:
        """Record whether the host was reached; one request records a failed connection to a host only once."""
        if isinstance(error, UpstreamError) and error.is_unconnected:
            if upstream in self._unreachable:
                return
            self._unreachable.add(upstream)
        self._shared.note_reachability(upstream, error)

    def _final_error(self) -> ProxyError:
        """The error for the caller when nothing is left to try."""
        error = self._failures[-1][0] if self._failures else InternalError("a model without targets")
        if isinstance(error, EngineUnavailable) and self._routing_request.reach == "local_only":
            return LocalModelUnavailable(error.message, retry_after_s=error.retry_after_s)
        is_retry_after_known = error.is_stated if isinstance(error, UpstreamError) else error.retry_after_s is not None
        if self._busy_error is not None and not is_retry_after_known:  # the busy target may be free soon
            error.retry_after_s = self._busy_error.retry_after_s
        elif self._schedule.is_exhausted and not is_retry_after_known:
            error.should_retry = False
        return error

    # --- the rest of an answer ------------------------------------------------------------------------------------

    async def _continue_elsewhere(
        self, continuation: StreamContinuation, request: ModelRequest, broken: AttemptRecord, failure: ProxyError
    ) -> Answer | None:
        """See `continuing_answer.ContinueElsewhere`; tries each target of the plan at most once for one answer."""
        shared = self._shared
        self._used_for_parts.add(broken.name)
        for target in self._plan.targets:
            if target.name in self._used_for_parts or not shared.serving.upstreams[
                target.upstream
            ].dialect.can_continue(request.endpoint):
                continue
            if not self._budgets.retries.withdraw():
                break
            self._used_for_parts.add(target.name)
            continuation.add_target(target.name)
            try:
                answer = await self._attempt(NextAttempt(target), request, continuation)
            except ProxyError as error:  # recorded; the caller receives the error of the break
                drop_references(error)
                continuation.targets.pop()
            except BaseException:
                self._context.record = self._cancelled_record or broken
                raise
            else:
                shared.record_continuation(self._context, broken, failure, answer.record)
                return answer
        return None

    # --- a second attempt beside the first one --------------------------------------------------------------------

    @property
    def _may_hedge(self) -> bool:
        """Whether to hedge: only the first attempt of a request, and only if there is another target."""
        return self._plan.settings.hedge and not self._schedule.tries and len(self._plan.ranked) > 1

    async def _hedged(self, next_attempt: NextAttempt) -> Answer:
        after_s = self._shared.serving.target_registry.stats_of(next_attempt.target).latency.p95_wait_s(
            is_stream=self._routing_request.is_stream
        )
        if after_s is None:
            return await self._continuable_attempt(next_attempt)
        return await race(self._continuable_attempt(next_attempt), after_s, self._begin_second)

    def _begin_second(self) -> Coroutine[Any, Any, Answer] | None:
        if not self._budgets.hedges.withdraw():
            return None
        next_attempt = self._schedule.next_attempt(self._shared.clock.monotonic_s())
        if next_attempt is None:
            return None
        self._shared.settlement.metrics.count_hedge(self._context.model)
        return self._continuable_attempt(next_attempt)


def _target_busy(stats: TargetStats) -> TargetBusy:
    """The error that says why the target registry refused the attempt."""
    if cooldown_s := stats.cooldown_s:
        message = f"The host of the target {stats.target.name} asked for no requests for now (Retry-After)."
        return TargetBusy(message, status=503, retry_after_s=cooldown_s)
    return TargetBusy(f"The target {stats.target.name} has failed too often and gets no requests for now.")
