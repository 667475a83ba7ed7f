"""`Services`: what the endpoints share."""

from collections.abc import Awaitable, Callable

from msgspec import Struct

from tidegate.clock import Clock
from tidegate.config.server import ServerConfig
from tidegate.deadline import Deadlines
from tidegate.entrypoints.http.request_scope import RunningRequests
from tidegate.operations.administration import Administration, ReloadReport
from tidegate.operations.explain import Explaining
from tidegate.operations.feedback import Feedback
from tidegate.operations.listing import Listing
from tidegate.operations.readiness import Readiness
from tidegate.pipeline.request import Pipeline


class Services(Struct, frozen=True, kw_only=True):
    """The roads behind the front door, and its own state; `reload` raises `ConfigError`."""

    pipeline: Pipeline
    listing: Listing
    feedback: Feedback
    readiness: Readiness
    administration: Administration
    explaining: Explaining
    reload: Callable[[], Awaitable[ReloadReport]]
    limits: ServerConfig
    running: RunningRequests
    clock: Clock
    deadlines: Deadlines
