"""What routing knows of the configured targets, for Prometheus."""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

_IN_ORDER = frozenset({"ok", "ramping"})


class TargetSample(Protocol):
    """One target (see `tidegate.operations.explain.TargetReport`)."""

    @property
    def target(self) -> str:
        """By its name."""

    @property
    def health(self) -> str:
        """By the name of its state."""

    @property
    def in_flight(self) -> int:
        """Requests there."""

    @property
    def queue(self) -> int | None:
        """Requests at its door; None where everybody is let in."""

    @property
    def failure_rate(self) -> float:
        """Of late."""


class TargetSource(Protocol):
    """All of them (see `tidegate.operations.explain.TargetList`)."""

    @property
    def is_offline(self) -> bool:
        """None elsewhere is asked."""

    @property
    def targets(self) -> Sequence[TargetSample]:
        """Those of the config."""


class TargetsCollector(Collector):
    """Reads them when somebody asks."""

    def __init__(self, targets: Callable[[], TargetSource]) -> None:
        self._targets = targets

    def collect(self) -> Iterator[Metric]:
        found = self._targets()
        yield GaugeMetricFamily("tidegate_offline", "1 while no host elsewhere is asked.", value=found.is_offline)
        out = _gauge("out", "1 while it is left out, as it has failed too often.")
        in_flight = _gauge("requests_in_flight", "Ours, there or at its door.")
        waiting = _gauge("requests_waiting", "At the door of its upstream or engine, where that has one.")
        failures = _gauge("failure_rate", "Share of failures of late.")
        for each in found.targets:
            labels = (each.target,)
            out.add_metric(labels, float(each.health not in _IN_ORDER))
            in_flight.add_metric(labels, each.in_flight)
            failures.add_metric(labels, each.failure_rate)
            if each.queue is not None:
                waiting.add_metric(labels, each.queue)
        yield from (out, in_flight, waiting, failures)


def _gauge(name: str, text: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"tidegate_target_{name}", text, labels=("target",))
