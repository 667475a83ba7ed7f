"""Prometheus metrics: no caller can make series."""

from types import SimpleNamespace

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tidegate.telemetry.metrics import Metrics


def families(metrics):
    return {family.name: family for family in text_string_to_metric_families(metrics.render().decode())}


def sample(metrics, name, **labels):
    return metrics.registry.get_sample_value(f"tidegate_{name}", labels)


FAR = {"endpoint": "chat", "model": "m", "upstream": "far"}


def test_a_name_that_is_not_configured_is_other():
    """Callers choose model names; labels must not follow them."""
    metrics = Metrics(["m"])
    for name in ("a", "b", "c"):
        metrics.series("chat", name, "far").tokens_in += 1
    metrics.series("chat", "m", "far").tokens_in += 1
    assert sample(metrics, "prompt_tokens_total", **FAR) == 1
    assert sample(metrics, "prompt_tokens_total", **FAR | {"model": "other"}) == 3


def test_hedges_are_counted_by_model():
    metrics = Metrics(["m"])
    for name in ("m", "a", "b"):
        metrics.hedged(name)
    assert (sample(metrics, "hedges_total", model="m"), sample(metrics, "hedges_total", model="other")) == (1, 2)


def test_every_series_is_tidegates_own_and_explained():
    """The registry is its own: nothing of the process or of another instance is in it."""
    for name, family in families(Metrics([])).items():
        assert name.startswith("tidegate_")
        assert family.documentation


def test_what_is_counted_is_told():
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
def test_a_time_is_in_its_bucket_and_all_above(seconds, bucket):
    """Prometheus' buckets hold what is less than or equal to their bound, all smaller ones included."""
    metrics = Metrics(["m"])
    metrics.series("chat", "m", "far").ttft.observe(seconds)
    [family] = [family for name, family in families(metrics).items() if name.endswith("time_to_first_token_seconds")]
    buckets = {one.labels["le"]: one.value for one in family.samples if one.name.endswith("_bucket")}
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


def test_two_instances_do_not_share():
    one, other = Metrics([]), Metrics([])
    one.in_flight += 1
    assert sample(one, "requests_in_flight") == 1
    assert sample(other, "requests_in_flight") == 0


def engine(name, state, *, restarts=0, taken=0):
    status = SimpleNamespace(state=state, restarts=restarts)
    return SimpleNamespace(name=name, status=status, slots=SimpleNamespace(taken=taken))


def test_engines_are_told_as_they_are_when_somebody_asks():
    metrics = Metrics([])
    mine = engine("mine", "starting", restarts=2)
    metrics.add_engines(lambda: [mine, engine("other", "stopped")], lambda: b"")
    assert sample(metrics, "engine_ready", engine="mine") == 0
    mine.status.state, mine.slots.taken = "ready", 3
    assert sample(metrics, "engine_ready", engine="mine") == 1
    assert sample(metrics, "engine_ready", engine="other") == 0
    assert sample(metrics, "engine_restarts_total", engine="mine") == 2
    assert sample(metrics, "engine_requests_in_flight", engine="mine") == 3


def test_what_engines_tell_themselves_stands_behind_our_own():
    metrics = Metrics([])
    metrics.add_engines(list, lambda: b'vllm:num_requests_running{engine="r1"} 4\n')
    told = families(metrics)
    assert told["vllm:num_requests_running"].samples[0].labels == {"engine": "r1"}
    assert "tidegate_requests_in_flight" in told
