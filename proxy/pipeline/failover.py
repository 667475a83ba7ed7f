"""Walk the candidates until one answers; never after the commit point."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from proxy.errors import InternalError, ProxyError
from proxy.pipeline.attempt import Answer, Attempt
from proxy.pipeline.context import RequestContext
from proxy.pipeline.settlement import Settlement
from proxy.pipeline.upstream import Upstream
from proxy.protocol.request import ModelRequest
from proxy.routing import Target


class Failover:
    """Tries targets in the order given. The commit point is the first parsed event: from then on a failure is told."""

    def __init__(self, upstreams: Mapping[str, Upstream], settlement: Settlement) -> None:
        self._upstreams = upstreams
        self._settlement = settlement

    @asynccontextmanager
    async def first_to_answer(
        self, candidates: Sequence[Target], request: ModelRequest, context: RequestContext
    ) -> AsyncIterator[Answer]:
        """The first answer; the attempt behind it is closed when the block is left.

        Raises:
            ProxyError: what the last candidate failed with, or the first error that another target would not mend.
        """
        failure: ProxyError = InternalError("a model without targets")
        for target in candidates:
            attempt = Attempt(self._upstreams[target.upstream], target.model, request, context)
            context.attempts += 1
            context.upstream = target.upstream
            try:
                answer = await attempt.__aenter__()
            except ProxyError as error:
                self._settlement.failed_attempt(context, target.upstream, error)
                if not error.may_try_another_target:
                    raise
                failure = error
                continue
            try:
                yield answer
            except ProxyError as error:
                self._settlement.failed_attempt(context, target.upstream, error)
                raise
            finally:
                await attempt.__aexit__()
            return
        raise failure
