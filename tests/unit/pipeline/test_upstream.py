"""`Upstreams`: the state of the engine or host behind a target, as the planner reads it."""

from types import SimpleNamespace

from tidegate.pipeline.upstream import Upstream, Upstreams
from tidegate.routing.planner import EngineSnapshot
from tidegate.routing.targets import Target

LOCAL, HOSTED = Target("here", "m", is_local=True), Target("there", "m")


class Transport:
    """A transport whose credentials have a cooldown, or are refused for the model `m`, for so many seconds."""

    def __init__(self, cooldown_s=0.0, refused_s=0.0):
        self.has_cooldowns = bool(cooldown_s or refused_s)
        self.limited_for_s = lambda: cooldown_s
        self.refused_for_s = lambda model: refused_s if model == "m" else 0.0


def upstream(name, transport, look=None):
    return Upstream(name=name, dialect=SimpleNamespace(), transport=transport, snapshot=look)


def test_a_host_without_cooldowns_may_get_requests():
    assert Upstreams({"there": upstream("there", Transport())}).snapshot(HOSTED) == EngineSnapshot()


def test_cooldowns_and_refusals_of_credentials_are_reported_by_model():
    upstreams = Upstreams({"there": upstream("there", Transport(5.0, 7.0))})
    assert upstreams.snapshot(HOSTED) == EngineSnapshot(limited_for_s=5.0, refused_for_s=7.0)
    assert upstreams.snapshot(Target("there", "other")) == EngineSnapshot(limited_for_s=5.0)


def test_the_state_of_an_engine_is_reported_with_the_refusal_of_its_key():
    asleep = EngineSnapshot(is_ready=False, state="sleeping")
    for transport, expected in [
        (Transport(), asleep),
        (Transport(0.0, 7.0), EngineSnapshot(is_ready=False, state="sleeping", refused_for_s=7.0)),
    ]:
        assert Upstreams({"here": upstream("here", transport, lambda: asleep)}).snapshot(LOCAL) == expected


def test_requests_in_an_engine_are_counted_and_a_host_has_none():
    busy = Upstream(name="here", dialect=SimpleNamespace(), transport=Transport(), in_flight=lambda: 3)
    upstreams = Upstreams({"here": busy, "there": upstream("there", Transport())})
    assert (upstreams.in_flight(LOCAL), upstreams.in_flight(HOSTED)) == (3, 0)
