"""Prometheus metrics. Every label's values come from a closed set, so that no caller can make series.

`model` is a configured name or `other`; `upstream`, `engine` and `target` are configured names, or `none`; `endpoint`,
`status` and `error` come from our own code. What engines tell of themselves is passed on as they told it. What each
request counts is kept in plain numbers of one thread and turned into Prometheus' own objects when somebody asks: those
take a lock for each number, which was a tenth of a request's cost.
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
    """Counts by bucket and their sum, in seconds."""

    __slots__ = ("_bounds", "_counts", "_sum_s")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum_s = 0.0

    def observe(self, value_s: float) -> None:
        """Count one."""
        self._counts[bisect_left(self._bounds, value_s)] += 1
        self._sum_s += value_s

    def add_to(self, family: HistogramMetricFamily, labels: tuple[str, ...]) -> None:
        """Tell Prometheus."""
        total, buckets = 0, []
        for bound, count in zip((*map(str, self._bounds), "+Inf"), self._counts, strict=True):
            total += count
            buckets.append((bound, float(total)))
        family.add_metric(labels, buckets=buckets, sum_value=self._sum_s)


class Series:
    """What is counted of one (endpoint, model, upstream)."""

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
    """Owner of all `Series`."""

    def __init__(self) -> None:
        self.series: dict[tuple[str, str, str], Series] = {}

    def collect(self) -> Iterator[Metric]:
        requests = CounterMetricFamily("tidegate_requests", "Requests by outcome.", labels=(*_LABELS, "status"))
        tokens_in = CounterMetricFamily("tidegate_prompt_tokens", "Tokens in.", labels=_LABELS)
        tokens_out = CounterMetricFamily("tidegate_completion_tokens", "Tokens out.", labels=_LABELS)
        histograms = {
            "duration": _histogram("request_duration", "From first byte in to last byte out."),
            "overhead": _histogram(
                "overhead", "From the request's last byte to the upstream call: what Tidegate adds."
            ),
            "ttft": _histogram("time_to_first_token", "Until the first content left."),
            "per_token": _histogram("time_per_output_token", "For each after the first."),
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
    """What an engine does now (see `tidegate.engines.base`)."""

    @property
    def state(self) -> str:
        """By its name."""

    @property
    def restarts(self) -> int:
        """How often it has ended unasked after having been ready, since Tidegate started."""


class SlotCounts(Protocol):
    """Who is in an engine (see `tidegate.engines.slots`)."""

    @property
    def taken(self) -> int:
        """How many requests."""


class MeasuredEngine(Protocol):
    """What is told of an engine (see `tidegate.engines.base`)."""

    @property
    def name(self) -> str:
        """As configured."""

    @property
    def status(self) -> MeasuredStatus:
        """See there."""

    @property
    def slots(self) -> SlotCounts:
        """See there."""


class _Engines(Collector):
    """Reads the engines when somebody asks."""

    def __init__(self, engines: Callable[[], Sequence[MeasuredEngine]]) -> None:
        self._engines = engines

    def collect(self) -> Iterator[Metric]:
        ready = GaugeMetricFamily("tidegate_engine_ready", "1 where the engine answers.", labels=("engine",))
        restarts = CounterMetricFamily(
            "tidegate_engine_restarts",
            "Unasked ends after having been ready; failed starts do not count.",
            labels=("engine",),
        )
        in_flight = GaugeMetricFamily(
            "tidegate_engine_requests_in_flight", "Ours, in the engine or its queue.", labels=("engine",)
        )
        for engine in self._engines():
            ready.add_metric((engine.name,), float(engine.status.state == "ready"))
            restarts.add_metric((engine.name,), engine.status.restarts)
            in_flight.add_metric((engine.name,), engine.slots.taken)
        yield from (ready, restarts, in_flight)


class _Log(Collector):
    """Reads the number of dropped log lines when the metrics are collected."""

    def __init__(self, dropped: Callable[[], int]) -> None:
        self._dropped = dropped

    def collect(self) -> Iterator[Metric]:
        yield CounterMetricFamily(
            "tidegate_log_lines_dropped",
            "Log lines dropped as the log was not read, or could not be written.",
            value=self._dropped(),
        )


class Metrics:
    """All metrics of one process, in a registry of its own; the pipeline's settlement writes, `/metrics` reads."""

    def __init__(self, models: Collection[str]) -> None:
        self._models = frozenset(models)
        self._requests = _Requests()
        self.registry = CollectorRegistry()
        self.registry.register(self._requests)
        self.in_flight = 0
        in_flight = Gauge("tidegate_requests_in_flight", "Being served.", registry=self.registry)
        in_flight.set_function(lambda: self.in_flight)
        self.upstream_errors = Counter(
            "tidegate_upstream_errors", "Failed attempts.", ("upstream", "error"), registry=self.registry
        )
        self.continuations = Counter(
            "tidegate_stream_continuations",
            "Streams that broke at one upstream and went on at another.",
            ("broken_upstream", "upstream"),
            registry=self.registry,
        )
        self.disconnects = Counter(
            "tidegate_caller_disconnects", "Callers who left early.", ("endpoint",), registry=self.registry
        )
        self.aborts = Counter(
            "tidegate_upstream_aborts",
            "Requests given up while the upstream was at them: vLLM itself does not count these.",
            ("upstream",),
            registry=self.registry,
        )
        self._hedges = Counter(
            "tidegate_hedges", "Second tries beside slow first ones.", ("model",), registry=self.registry
        )
        self._told_by_engines: Callable[[], bytes] = bytes

    def use_models(self, models: Collection[str]) -> None:
        """The names that have series of their own from now on; those of before keep theirs."""
        self._models = frozenset(models)

    def add_engines(self, engines: Callable[[], Sequence[MeasuredEngine]], told: Callable[[], bytes]) -> None:
        """Have the engines in it; called once.

        Args:
            engines: whose state is told.
            told: their own metrics, in Prometheus' text format.
        """
        self.registry.register(_Engines(engines))
        self._told_by_engines = told

    def add_log(self, dropped: Callable[[], int]) -> None:
        """Add the number of dropped log lines; called once."""
        self.registry.register(_Log(dropped))

    def add_targets(self, targets: Callable[[], TargetSource]) -> None:
        """Have the configured targets in it; called once."""
        self.registry.register(TargetsCollector(targets))

    def hedged(self, model: str) -> None:
        """A request for that model (any name) was sent to a second target."""
        self._hedges.labels(self._label(model)).inc()

    def series(self, endpoint: str, model: str, upstream: str) -> Series:
        """The numbers of that endpoint, model (any name, see above) and upstream."""
        key = endpoint, self._label(model), upstream
        series = self._requests.series.get(key)
        if series is None:
            series = self._requests.series[key] = Series()
        return series

    def _label(self, model: str) -> str:
        return model if model in self._models else "other"

    def render(self) -> bytes:
        """Everything in Prometheus' text format, what the engines say of themselves at the end."""
        return generate_latest(self.registry) + self._told_by_engines()


def _histogram(name: str, text: str) -> HistogramMetricFamily:
    return HistogramMetricFamily(f"tidegate_{name}_seconds", text, labels=_LABELS)
