"""`Pipeline.open`: the phases of a request in order, one visible method. All model endpoints take this road."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Protocol

from tidegate.auth import Credentials
from tidegate.errors import ProxyError, UpstreamError
from tidegate.pipeline.admission import Admission
from tidegate.pipeline.attempt.attempt import Answer
from tidegate.pipeline.context import RequestContext
from tidegate.pipeline.failover import first_answer
from tidegate.pipeline.failover_context import FailoverContext
from tidegate.pipeline.load_progress import EngineChanges
from tidegate.pipeline.preferences import Preferences
from tidegate.pipeline.progress_stream import with_progress
from tidegate.pipeline.settlement import Settlement
from tidegate.protocol.request import ModelRequest
from tidegate.routing.planner import Plan
from tidegate.routing.request import RoutingRequest

Read = Callable[[], Awaitable[ModelRequest]]


class RequestPlanner(Protocol):
    """Which targets may serve a request (see `tidegate.routing.planner`)."""

    async def plan(self, routing_request: RoutingRequest) -> Plan:
        """At least one, in order; raises `ModelNotFound` and what else may stand in the way."""


class Pipeline:
    """The road; shared by all requests and front doors."""

    def __init__(
        self,
        admission: Admission,
        preferences: Preferences,
        planner: RequestPlanner,
        failover_context: FailoverContext,
        settlement: Settlement,
        changes: EngineChanges,
    ) -> None:
        self._admission = admission
        self._preferences = preferences
        self._planner = planner
        self._failover_context = failover_context
        self._settlement = settlement
        self._changes = changes

    def note(self, context: RequestContext, error: ProxyError | None = None) -> None:
        """Settle a request that takes no road: the administrator's, no such path, a crash at the door."""
        with suppress(ProxyError), self._settlement.settle(context):
            if error is not None:
                raise error

    @asynccontextmanager
    async def open(self, credentials: Credentials, read: Read, context: RequestContext) -> AsyncIterator[Answer]:
        """Yield the answer once its first content is read; settle however the block exits.

        Args:
            credentials: what the caller showed.
            read: the front door's reading of the request, done only for callers we know; raises `RequestError`.
            context: what is noted on the way.

        Raises:
            ProxyError: for the front door to render, in its status before the answer has begun, in band after.
        """
        with self._settlement.settle(context):
            self._admission.authenticate(credentials, context)
            request = await read()
            context.received_s = context.clock.monotonic_s()
            self._admission.authorise(request, context)
            self._preferences.choose(request, context)
            routing_request = routing_request_of(request, context)
            context.task = routing_request.task
            plan = await self._planner.plan(routing_request)
            answering = first_answer(self._failover_context, plan, routing_request, request, context)
            if plan.settings.progress_in is not None:
                answering = with_progress(answering, request, context, self._changes)
            answer = await answering
            try:
                yield answer
            except UpstreamError as error:
                if answer.record.failure is error:  # failover has noted failures before an answer already
                    self._failover_context.failed(context, answer.record, error)
                raise
            finally:
                answer.close()


def routing_request_of(request: ModelRequest, context: RequestContext) -> RoutingRequest:
    """The request as routing sees it."""
    return RoutingRequest(
        request,
        reach=context.reach,
        priority=context.priority,
        session=context.options.session,
        caller=context.caller,
        drops_params=context.drops_params,
    )
