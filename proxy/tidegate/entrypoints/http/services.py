"""`Services`: the dependencies of the HTTP endpoints."""

from collections.abc import Awaitable, Callable

from msgspec import Struct

from tidegate.clock import Clock
from tidegate.config.server import ServerConfig
from tidegate.deadline import Deadlines
from tidegate.entrypoints.http.request_scope import RunningRequests
from tidegate.operations.administration import EngineAdministration, ReloadReport
from tidegate.operations.explain import Explainer
from tidegate.operations.feedback import Feedback
from tidegate.operations.listing import ModelListing
from tidegate.operations.readiness import Readiness
from tidegate.pipeline.request import Pipeline


class Services(Struct, frozen=True, kw_only=True):
    """Everything that the HTTP endpoints use, built for one config.

    Attributes:
        pipeline: serves chat, completions and embeddings requests.
        listing: lists the models.
        feedback: takes the callers' scores of answers.
        readiness: the health report and the metrics.
        administration: what the administrator may do with engines.
        explainer: shows where a request would go, and the state of the targets.
        reload: reads the config again and applies it; raises `ConfigError`.
        limits: time and size limits of requests and answers.
        running: the requests being served; outlives a reload.
        clock: the source of times.
        deadlines: the time limits on the reading of bodies.
    """

    pipeline: Pipeline
    listing: ModelListing
    feedback: Feedback
    readiness: Readiness
    administration: EngineAdministration
    explainer: Explainer
    reload: Callable[[], Awaitable[ReloadReport]]
    limits: ServerConfig
    running: RunningRequests
    clock: Clock
    deadlines: Deadlines
