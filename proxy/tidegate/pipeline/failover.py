"""From a plan to an answer: target after target until one answers; never after the commit point.

The way of one request is a `walk.Walk`; here is what limits it, and what all have in common.
"""

import asyncio
from collections.abc import Mapping
from random import Random

from tidegate.clock import Clock
from tidegate.config.models import ModelConfig
from tidegate.config.routing import RetryConfig
from tidegate.deadline import Deadline, Deadlines
from tidegate.errors import ProxyError, UpstreamTimeout
from tidegate.pipeline.attempt.attempt import Answer
from tidegate.pipeline.context import RequestContext, Tried
from tidegate.pipeline.serving_state import Landscape
from tidegate.pipeline.settlement import Settlement
from tidegate.pipeline.walk import Grounds, Purse, Walk
from tidegate.protocol.request import ModelRequest
from tidegate.routing.planner import Plan
from tidegate.routing.request import Ask
from tidegate.routing.retry_budget import Budget

_HEDGED_SHARE = 0.05
_HEDGED_S = 600.0  # what that is a share of: long enough for a model that is seldom asked to have one at all


class Failover:
    """Shared by all requests; owner of the budgets.

    Args:
        models: the configured ones; the others share a purse.
        dice: for pauses.
    """

    def __init__(
        self,
        land: Landscape,
        settlement: Settlement,
        *,
        models: Mapping[str, ModelConfig],
        retry: RetryConfig,
        clock: Clock,
        dice: Random,
    ) -> None:
        self._grounds = Grounds(land, settlement, retry=retry, clock=clock, dice=dice)
        self._deadlines = Deadlines()
        self._others = _purse(retry, clock)
        self._purses = {name: _purse(retry, clock) for name in models}

    async def first_to_answer(self, plan: Plan, ask: Ask, request: ModelRequest, context: RequestContext) -> Answer:
        """The first answer, which the caller closes.

        Raises:
            ProxyError: what the last target failed with, or the first error that another target would not mend.
        """
        walk = Walk(self._grounds, self._purses.get(context.model, self._others), plan, ask, request, context)
        limit_s = plan.settings.deadline_s
        if limit_s is None:
            return await walk.answer()
        deadline = Deadline(self._deadlines, limit_s)
        deadline.start()
        try:
            return await walk.answer()
        except asyncio.CancelledError:
            if deadline.has_expired():
                late = f"No target has answered within {limit_s:g} s, the model's deadline_s."
                raise UpstreamTimeout(late, should_retry=False) from None
            raise
        finally:
            deadline.stop()

    def failed(self, context: RequestContext, tried: Tried, error: ProxyError) -> None:
        """Note that a try failed after it had begun; the error loses what no caller may see."""
        self._grounds.failed(context, tried, error)


def _purse(retry: RetryConfig, clock: Clock) -> Purse:
    return Purse(
        retries=Budget(clock, retry.budget_share, retry.budget_per_s),
        hedges=Budget(clock, _HEDGED_SHARE, 0.0, keep_s=_HEDGED_S),
    )
