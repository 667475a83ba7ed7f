"""What an engine does, in routing's words."""

from types import SimpleNamespace

from proxy.app.hosts import looker
from proxy.engines.base import EngineStatus, Load, Looked
from proxy.routing.pressure import Told


def test_every_change_of_the_engine_is_told_and_nothing_is_made_anew_without_one():
    engine = SimpleNamespace(status=EngineStatus("starting"), looked=Looked())
    look = looker(engine)
    assert (look().is_ready, look().state, look().told) == (False, "starting", None)
    engine.status = EngineStatus("ready")
    assert (look().is_ready, look().state, look().told) == (True, "ready", None)
    engine.looked = Looked(Load(running=3, waiting=2), at_s=7.0, in_flight=1)
    assert look().told == Told(running=3, waiting=2, at_s=7.0, our_in_flight=1)
    assert look() is look()
    engine.status = EngineStatus("sleeping")
    assert (look().is_ready, look().told.waiting) == (False, 2)
