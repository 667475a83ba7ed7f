"""`Pipeline.open`: the phases of a request in order, in one method that all model endpoints use."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Protocol

from tidegate.auth import Credentials
from tidegate.errors import ProxyError, UpstreamError
from tidegate.pipeline.admission import Admission
from tidegate.pipeline.attempt.attempt import Answer
from tidegate.pipeline.context import RequestContext
from tidegate.pipeline.engine_start_progress import EngineChanges
from tidegate.pipeline.engine_start_stream import with_progress
from tidegate.pipeline.failover import first_answer
from tidegate.pipeline.failover_context import FailoverContext
from tidegate.pipeline.preferences import Preferences
from tidegate.pipeline.settlement import Settlement
from tidegate.protocol.request import ModelRequest
from tidegate.routing.planner import Plan
from tidegate.routing.request import RoutingRequest

Read = Callable[[], Awaitable[ModelRequest]]


class RequestPlanner(Protocol):
    """Decides which targets may serve a request (see `tidegate.routing.planner`)."""

    async def plan(self, routing_request: RoutingRequest) -> Plan:
        """The targets in the order in which to try them, at least one.

        Raises:
            ModelNotFound: no target has the model.
            ProxyError: no target may take the request now.
        """


class Pipeline:
    """Serves model requests; one object for all requests and all front doors.

    Args:
        changes: calls its listeners when the status of an engine has changed.
    """

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

    def settle_without_answer(self, context: RequestContext, error: ProxyError | None = None) -> None:
        """Settle a request that never enters `open`: an admin request, an unknown path, a crash of the front door."""
        with suppress(ProxyError), self._settlement.settle(context):
            if error is not None:
                raise error

    @asynccontextmanager
    async def open(self, credentials: Credentials, read: Read, context: RequestContext) -> AsyncIterator[Answer]:
        """Yield the answer once its first content has been read; settle the request on every exit of the block.

        Args:
            credentials: the credentials that the caller sent.
            read: reads and parses the request; called after authentication; raises `RequestError`.
            context: filled in by the phases.

        Raises:
            ProxyError: the front door sends it: with its own status before the answer has begun, in band after.
        """
        with self._settlement.settle(context):
            self._admission.authenticate(credentials, context)
            request = await read()
            context.received_s = context.clock.monotonic_s()
            self._admission.authorise(request, context)
            self._preferences.resolve(request, context)
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
                if answer.record.failure is error:  # else failover has already recorded it
                    self._failover_context.record_failure(context, answer.record, error)
                raise
            finally:
                answer.close()


def routing_request_of(request: ModelRequest, context: RequestContext) -> RoutingRequest:
    """What routing needs of the request."""
    return RoutingRequest(
        request,
        reach=context.reach,
        priority=context.priority,
        session=context.options.session,
        caller=context.caller,
        drops_params=context.drops_params,
    )
