"""Walk the candidates until one answers; never after the commit point."""

from collections.abc import Mapping, Sequence

from proxy.errors import InternalError, ProxyError
from proxy.memory import Memory
from proxy.pipeline.attempt import Answer, Attempt
from proxy.pipeline.context import RequestContext, Tried
from proxy.pipeline.settlement import Settlement
from proxy.pipeline.upstream import Upstream
from proxy.protocol.request import ModelRequest
from proxy.routing.targets import Target


class Failover:
    """Tries targets in the order given. The commit point is the first parsed event: from then on a failure is told."""

    def __init__(self, upstreams: Mapping[str, Upstream], settlement: Settlement, memory: Memory) -> None:
        self._upstreams = upstreams
        self._memory = memory
        self._settlement = settlement

    async def first_to_answer(
        self, candidates: Sequence[Target], request: ModelRequest, context: RequestContext
    ) -> Answer:
        """The first answer, which the caller closes.

        Raises:
            ProxyError: what the last candidate failed with, or the first error that another target would not mend.
        """
        failure: ProxyError = InternalError("a model without targets")
        for number, target in enumerate(candidates, start=1):
            context.attempts += 1
            context.tried = tried = Tried(target.upstream, target.model)
            try:
                upstream = self._upstreams[target.upstream]
                attempt = Attempt(upstream, target, request, tried=tried, context=context, memory=self._memory)
                return await attempt.run(can_wait=number == len(candidates))
            except ProxyError as error:
                self.failed(context, error)
                if not error.may_try_another_target:
                    raise
                failure = error
        raise failure

    def failed(self, context: RequestContext, error: ProxyError) -> None:
        """Note that the attempt at `context.tried.upstream` failed; the error loses what no caller may see."""
        self._upstreams[context.tried.upstream].mask(error)
        self._settlement.failed_attempt(context, error)
