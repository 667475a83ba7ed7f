"""The way of one request from target to target.

What to try next is decided by `routing.itinerary`; here it is done: a place at the target's door is taken, the attempt
made, and what became of it reported to the board.
"""

from collections.abc import Coroutine
from functools import partial
from random import Random
from typing import Any

from msgspec import Struct

from tidegate.clock import Clock
from tidegate.config.routing import RetryConfig
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
from tidegate.pipeline.attempt.attempt import Answer, Attempt
from tidegate.pipeline.attempt.held_answer import HeldAnswer
from tidegate.pipeline.attempt.stream_continuation import Joint
from tidegate.pipeline.context import RequestContext, Tried
from tidegate.pipeline.continuation import Continuing, may_continue
from tidegate.pipeline.hedging import race
from tidegate.pipeline.serving_state import Landscape
from tidegate.pipeline.settlement import Settlement
from tidegate.pipeline.upstream import Place
from tidegate.protocol.request import ModelRequest
from tidegate.routing.planner import Plan
from tidegate.routing.request import Ask
from tidegate.routing.retry_budget import Budget
from tidegate.routing.schedule import Itinerary, Step
from tidegate.routing.target_registry import Standing

_NOT_TRIED = (EngineUnavailable, TargetBusy)


class Purse(Struct, frozen=True):
    """What one model may spend on further tries."""

    retries: Budget
    hedges: Budget


class Grounds:
    """What all walks have in common: where they go, by which rules, and who is told.

    Args:
        dice: for pauses.
    """

    def __init__(
        self, land: Landscape, settlement: Settlement, *, retry: RetryConfig, clock: Clock, dice: Random
    ) -> None:
        self.land = land
        self.settlement = settlement
        self.retry = retry
        self.clock = clock
        self.dice = dice

    def failed(self, context: RequestContext, tried: Tried, error: ProxyError) -> None:
        """Note that a try failed; the secrets of all upstreams are masked in the error."""
        self.land.upstreams.mask(error)
        self.settlement.failed_attempt(context, tried, error)

    def continued(self, context: RequestContext, broken: Tried, failure: ProxyError, mended: Tried) -> None:
        """Note a break that another target has mended."""
        self.failed(context, broken, failure)
        self.settlement.continued(context, broken, mended)

    def heard(self, upstream: str, error: ProxyError | None = None) -> None:
        """A host elsewhere answered, or failed; what failed before it was asked says nothing."""
        if error is not None and not isinstance(error, UpstreamError):
            return
        if error is not None and error.is_unconnected:
            if self.land.offline.unreachable(upstream):
                self.settlement.log.warning("offline", reason="no host elsewhere can be reached")
        elif not isinstance(error, UpstreamTimeout) and self.land.offline.reached(upstream):
            self.settlement.log.warning("online again", upstream=upstream)


class Walk:
    """The way of one request from target to target; `answer` is called once."""

    def __init__(
        self, grounds: Grounds, purse: Purse, plan: Plan, ask: Ask, request: ModelRequest, context: RequestContext
    ) -> None:
        self._grounds = grounds
        self._plan = plan
        self._ask = ask
        self._request = request
        self._context = context
        self._purse = purse
        purse.retries.deposit()
        if plan.settings.hedge:
            purse.hedges.deposit()
        self._itinerary = Itinerary(
            plan.targets,
            retry=grounds.retry,
            withdraw=purse.retries.withdraw,
            dice=grounds.dice,
            favoured=plan.favoured if "local_first" in {plan.settings.policy, ask.reach} else 0,
        )
        self._failures: list[tuple[ProxyError, Tried]] = []
        self._cut: Tried | None = None  # the first attempt that was cancelled
        self._busy: ProxyError | None = None  # why a target was not tried
        self._goes_on = plan.settings.on_stream_failure == "continue" and may_continue(request)
        self._parts: set[str] = set()  # targets that gave a part of the answer, or could not
        self._unreached: set[str] = set()  # hosts that could not be connected to
        patience_s = min(plan.settings.deadline_s or float("inf"), context.patience_s or float("inf"))
        self._until_s = context.started_s + patience_s

    async def answer(self) -> Answer:
        """The first answer, which the caller closes; `context.tried` is its record, or that of the failure.

        Raises:
            ProxyError: what the last target failed with, or the first error that another target would not mend.
        """
        for target in self._plan.loads:
            self._grounds.land.upstreams[target.upstream].load()
        try:
            answer = await self._first_answer()
        except BaseException as error:
            self._context.tried = self._record_of(error)
            raise
        self._context.tried, self._cut = answer.tried, None
        return answer

    async def _first_answer(self) -> Answer:
        clock = self._grounds.clock
        while (step := self._itinerary.step(clock.monotonic_s())) is not None:
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
        raise self._last_word()

    def _record_of(self, error: BaseException) -> Tried:
        """The record of the attempt that raised `error`; of the first one cancelled, if that ended the request."""
        if not isinstance(error, ProxyError) and self._cut is not None:
            return self._cut
        failed = next((tried for failure, tried in self._failures if failure is error), None)
        return failed or (self._failures[-1][1] if self._failures else Tried())

    # --- one try --------------------------------------------------------------------------------------------------

    async def _try(self, step: Step) -> Answer:
        """A whole answer or the first part of one, with all that its end has to be told to."""
        if not self._goes_on:
            return await self._attempt(step, self._request, None)
        joint = Joint(self._request, self._context, step.target.name)
        answer = await self._attempt(step, self._request, joint)
        return Continuing(
            answer,
            joint,
            self._request,
            context=self._context,
            go_on=partial(self._go_on, joint),
        )

    async def _attempt(self, step: Step, request: ModelRequest, joint: Joint | None) -> Answer:
        grounds, context, target = self._grounds, self._context, step.target
        tried = Tried(target.upstream, target.model)
        context.attempts += 1
        began_s = grounds.clock.monotonic_s()
        flight = grounds.land.board.begin(target, self._ask, in_panic=self._plan.is_panic or step.can_wait)
        if flight is None:
            error = _busy(grounds.land.board.of(target))
            self._note(step, tried, error, began_s)
            raise error
        tried.on_first_content = flight.began
        held = HeldAnswer(tried, flight, self._ask, context)
        try:
            held.place = await self._place(step)
            held.set_answer(await self._run(step, request, joint, tried))
            if not target.is_local:
                grounds.heard(target.upstream)
        except ProxyError as error:
            held.give_back(error)
            self._note(step, tried, error, began_s)
            raise
        except BaseException:
            held.give_back()
            self._cut = self._cut or tried
            raise
        finally:
            context.note_sent(tried.sent_s)
        return held

    async def _run(self, step: Step, request: ModelRequest, joint: Joint | None, tried: Tried) -> Answer:
        land, target = self._grounds.land, step.target
        attempt = Attempt(
            land.upstreams[target.upstream],
            target,
            request,
            tried=tried,
            context=self._context,
            memory=land.memory,
            joint=joint,
        )
        return await attempt.run(can_wait=step.can_wait, can_move=step.can_move)

    async def _place(self, step: Step) -> Place | None:
        gate = self._grounds.land.gates.get(step.target.upstream)
        if gate is None:
            return None
        until_s, overflow_s = self._until_s, self._plan.settings.overflow_ttft_s
        if step.can_queue and overflow_s is not None:
            until_s = min(until_s, self._context.started_s + overflow_s)
        return await gate.enter(
            caller=self._context.caller,
            priority=self._context.priority,
            tokens=self._ask.tokens,
            can_wait=step.can_wait or step.can_queue,
            deadline_s=until_s,
        )

    def _note(self, step: Step, tried: Tried, error: ProxyError, began_s: float) -> None:
        grounds, target = self._grounds, step.target
        now_s = grounds.clock.monotonic_s()
        has_other_key = tried.credential is not None and tried.credential.has_other(target.model)
        self._itinerary.failed(step, error, now_s=now_s, took_s=now_s - began_s, has_other_key=has_other_key)
        was_tried = not isinstance(error, _NOT_TRIED)
        if not was_tried:
            self._context.attempts -= 1
            self._busy = error
        # the last failure is the one reported, so those of targets that were not tried come first
        self._failures.insert(len(self._failures) if was_tried else 0, (error, tried))
        if not target.is_local:
            self._hear(target.upstream, error)
        grounds.failed(self._context, tried, error)

    def _hear(self, upstream: str, error: ProxyError) -> None:
        """One request tells only once that a host cannot be connected to, however often it tries."""
        if isinstance(error, UpstreamError) and error.is_unconnected:
            if upstream in self._unreached:
                return
            self._unreached.add(upstream)
        self._grounds.heard(upstream, error)

    def _last_word(self) -> ProxyError:
        """What the caller is told when nothing is left to be tried."""
        error = self._failures[-1][0] if self._failures else InternalError("a model without targets")
        if isinstance(error, EngineUnavailable) and self._ask.reach == "local_only":
            return LocalModelUnavailable(error.message, retry_after_s=error.retry_after_s)
        is_told = error.is_told if isinstance(error, UpstreamError) else error.retry_after_s is not None
        if self._busy is not None and not is_told:  # that one may have room soon
            error.retry_after_s = self._busy.retry_after_s
        elif self._itinerary.is_exhausted and not is_told:
            error.should_retry = False
        return error

    # --- the rest of an answer ------------------------------------------------------------------------------------

    async def _go_on(self, joint: Joint, request: ModelRequest, broken: Tried, failure: ProxyError) -> Answer | None:
        """See `continuation.GoOn`: the targets of the plan that have not been part of this answer, and can go on."""
        grounds = self._grounds
        self._parts.add(broken.name)
        for target in self._plan.targets:
            if target.name in self._parts or not grounds.land.upstreams[target.upstream].dialect.can_go_on(
                request.endpoint
            ):
                continue
            if not self._purse.retries.withdraw():
                break
            self._parts.add(target.name)
            joint.hand_on(target.name)
            try:
                answer = await self._attempt(Step(target), request, joint)
            except ProxyError as error:  # noted; the caller is told of the break itself
                forget_way(error)
                joint.targets.pop()
            except BaseException:
                self._context.tried = self._cut or broken
                raise
            else:
                grounds.continued(self._context, broken, failure, answer.tried)
                return answer
        return None

    # --- a second one beside it -----------------------------------------------------------------------------------

    @property
    def _may_hedge(self) -> bool:
        """Only the first try, and only where there is somebody else."""
        return self._plan.settings.hedge and not self._itinerary.tries and len(self._plan.placed) > 1

    async def _hedged(self, step: Step) -> Answer:
        after_s = self._grounds.land.board.of(step.target).latency.p95_wait_s(is_stream=self._ask.is_stream)
        if after_s is None:
            return await self._try(step)
        return await race(self._try(step), after_s, self._second)

    def _second(self) -> Coroutine[Any, Any, Answer] | None:
        if not self._purse.hedges.withdraw():
            return None
        step = self._itinerary.step(self._grounds.clock.monotonic_s())
        if step is None:
            return None
        self._grounds.settlement.metrics.hedged(self._context.model)
        return self._try(step)


def _busy(standing: Standing) -> TargetBusy:
    """Why the target may not be tried now."""
    if cooldown_s := standing.cooldown_s:
        message = f"The host of the target {standing.target.name} asked to wait."
        return TargetBusy(message, status=503, retry_after_s=cooldown_s)
    return TargetBusy(f"The target {standing.target.name} is being tried again.")
