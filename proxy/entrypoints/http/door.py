"""`Door`: what the endpoints share."""

from msgspec import Struct

from proxy.clock import Clock
from proxy.deadline import Deadlines
from proxy.entrypoints.http.lifeline import Running
from proxy.pipeline.chat import Pipeline
from proxy.pipeline.listing import Listing
from proxy.pipeline.readiness import Readiness


class Limits(Struct, frozen=True, kw_only=True):
    """What callers are held to, and how often they hear something (see `proxy.config.server`)."""

    max_body_bytes: int
    body_timeout_s: float
    comment_every_s: float
    empty_chunk_every_s: float


class Door(Struct, frozen=True, kw_only=True):
    """The roads behind the front door, and its own state."""

    pipeline: Pipeline
    listing: Listing
    readiness: Readiness
    limits: Limits
    running: Running
    clock: Clock
    deadlines: Deadlines
