"""`Readiness`: whether requests can be served, and the metrics. Details are for loopback and for the administrator."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from tidegate.auth import Credentials, KeyPrincipal
from tidegate.engines.base import EngineStatus
from tidegate.errors import ProxyError


class AdminAuthenticator(Protocol):
    """Authenticates the administrator (see `tidegate.auth.KeyRing`)."""

    def authenticate_admin(self, credentials: Credentials) -> KeyPrincipal:
        """Return the administrator; raises `NotAuthenticated` or `NotPermitted`."""


class EngineWithStatus(Protocol):
    """An engine whose status is reported (see `tidegate.engines.supervision.supervisor`)."""

    @property
    def name(self) -> str:
        """The engine's name in the config."""

    @property
    def status(self) -> EngineStatus:
        """The engine's current status."""


class MetricsSource(Protocol):
    """Holds the metrics (see `tidegate.telemetry.metrics`)."""

    def render(self) -> bytes:
        """Return all metrics in Prometheus' text format."""


class Connectivity(Protocol):
    """Whether the hosted upstreams can be reached (see `tidegate.routing.offline`)."""

    @property
    def is_offline(self) -> bool:
        """Whether requests are sent to local engines only, now."""

    @property
    def is_forced(self) -> bool:
        """Whether that is the operator's setting, and so does not change."""


class ReadinessReport(Struct, frozen=True):
    """Whether requests can be served, and by which engines and upstreams, as JSON.

    Attributes:
        upstreams: the names of the hosted upstreams.
        is_offline: whether the hosted upstreams get no requests now.
    """

    is_ready: bool
    engines: Mapping[str, EngineStatus]
    upstreams: Sequence[str]
    is_offline: bool


class Readiness:
    """Reports readiness and metrics; has no state of its own."""

    def __init__(
        self,
        authenticator: AdminAuthenticator,
        engines: Sequence[EngineWithStatus],
        upstreams: Sequence[str],
        metrics_source: MetricsSource,
        connectivity: Connectivity,
    ) -> None:
        self._authenticator = authenticator
        self._engines = engines
        self._upstreams = upstreams
        self._metrics_source = metrics_source
        self._connectivity = connectivity

    def report(self) -> ReadinessReport:
        """Ready means that at least one model can be served: an engine is ready, or a hosted upstream may be used.

        Upstreams that cannot be reached at the moment still count: the network comes back by itself, and a restart on
        another machine would not help.
        """
        engines = {engine.name: engine.status for engine in self._engines}
        may_use_upstreams = bool(self._upstreams) and not self._connectivity.is_forced
        is_ready = may_use_upstreams or any(status.state == "ready" for status in engines.values())
        return ReadinessReport(is_ready, engines, self._upstreams, self._connectivity.is_offline)

    def may_see_details(self, credentials: Credentials) -> bool:
        """Whether the request comes from this machine or has the admin key."""
        try:
            self.check_details(credentials)
        except ProxyError:
            return False
        return True

    def check_details(self, credentials: Credentials) -> None:
        """Return if the request comes from this machine or has the admin key.

        Raises:
            NotAuthenticated, NotPermitted: neither is true.
        """
        if not credentials.is_local:
            self._authenticator.authenticate_admin(credentials)

    def check_admin(self, credentials: Credentials) -> None:
        """Return if the request has the admin key or, if none is configured, comes from this machine.

        Raises:
            NotAuthenticated, NotPermitted: the caller is not the administrator.
        """
        self._authenticator.authenticate_admin(credentials)

    def metrics(self, credentials: Credentials) -> bytes:
        """All metrics in Prometheus' text format.

        Raises:
            NotAuthenticated, NotPermitted: the request is not from this machine, and has no admin key.
        """
        self.check_details(credentials)
        return self._metrics_source.render()
