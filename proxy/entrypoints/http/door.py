"""`Door`: what the endpoints share."""

from msgspec import Struct

from proxy.clock import Clock
from proxy.config.server import ServerConfig
from proxy.deadline import Deadlines
from proxy.entrypoints.http.lifeline import Running
from proxy.pipeline.administration import Administration
from proxy.pipeline.chat import Pipeline
from proxy.pipeline.listing import Listing
from proxy.pipeline.readiness import Readiness


class Door(Struct, frozen=True, kw_only=True):
    """The roads behind the front door, and its own state."""

    pipeline: Pipeline
    listing: Listing
    readiness: Readiness
    administration: Administration
    limits: ServerConfig
    running: Running
    clock: Clock
    deadlines: Deadlines
