"""Prometheus metrics; callers cannot create series."""

from types import SimpleNamespace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tidegate.telemetry.metrics import Metrics


def families(metrics):
    return {family.name: family for family in text_string_to_metric_families(metrics.render().decode())}


def sample(metrics, name, **labels):
    return metrics.registry.get_sample_value(f"tidegate_{name}", labels)


FAR = {"endpoint": "chat", "model": "m", "upstream": "far"}


def test_a_model_name_that_is_not_configured_counts_as_other():
    """Callers choose model names, so the names must not become labels."""
    metrics = Metrics(["m"])
    for name in ("a", "b", "c"):
        metrics.series("chat", name, "far").tokens_in += 1
    metrics.series("chat", "m", "far").tokens_in += 1
    assert sample(metrics, "prompt_tokens_total", **FAR) == 1
    assert sample(metrics, "prompt_tokens_total", **FAR | {"model": "other"}) == 3


def test_hedges_are_counted_by_model():
    metrics = Metrics(["m"])
    for name in ("m", "a", "b"):
        metrics.count_hedge(name)
    assert (sample(metrics, "hedges_total", model="m"), sample(metrics, "hedges_total", model="other")) == (1, 2)


def test_every_metric_has_tidegates_prefix_and_a_help_text():
    """The registry is separate: it has no metrics of the process or of another instance."""
    for name, family in families(Metrics([])).items():
        assert name.startswith("tidegate_")
        assert family.documentation


def test_counted_values_are_rendered():
    metrics = Metrics(["m"])
    series = metrics.series("chat", "m", "far")
    assert metrics.series("chat", "m", "far") is series
    assert metrics.series("chat", "m", "near") is not series
    series.statuses[200] = 2
    series.tokens_out += 5
    series.ttft.observe(0.2)
    assert sample(metrics, "requests_total", **FAR, status="200") == 2
    assert sample(metrics, "completion_tokens_total", **FAR) == 5
    assert sample(metrics, "time_to_first_token_seconds_sum", **FAR) == 0.2
    assert sample(metrics, "time_to_first_token_seconds_count", **FAR) == 1


@pytest.mark.parametrize(("seconds", "bucket"), [(0.0, "0.005"), (0.005, "0.005"), (0.0051, "0.01"), (600.0, "600.0")])
def test_a_time_is_counted_in_its_bucket_and_in_all_larger_ones(seconds, bucket):
    """A bucket in Prometheus counts all values less than or equal to its bound."""
    metrics = Metrics(["m"])
    metrics.series("chat", "m", "far").ttft.observe(seconds)
    [family] = [family for name, family in families(metrics).items() if name.endswith("time_to_first_token_seconds")]
    buckets = {sample.labels["le"]: sample.value for sample in family.samples if sample.name.endswith("_bucket")}
    first = next(bound for bound, count in buckets.items() if count)
    assert float(first) == float(bucket)
    assert [count for bound, count in buckets.items() if float(bound) >= float(bucket)] == [1.0] * sum(
        float(bound) >= float(bucket) for bound in buckets
    )


def test_a_time_beyond_all_buckets_is_counted():
    metrics = Metrics(["m"])
    metrics.series("chat", "m", "far").ttft.observe(1e6)
    assert sample(metrics, "time_to_first_token_seconds_bucket", **FAR, le="600.0") == 0
    assert sample(metrics, "time_to_first_token_seconds_bucket", **FAR, le="+Inf") == 1


def test_two_instances_share_no_metrics():
    one, other = Metrics([]), Metrics([])
    one.in_flight += 1
    assert sample(one, "requests_in_flight") == 1
    assert sample(other, "requests_in_flight") == 0


def engine(name, state, *, restarts=0, taken=0):
    status = SimpleNamespace(state=state, restarts=restarts)
    return SimpleNamespace(name=name, status=status, requests=SimpleNamespace(taken=taken))


def test_the_states_of_engines_are_read_when_the_metrics_are_collected():
    metrics = Metrics([])
    mine = engine("mine", "starting", restarts=2)
    metrics.add_engines(lambda: [mine, engine("other", "stopped")], lambda: b"")
    assert sample(metrics, "engine_ready", engine="mine") == 0
    mine.status.state, mine.requests.taken = "ready", 3
    assert sample(metrics, "engine_ready", engine="mine") == 1
    assert sample(metrics, "engine_ready", engine="other") == 0
    assert sample(metrics, "engine_restarts_total", engine="mine") == 2
    assert sample(metrics, "engine_requests_in_flight", engine="mine") == 3


def test_the_engines_own_metrics_follow_tidegates():
    metrics = Metrics([])
    metrics.add_engines(list, lambda: b'vllm:num_requests_running{engine="r1"} 4\n')
    rendered = families(metrics)
    assert rendered["vllm:num_requests_running"].samples[0].labels == {"engine": "r1"}
    assert "tidegate_requests_in_flight" in rendered
