"""What lies behind a target, as the planner sees it."""

from types import SimpleNamespace

from tidegate.pipeline.upstream import Upstream, Upstreams
from tidegate.routing.planner import EngineSnapshot
from tidegate.routing.targets import Target

HERE, THERE = Target("here", "m", is_local=True), Target("there", "m")


class Wire:
    """What is held against its credentials, in seconds."""

    def __init__(self, limited_s=0.0, refused_s=0.0):
        self.holds_back = bool(limited_s or refused_s)
        self.free_in_s = lambda: limited_s
        self.refused_for_s = lambda model: refused_s if model == "m" else 0.0


def upstream(name, wire, look=None):
    return Upstream(name=name, dialect=SimpleNamespace(), transport=wire, look=look)


def test_a_host_that_nothing_is_held_against_may_be_asked():
    assert Upstreams({"there": upstream("there", Wire())}).look(THERE) == EngineSnapshot()


def test_what_is_held_against_our_credentials_is_told_by_model():
    upstreams = Upstreams({"there": upstream("there", Wire(5.0, 7.0))})
    assert upstreams.look(THERE) == EngineSnapshot(limited_for_s=5.0, refused_for_s=7.0)
    assert upstreams.look(Target("there", "other")) == EngineSnapshot(limited_for_s=5.0)


def test_an_engine_tells_what_it_does_whatever_its_key_is():
    asleep = EngineSnapshot(is_ready=False, state="sleeping")
    for wire, expected in [
        (Wire(), asleep),
        (Wire(0.0, 7.0), EngineSnapshot(is_ready=False, state="sleeping", refused_for_s=7.0)),
    ]:
        assert Upstreams({"here": upstream("here", wire, lambda: asleep)}).look(HERE) == expected


def test_what_is_in_an_engine_is_told_and_a_host_has_nothing():
    busy = Upstream(name="here", dialect=SimpleNamespace(), transport=Wire(), in_flight=lambda: 3)
    upstreams = Upstreams({"here": busy, "there": upstream("there", Wire())})
    assert (upstreams.in_flight(HERE), upstreams.in_flight(THERE)) == (3, 0)
