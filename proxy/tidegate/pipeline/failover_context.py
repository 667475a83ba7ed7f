"""`FailoverContext`: what the failover of all requests shares: the serving state, retry rules and retry budgets."""

from collections.abc import Mapping
from random import Random

from msgspec import Struct

from tidegate.clock import Clock
from tidegate.config.models import ModelConfig
from tidegate.config.routing import RetryConfig
from tidegate.deadline import Deadlines
from tidegate.errors import ProxyError, UpstreamError, UpstreamTimeout
from tidegate.pipeline.context import AttemptRecord, RequestContext
from tidegate.pipeline.settlement import Settlement
from tidegate.pipeline.upstream import ServingState
from tidegate.routing.retry_budget import RetryBudget

_HEDGE_SHARE = 0.05  # the most hedged attempts, as a share of the requests
_HEDGE_PERIOD_S = 600.0  # the period of that share; long enough that a model with few requests gets a hedge at all


class RetryBudgets(Struct, frozen=True):
    """The budgets of one model for attempts beyond the first one of a request.

    Attributes:
        retries: for attempts after a failure.
        hedges: for attempts beside a slow one.
    """

    retries: RetryBudget
    hedges: RetryBudget


class FailoverContext:
    """One object for all requests; owner of the retry budgets.

    Args:
        models: the configured models.
        rng: draws the random pauses between attempts.

    Attributes:
        budgets_by_model: of each configured model, by its public name.
        other_budgets: shared by all other models.
    """

    def __init__(
        self,
        serving: ServingState,
        settlement: Settlement,
        *,
        models: Mapping[str, ModelConfig],
        retry: RetryConfig,
        clock: Clock,
        rng: Random,
    ) -> None:
        self.serving = serving
        self.settlement = settlement
        self.retry = retry
        self.clock = clock
        self.rng = rng
        self.deadlines = Deadlines()
        self.other_budgets = self._new_budgets()
        self.budgets_by_model = {name: self._new_budgets() for name in models}

    def record_failure(self, context: RequestContext, record: AttemptRecord, error: ProxyError) -> None:
        """Log and count a failed attempt; the secrets of all upstreams are masked in the error."""
        self.serving.upstreams.mask(error)
        self.settlement.record_failed_attempt(context, record, error)

    def record_continuation(
        self, context: RequestContext, broken: AttemptRecord, failure: ProxyError, continuing: AttemptRecord
    ) -> None:
        """Log and count a broken answer that the attempt `continuing` continues."""
        self.record_failure(context, broken, failure)
        self.settlement.record_continuation(context, broken, continuing)

    def note_reachability(self, upstream: str, error: ProxyError | None = None) -> None:
        """Record whether a hosted upstream could be reached: it answered, or failed with `error`.

        Nothing is recorded for an error that was raised before the host was contacted, nor for a timeout after the
        connection was made.
        """
        if error is not None and not isinstance(error, UpstreamError):
            return
        if error is not None and error.is_unconnected:
            if self.serving.offline.report_unreachable(upstream):
                self.settlement.log.warning("offline", reason="no hosted upstream can be reached")
        elif not isinstance(error, UpstreamTimeout) and self.serving.offline.report_reached(upstream):
            self.settlement.log.warning("online again", upstream=upstream)

    def _new_budgets(self) -> RetryBudgets:
        return RetryBudgets(
            retries=RetryBudget(self.clock, self.retry.budget_share, self.retry.budget_per_s),
            hedges=RetryBudget(self.clock, _HEDGE_SHARE, 0.0, keep_s=_HEDGE_PERIOD_S),
        )
