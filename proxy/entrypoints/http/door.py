"""`Door`: what the endpoints share."""

from collections.abc import Awaitable, Callable

from msgspec import Struct

from proxy.clock import Clock
from proxy.config.server import ServerConfig
from proxy.deadline import Deadlines
from proxy.entrypoints.http.lifeline import Running
from proxy.pipeline.administration import Administration, ReloadReport
from proxy.pipeline.chat import Pipeline
from proxy.pipeline.explaining import Explaining
from proxy.pipeline.feedback import Feedback
from proxy.pipeline.listing import Listing
from proxy.pipeline.readiness import Readiness


class Door(Struct, frozen=True, kw_only=True):
    """The roads behind the front door, and its own state; `reload` raises `ConfigError`."""

    pipeline: Pipeline
    listing: Listing
    feedback: Feedback
    readiness: Readiness
    administration: Administration
    explaining: Explaining
    reload: Callable[[], Awaitable[ReloadReport]]
    limits: ServerConfig
    running: Running
    clock: Clock
    deadlines: Deadlines
