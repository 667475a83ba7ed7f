"""What is told of an engine that is waited for."""

import pytest
from tidegate.pipeline.load_progress import EngineChanges, Waiting, describe
from tidegate.routing.planner import EngineSnapshot
from tidegate.streaming.preface import Preface
from tidegate.streaming.sinks import Envelope


class Engine:
    def __init__(self, changes: EngineChanges, state: str) -> None:
        self.changes = changes
        self.move(state)

    def move(self, state: str, phase: str = "", done: float | None = None) -> None:
        self.now = EngineSnapshot(is_ready=state == "ready", state=state, phase=phase, done=done)
        self.changes.tell()

    def look(self) -> EngineSnapshot:
        return self.now


@pytest.fixture
def changes():
    return EngineChanges()


@pytest.fixture
def waiting(changes):
    preface = Preface(Envelope("chatcmpl-1", 7, "m"), wants_usage=False, form="reasoning_content")
    return Waiting(preface, changes)


@pytest.mark.parametrize(
    ("look", "told"),
    [
        (EngineSnapshot(state="stopped"), "Starting the model"),
        (EngineSnapshot(state="starting"), "Starting the model"),
        (EngineSnapshot(state="starting", phase="loading the weights"), "Loading the weights"),
        (EngineSnapshot(state="starting", phase="loading the weights", done=0.0), "Loading the weights: 0 %"),
        (EngineSnapshot(state="starting", phase="loading the weights", done=0.49), "Loading the weights: 40 %"),
        (EngineSnapshot(state="starting", phase="loading the weights", done=1.0), "Loading the weights: 100 %"),
        (EngineSnapshot(state="sleeping"), "Waking the model"),
        (EngineSnapshot(state="draining"), "Waiting for the model"),
        (EngineSnapshot(state="stopping"), "Waiting for the model"),
        (EngineSnapshot(state="failed"), "Starting the model again"),
        (EngineSnapshot(state="a new one"), "Starting the model"),
    ],
)
def test_a_look_at_an_engine_in_words(look, told):
    assert describe(look) == told


def test_it_is_told_once_until_something_changes(waiting, changes):
    engine = Engine(changes, "stopped")
    with waiting.at(engine.look):
        for state, phase, done in [
            ("stopped", "", None),
            ("starting", "", None),
            ("starting", "loading the weights", 0.01),
            ("starting", "loading the weights", 0.09),
            ("starting", "loading the weights", 0.2),
            ("starting", "compiling", None),
            ("ready", "", None),
        ]:
            engine.move(state, phase, done)
            waiting.tell()
            waiting.tell()
    told = "Starting the model\nLoading the weights: 0 %\nLoading the weights: 20 %\nCompiling\n"
    assert waiting.preface.text == told


def test_an_engine_that_slept_is_woken_until_it_does_something_else(waiting, changes):
    engine = Engine(changes, "sleeping")
    with waiting.at(engine.look):
        for state in ("sleeping", "starting", "failed", "starting"):
            engine.move(state)
            waiting.tell()
    assert waiting.preface.text == "Waking the model\nStarting the model again\nStarting the model\n"


def test_every_change_of_an_engine_is_a_reason_to_look_while_one_is_waited_for(waiting, changes):
    engine = Engine(changes, "starting")
    with waiting.at(engine.look):
        assert waiting.changed.is_set()
        waiting.changed.clear()
        changes.tell()
        assert waiting.changed.is_set()
    waiting.changed.clear()
    changes.tell()
    assert not waiting.changed.is_set()


def test_nothing_is_told_where_nothing_is_waited_for(waiting, changes):
    waiting.tell()
    with waiting.at(Engine(changes, "ready").look):
        waiting.tell()
    with waiting.at(Engine(changes, "starting").look):
        pass
    waiting.tell()
    assert waiting.preface.text == ""


def test_of_two_waits_at_once_the_later_is_told_and_then_the_other(waiting, changes):
    first, second = Engine(changes, "starting"), Engine(changes, "sleeping")
    with waiting.at(first.look):
        with waiting.at(second.look):
            waiting.tell()
        waiting.tell()
    assert waiting.preface.text == "Waking the model\nStarting the model\n"
