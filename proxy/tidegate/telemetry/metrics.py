"""Prometheus metrics. The values of every label come from a closed set, so that no caller can create series.

`model` is a configured name or `other`; `upstream`, `engine` and `target` are configured names, or `none`; `endpoint`,
`status` and `error` come from Tidegate's own code. The engines' own metrics are passed on unchanged.

The counts of each request are plain numbers, written by one thread, and are converted to Prometheus objects only when
the metrics are collected. Prometheus' own counters take a lock for each number, which was a tenth of a request's cost.
"""

from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from tidegate.telemetry.targets import TargetsCollector, TargetSource

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
_FINE_SECONDS = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5)
_PER_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0)

_LABELS = ("endpoint", "model", "upstream")


class Distribution:
    """A histogram of durations in seconds: the count of each bucket, and the sum."""

    __slots__ = ("_bounds", "_counts", "_sum_s")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum_s = 0.0

    def observe(self, value_s: float) -> None:
        """Count one duration."""
        self._counts[bisect_left(self._bounds, value_s)] += 1
        self._sum_s += value_s

    def add_to(self, family: HistogramMetricFamily, labels: tuple[str, ...]) -> None:
        """Add the histogram to a metric family, with these label values."""
        total, buckets = 0, []
        for bound, count in zip((*map(str, self._bounds), "+Inf"), self._counts, strict=True):
            total += count
            buckets.append((bound, float(total)))
        family.add_metric(labels, buckets=buckets, sum_value=self._sum_s)


class Series:
    """The counts of the requests with one combination of endpoint, model and upstream."""

    __slots__ = ("duration", "overhead", "per_token", "statuses", "tokens_in", "tokens_out", "ttft")

    def __init__(self) -> None:
        self.statuses: dict[int, int] = {}
        self.duration = Distribution(_SECONDS)
        self.overhead = Distribution(_FINE_SECONDS)
        self.ttft = Distribution(_SECONDS)
        self.per_token = Distribution(_PER_TOKEN_SECONDS)
        self.tokens_in = 0
        self.tokens_out = 0


class _Requests(Collector):
    """Owns all `Series`, and converts them to Prometheus metrics."""

    def __init__(self) -> None:
        self.series: dict[tuple[str, str, str], Series] = {}

    def collect(self) -> Iterator[Metric]:
        requests = CounterMetricFamily("tidegate_requests", "Requests by outcome.", labels=(*_LABELS, "status"))
        tokens_in = CounterMetricFamily("tidegate_prompt_tokens", "Prompt tokens.", labels=_LABELS)
        tokens_out = CounterMetricFamily("tidegate_completion_tokens", "Generated tokens.", labels=_LABELS)
        histograms = {
            "duration": _histogram("request_duration", "From the first byte received to the last byte sent."),
            "overhead": _histogram(
                "overhead", "From the last byte of the request to the upstream call: the time that Tidegate adds."
            ),
            "ttft": _histogram("time_to_first_token", "From the first byte received to the first content sent."),
            "per_token": _histogram("time_per_output_token", "Average time for each token after the first."),
        }
        for labels, series in self.series.items():
            for status, count in series.statuses.items():
                requests.add_metric((*labels, str(status)), count)
            tokens_in.add_metric(labels, series.tokens_in)
            tokens_out.add_metric(labels, series.tokens_out)
            for name, family in histograms.items():
                getattr(series, name).add_to(family, labels)
        yield from (requests, tokens_in, tokens_out, *histograms.values())


class MeasuredStatus(Protocol):
    """The parts of `tidegate.engines.base.EngineStatus` that metrics need."""

    @property
    def state(self) -> str:
        """The name of the engine's state."""

    @property
    def restarts(self) -> int:
        """How often the engine has ended unexpectedly after it was ready, since Tidegate started."""


class RequestCounts(Protocol):
    """The part of `tidegate.engines.requests.EngineRequests` that metrics need."""

    @property
    def taken(self) -> int:
        """The number of requests in the engine."""


class MeasuredEngine(Protocol):
    """The parts of `tidegate.engines.base.Engine` that metrics need."""

    @property
    def name(self) -> str:
        """The configured name."""

    @property
    def status(self) -> MeasuredStatus:
        """The current status."""

    @property
    def requests(self) -> RequestCounts:
        """The requests in the engine."""


class _Engines(Collector):
    """Reads the states of the engines when the metrics are collected."""

    def __init__(self, engines: Callable[[], Sequence[MeasuredEngine]]) -> None:
        self._engines = engines

    def collect(self) -> Iterator[Metric]:
        ready = GaugeMetricFamily("tidegate_engine_ready", "1 if the engine is ready.", labels=("engine",))
        restarts = CounterMetricFamily(
            "tidegate_engine_restarts",
            "Unexpected ends after the engine was ready; failed starts do not count.",
            labels=("engine",),
        )
        in_flight = GaugeMetricFamily(
            "tidegate_engine_requests_in_flight",
            "Requests from this Tidegate in the engine or its queue.",
            labels=("engine",),
        )
        for engine in self._engines():
            ready.add_metric((engine.name,), float(engine.status.state == "ready"))
            restarts.add_metric((engine.name,), engine.status.restarts)
            in_flight.add_metric((engine.name,), engine.requests.taken)
        yield from (ready, restarts, in_flight)


class _Log(Collector):
    """Reads the number of dropped log lines when the metrics are collected."""

    def __init__(self, dropped: Callable[[], int]) -> None:
        self._dropped = dropped

    def collect(self) -> Iterator[Metric]:
        yield CounterMetricFamily(
            "tidegate_log_lines_dropped",
            "Log lines dropped because the log was not read, or could not be written.",
            value=self._dropped(),
        )


class Metrics:
    """All metrics of one process, in a registry of its own; written by the pipeline's settlement, read by `/metrics`.

    Attributes:
        registry: the Prometheus registry.
        in_flight: the number of requests being served.
        upstream_errors: failed attempts.
        continuations: streams that were continued at another upstream.
        disconnects: callers that disconnected before the end of the answer.
        aborts: requests that were cancelled while the upstream was working on them.
    """

    def __init__(self, models: Collection[str]) -> None:
        self._models = frozenset(models)
        self._requests = _Requests()
        self.registry = CollectorRegistry()
        self.registry.register(self._requests)
        self.in_flight = 0
        in_flight = Gauge("tidegate_requests_in_flight", "Requests being served.", registry=self.registry)
        in_flight.set_function(lambda: self.in_flight)
        self.upstream_errors = Counter(
            "tidegate_upstream_errors", "Failed attempts.", ("upstream", "error"), registry=self.registry
        )
        self.continuations = Counter(
            "tidegate_stream_continuations",
            "Streams that broke at one upstream and were continued at another.",
            ("broken_upstream", "upstream"),
            registry=self.registry,
        )
        self.disconnects = Counter(
            "tidegate_caller_disconnects", "Callers that disconnected early.", ("endpoint",), registry=self.registry
        )
        self.aborts = Counter(
            "tidegate_upstream_aborts",
            "Requests cancelled while the upstream was working on them; vLLM itself does not count these.",
            ("upstream",),
            registry=self.registry,
        )
        self._hedges = Counter(
            "tidegate_hedges", "Second attempts in parallel to slow first ones.", ("model",), registry=self.registry
        )
        self._engine_metrics: Callable[[], bytes] = bytes

    def use_models(self, models: Collection[str]) -> None:
        """Set the model names that get series of their own from now on; existing series stay."""
        self._models = frozenset(models)

    def add_engines(self, engines: Callable[[], Sequence[MeasuredEngine]], engine_metrics: Callable[[], bytes]) -> None:
        """Add the metrics of engines; called once.

        Args:
            engines: returns the engines whose states are shown.
            engine_metrics: returns the engines' own metrics, in Prometheus' text format.
        """
        self.registry.register(_Engines(engines))
        self._engine_metrics = engine_metrics

    def add_log(self, dropped: Callable[[], int]) -> None:
        """Add the number of dropped log lines; called once."""
        self.registry.register(_Log(dropped))

    def add_targets(self, targets: Callable[[], TargetSource]) -> None:
        """Add the metrics of the configured targets; called once."""
        self.registry.register(TargetsCollector(targets))

    def count_hedge(self, model: str) -> None:
        """Count a request for `model` (any name) that was also sent to a second target."""
        self._hedges.labels(self._label(model)).inc()

    def series(self, endpoint: str, model: str, upstream: str) -> Series:
        """The series of that endpoint, model (any name; an unknown one counts as `other`) and upstream."""
        key = endpoint, self._label(model), upstream
        series = self._requests.series.get(key)
        if series is None:
            series = self._requests.series[key] = Series()
        return series

    def _label(self, model: str) -> str:
        return model if model in self._models else "other"

    def render(self) -> bytes:
        """All metrics in Prometheus' text format, followed by the engines' own metrics."""
        return generate_latest(self.registry) + self._engine_metrics()


def _histogram(name: str, text: str) -> HistogramMetricFamily:
    return HistogramMetricFamily(f"tidegate_{name}_seconds", text, labels=_LABELS)
