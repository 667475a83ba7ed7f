"""What operators ask: is it up, can it serve, what has it counted. Details are for the administrator off loopback."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from tidegate.auth import Credentials, KeyPrincipal
from tidegate.engines.base import EngineStatus
from tidegate.errors import ProxyError


class AdminKeys(Protocol):
    """Who is the administrator (see `tidegate.auth.KeyRing`)."""

    def authenticate_admin(self, credentials: Credentials) -> KeyPrincipal:
        """Raises `ProxyError`."""


class ReadyEngine(Protocol):
    """What is asked of an engine (see `tidegate.engines.supervision.supervisor`)."""

    @property
    def name(self) -> str:
        """As configured."""

    @property
    def status(self) -> EngineStatus:
        """What it does now."""


class MetricsSource(Protocol):
    """Where the counts are (see `tidegate.telemetry.metrics`)."""

    def render(self) -> bytes:
        """In Prometheus' text format."""


class Line(Protocol):
    """The way to hosts elsewhere (see `tidegate.routing.offline`)."""

    @property
    def is_offline(self) -> bool:
        """Nothing leaves this house now."""

    @property
    def is_forced(self) -> bool:
        """Nor ever, as the operator wants it so."""


class Report(Struct, frozen=True):
    """Whether requests can be served, and by what; `is_offline`: not by the upstreams."""

    is_ready: bool
    engines: Mapping[str, EngineStatus]
    upstreams: Sequence[str]
    is_offline: bool


class Readiness:
    """Reads the state of others; holds nothing of its own."""

    def __init__(
        self,
        keys: AdminKeys,
        engines: Sequence[ReadyEngine],
        upstreams: Sequence[str],
        series: MetricsSource,
        line: Line,
    ) -> None:
        self._keys = keys
        self._engines = engines
        self._upstreams = upstreams
        self._series = series
        self._line = line

    def report(self) -> Report:
        """Ready means that at least one model can be served: an engine answers, or there is a host elsewhere.

        A line that is down at the moment does not count: it comes back by itself, and a replica is no better elsewhere.
        """
        engines = {engine.name: engine.status for engine in self._engines}
        may_leave = bool(self._upstreams) and not self._line.is_forced
        is_ready = may_leave or any(status.state == "ready" for status in engines.values())
        return Report(is_ready, engines, self._upstreams, self._line.is_offline)

    def may_see_details(self, credentials: Credentials) -> bool:
        """On this machine, or with the admin key."""
        try:
            self.check_details(credentials)
        except ProxyError:
            return False
        return True

    def check_details(self, credentials: Credentials) -> None:
        """Pass on this machine, or with the admin key.

        Raises:
            NotAuthenticated, NotPermitted: neither.
        """
        if not credentials.is_local:
            self._keys.authenticate_admin(credentials)

    def check_admin(self, credentials: Credentials) -> None:
        """Pass with the admin key alone or, where none is configured, on this machine.

        Raises:
            NotAuthenticated, NotPermitted: not the administrator.
        """
        self._keys.authenticate_admin(credentials)

    def metrics(self, credentials: Credentials) -> bytes:
        """Every series.

        Raises:
            NotAuthenticated, NotPermitted: not on this machine and without the admin key.
        """
        self.check_details(credentials)
        return self._series.render()
