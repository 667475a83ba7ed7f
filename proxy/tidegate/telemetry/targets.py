"""Prometheus metrics of the configured targets: health, requests in flight and waiting, failure rate."""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

_HEALTHY = frozenset({"ok", "ramping"})


class TargetSample(Protocol):
    """The parts of `tidegate.operations.explain.TargetReport` that metrics need."""

    @property
    def target(self) -> str:
        """The name of the target."""

    @property
    def health(self) -> str:
        """The name of its health state."""

    @property
    def in_flight(self) -> int:
        """The number of requests at the target or in its queue."""

    @property
    def queue(self) -> int | None:
        """The number of requests that wait for a concurrency slot; None if there is no limit."""

    @property
    def failure_rate(self) -> float:
        """The share of recent requests that failed, 0 to 1."""


class TargetSource(Protocol):
    """The parts of `tidegate.operations.explain.TargetList` that metrics need."""

    @property
    def is_offline(self) -> bool:
        """Whether no hosted upstream is used now."""

    @property
    def targets(self) -> Sequence[TargetSample]:
        """The configured targets."""


class TargetsCollector(Collector):
    """Reads the states of the targets when the metrics are collected."""

    def __init__(self, targets: Callable[[], TargetSource]) -> None:
        self._targets = targets

    def collect(self) -> Iterator[Metric]:
        found = self._targets()
        yield GaugeMetricFamily("tidegate_offline", "1 while no hosted upstream is used.", value=found.is_offline)
        out = _gauge("out", "1 while the target is not used because it has failed too often.")
        in_flight = _gauge("requests_in_flight", "Requests from this Tidegate at the target or in its queue.")
        waiting = _gauge(
            "requests_waiting",
            "Requests in the queue of the target's upstream or engine, if it has a concurrency limit.",
        )
        failures = _gauge("failure_rate", "Share of recent requests that failed.")
        for each in found.targets:
            labels = (each.target,)
            out.add_metric(labels, float(each.health not in _HEALTHY))
            in_flight.add_metric(labels, each.in_flight)
            failures.add_metric(labels, each.failure_rate)
            if each.queue is not None:
                waiting.add_metric(labels, each.queue)
        yield from (out, in_flight, waiting, failures)


def _gauge(name: str, text: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"tidegate_target_{name}", text, labels=("target",))
