"""The table of the states of an engine and the transitions between them."""

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.engines.states import TRANSITIONS, Event, InvalidTransition, State, next_state

STATES, EVENTS = get_args(State), get_args(Event)


@given(st.lists(st.sampled_from(EVENTS), max_size=30))
def test_only_known_states_are_reached(events):
    """From the first state, by any sequence of events."""
    state = "stopped"
    for event in events:
        try:
            state = next_state(state, event)
        except InvalidTransition:
            assert (state, event) not in TRANSITIONS
        assert state in STATES


@pytest.mark.parametrize("state", STATES)
def test_every_engine_can_be_stopped(state):
    assert next_state(state, "stop") == "stopped"


@pytest.mark.parametrize("state", ["starting", "ready", "sleeping", "draining", "stopping"])
def test_an_engine_that_crashes_has_failed(state):
    assert next_state(state, "crash") == "failed"


def test_only_an_engine_that_answers_is_ready():
    """Or an engine that was ready before, and is readmitted."""
    assert {key for key, state in TRANSITIONS.items() if state == "ready"} == {
        ("starting", "answers"),
        ("draining", "readmit"),
        ("failed", "answers"),
    }


def test_an_engine_sleeps_only_after_it_was_drained():
    assert {key for key, state in TRANSITIONS.items() if state == "sleeping"} == {("draining", "sleep")}


def test_a_stopping_process_can_only_end():
    """It cannot become ready or be started again: a second process would run beside it."""
    assert {event: state for (before, event), state in TRANSITIONS.items() if before == "stopping"} == {
        "end": "stopping",
        "stop": "stopped",
        "crash": "failed",
    }
