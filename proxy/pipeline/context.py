"""`RequestContext`: what the phases of one request share."""

from typing import Protocol

from proxy.clock import Clock
from proxy.protocol.usage import Usage


class Principal(Protocol):
    """Who is calling."""

    @property
    def name(self) -> str:
        """For logs; never a secret."""


class RequestContext:
    """One request from first byte to settlement; owned by the front door, written by the phases, read by settlement.

    Times are monotonic seconds of `clock`, 0 where the moment has not come.

    Attributes:
        caller_retries: `x-stainless-retry-count`, how often the SDK has tried already.
        upstream: the name of the target that answered, or of the last that was tried.
        attempts: how many targets were tried.
        has_begun: set by the door when a status line has left: errors from now on are told in band.
        is_client_gone: set by the door before it cancels the task.
        is_aborted: set by the server when the grace time is over.
    """

    __slots__ = (
        "attempts",
        "caller_retries",
        "clock",
        "created",
        "endpoint",
        "first_content_s",
        "has_begun",
        "id",
        "is_aborted",
        "is_client_gone",
        "is_stream",
        "model",
        "principal",
        "received_s",
        "sent_upstream_s",
        "started_s",
        "upstream",
        "usage",
    )

    def __init__(self, request_id: str, endpoint: str, clock: Clock, *, caller_retries: int = 0) -> None:
        self.id = request_id
        self.endpoint = endpoint
        self.clock = clock
        self.caller_retries = caller_retries
        self.created = int(clock.now_s())
        self.started_s = clock.monotonic_s()
        self.received_s = 0.0
        self.sent_upstream_s = 0.0
        self.first_content_s = 0.0
        self.model = ""
        self.principal: Principal | None = None
        self.is_stream = False
        self.upstream = ""
        self.attempts = 0
        self.usage: Usage | None = None
        self.has_begun = False
        self.is_client_gone = False
        self.is_aborted = False
