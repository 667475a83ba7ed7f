"""Prometheus metrics of the configured targets."""

from types import SimpleNamespace

import pytest

from tidegate.telemetry.metrics import Metrics


def target(name, health="ok", *, in_flight=0, queue=None, failure_rate=0.0):
    return SimpleNamespace(target=name, health=health, in_flight=in_flight, queue=queue, failure_rate=failure_rate)


def samples(*targets, is_offline=False):
    """A function that returns the value of a metric, by its name and labels."""
    metrics = Metrics([])
    metrics.add_targets(lambda: SimpleNamespace(is_offline=is_offline, targets=targets))
    return lambda name, **labels: metrics.registry.get_sample_value(f"tidegate_{name}", labels)


@pytest.mark.parametrize(("health", "out"), [("ok", 0), ("ramping", 0), ("ejected", 1), ("trial", 1)])
def test_a_target_that_has_not_worked_since_it_failed_is_out(health, out):
    assert samples(target("far/m", health))("target_out", target="far/m") == out


def test_each_target_has_its_requests_in_flight_and_waiting():
    of = samples(target("far/m", in_flight=3, queue=2, failure_rate=0.5), target("near/m", in_flight=1))
    assert of("target_requests_in_flight", target="far/m") == 3
    assert of("target_requests_waiting", target="far/m") == 2
    assert of("target_failure_rate", target="far/m") == 0.5
    assert of("target_requests_in_flight", target="near/m") == 1
    assert of("target_requests_waiting", target="near/m") is None


@pytest.mark.parametrize("is_offline", [True, False])
def test_the_offline_state_is_a_metric(is_offline):
    assert samples(is_offline=is_offline)("offline") == is_offline
