"""The progress that is shown for an engine that a request waits for."""

import pytest

from tidegate.pipeline.engine_start_progress import EngineChanges, EngineStartProgress, describe
from tidegate.routing.planner import EngineSnapshot
from tidegate.streaming.reasoning_preface import ReasoningPreface
from tidegate.streaming.sinks import Envelope


class Engine:
    def __init__(self, changes: EngineChanges, state: str) -> None:
        self.changes = changes
        self.move(state)

    def move(self, state: str, phase: str = "", done: float | None = None) -> None:
        self.snapshot = EngineSnapshot(is_ready=state == "ready", state=state, phase=phase, phase_progress=done)
        self.changes.notify()

    def read_snapshot(self) -> EngineSnapshot:
        return self.snapshot


@pytest.fixture
def changes():
    return EngineChanges()


@pytest.fixture
def progress(changes):
    preface = ReasoningPreface(Envelope("chatcmpl-1", 7, "m"), wants_usage=False, form="reasoning_content")
    return EngineStartProgress(preface, changes)


@pytest.mark.parametrize(
    ("snapshot", "text"),
    [
        (EngineSnapshot(state="stopped"), "Starting the model"),
        (EngineSnapshot(state="starting"), "Starting the model"),
        (EngineSnapshot(state="starting", phase="loading the weights"), "Loading the weights"),
        (EngineSnapshot(state="starting", phase="loading the weights", phase_progress=0.0), "Loading the weights: 0 %"),
        (
            EngineSnapshot(state="starting", phase="loading the weights", phase_progress=0.49),
            "Loading the weights: 40 %",
        ),
        (
            EngineSnapshot(state="starting", phase="loading the weights", phase_progress=1.0),
            "Loading the weights: 100 %",
        ),
        (EngineSnapshot(state="sleeping"), "Waking the model"),
        (EngineSnapshot(state="draining"), "Waiting for the model"),
        (EngineSnapshot(state="stopping"), "Waiting for the model"),
        (EngineSnapshot(state="failed"), "Starting the model again"),
        (EngineSnapshot(state="a new one"), "Starting the model"),
    ],
)
def test_the_state_of_an_engine_as_text(snapshot, text):
    assert describe(snapshot) == text


def test_a_text_is_shown_once_until_it_changes(progress, changes):
    engine = Engine(changes, "stopped")
    with progress.waiting_for(engine.read_snapshot):
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
            progress.show()
            progress.show()
    text = "Starting the model\nLoading the weights: 0 %\nLoading the weights: 20 %\nCompiling\n"
    assert progress.preface.text == text


def test_an_engine_that_slept_is_shown_as_waking_until_its_state_changes(progress, changes):
    engine = Engine(changes, "sleeping")
    with progress.waiting_for(engine.read_snapshot):
        for state in ("sleeping", "starting", "failed", "starting"):
            engine.move(state)
            progress.show()
    assert progress.preface.text == "Waking the model\nStarting the model again\nStarting the model\n"


def test_changed_is_set_at_every_change_of_an_engine_while_the_request_waits(progress, changes):
    engine = Engine(changes, "starting")
    with progress.waiting_for(engine.read_snapshot):
        assert progress.changed.is_set()
        progress.changed.clear()
        changes.notify()
        assert progress.changed.is_set()
    progress.changed.clear()
    changes.notify()
    assert not progress.changed.is_set()


def test_nothing_is_shown_while_the_request_does_not_wait(progress, changes):
    progress.show()
    with progress.waiting_for(Engine(changes, "ready").read_snapshot):
        progress.show()
    with progress.waiting_for(Engine(changes, "starting").read_snapshot):
        pass
    progress.show()
    assert progress.preface.text == ""


def test_of_two_waits_at_once_the_later_one_is_shown_and_then_the_other(progress, changes):
    first, second = Engine(changes, "starting"), Engine(changes, "sleeping")
    with progress.waiting_for(first.read_snapshot):
        with progress.waiting_for(second.read_snapshot):
            progress.show()
        progress.show()
    assert progress.preface.text == "Waking the model\nStarting the model\n"
