"""Prometheus metrics. Every label's values come from a closed set, so that no caller can make series.

`model` is a configured name or `other`; `upstream` a configured name or `none`; `endpoint`, `status` and `error` come
from our own code.
"""

from collections.abc import Collection, Iterable
from functools import lru_cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_FINE_SECONDS = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5)
_PER_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1)


class Exchange:
    """The series of one (endpoint, model, upstream), looked up once."""

    __slots__ = ("duration", "overhead", "per_token", "tokens_in", "tokens_out", "ttft")

    def __init__(self, metrics: "Metrics", labels: tuple[str, str, str]) -> None:
        self.duration = metrics.duration.labels(*labels)
        self.overhead = metrics.overhead.labels(*labels)
        self.ttft = metrics.ttft.labels(*labels)
        self.per_token = metrics.per_token.labels(*labels)
        self.tokens_in = metrics.tokens_in.labels(*labels)
        self.tokens_out = metrics.tokens_out.labels(*labels)


class Metrics:
    """All series of one process, in a registry of its own; the pipeline's settlement writes, `/metrics` reads."""

    def __init__(self, models: Collection[str]) -> None:
        self._models = frozenset(models)
        self.registry = CollectorRegistry()
        base = ("endpoint", "model", "upstream")
        self.requests = Counter("tidegate_requests", "Requests by outcome.", (*base, "status"), registry=self.registry)
        self.duration = self._histogram("request_duration_seconds", "From first byte in to last byte out.", base)
        self.overhead = self._histogram(
            "overhead_seconds",
            "Time from request to upstream call, less waiting for the body: what Tidegate adds.",
            base,
            _FINE_SECONDS,
        )
        self.ttft = self._histogram("time_to_first_token_seconds", "Until the first content left.", base)
        self.per_token = self._histogram("time_per_output_token_seconds", "After the first.", base, _PER_TOKEN_SECONDS)
        self.tokens_in = Counter("tidegate_prompt_tokens", "Tokens in.", base, registry=self.registry)
        self.tokens_out = Counter("tidegate_completion_tokens", "Tokens out.", base, registry=self.registry)
        self.in_flight = Gauge("tidegate_requests_in_flight", "Being served.", registry=self.registry)
        self.upstream_errors = Counter(
            "tidegate_upstream_errors", "Failed attempts.", ("upstream", "error"), registry=self.registry
        )
        self.disconnects = Counter(
            "tidegate_caller_disconnects", "Callers who left early.", ("endpoint",), registry=self.registry
        )
        self.engines_ready = Gauge(
            "tidegate_engine_ready", "1 where the engine answers.", ("engine",), registry=self.registry
        )
        self.exchange = lru_cache(maxsize=4096)(self._exchange)

    def model_label(self, model: str) -> str:
        """`model` if it is configured, else `other`."""
        return model if model in self._models else "other"

    def render(self) -> bytes:
        """Every series in Prometheus' text format."""
        return generate_latest(self.registry)

    def _exchange(self, endpoint: str, model: str, upstream: str) -> Exchange:
        return Exchange(self, (endpoint, model, upstream))

    def _histogram(
        self, name: str, text: str, labels: Iterable[str], buckets: tuple[float, ...] = _SECONDS
    ) -> Histogram:
        return Histogram(f"tidegate_{name}", text, labels, buckets=buckets, registry=self.registry)
