"""Which replicas of an engine are retired next when its config has changed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.engines.replica_rollout import Replica, next_to_retire, replica_state

STATES = ["serving", "idle", "changing", "failed"]


def replicas(**states):
    return [Replica(name, state) for name, state in states.items()]


def test_replicas_that_answer_are_retired_one_at_a_time():
    assert next_to_retire(replicas(a="serving", b="serving"), []) == ["a"]
    assert next_to_retire(replicas(b="serving"), replicas(a="changing")) == []
    assert next_to_retire(replicas(b="serving"), replicas(a="serving")) == ["b"]


def test_replicas_that_do_not_answer_are_retired_at_once():
    assert next_to_retire(replicas(a="serving", b="failed", c="idle", d="changing"), replicas(e="failed")) == [
        "b",
        "c",
        "d",
    ]


def test_an_idle_replica_does_not_delay_the_next_one():
    assert next_to_retire(replicas(b="serving"), replicas(a="idle")) == ["b"]


def test_a_failed_new_replica_keeps_the_old_ones_in_service():
    assert next_to_retire(replicas(b="serving", c="serving"), replicas(a="failed")) == []


@pytest.mark.parametrize(
    ("engine_state", "availability", "expected"),
    [
        ("ready", "ready", "serving"),
        ("starting", "loading", "changing"),
        ("draining", "unavailable", "changing"),
        ("stopping", "unavailable", "changing"),
        ("stopped", "loading", "changing"),
        ("stopped", "unloaded", "idle"),
        ("stopped", "unavailable", "idle"),
        ("sleeping", "unloaded", "idle"),
        ("sleeping", "loading", "changing"),
        ("failed", "loading", "failed"),
        ("failed", "unavailable", "failed"),
    ],
)
def test_the_state_of_a_replica_follows_from_the_engines_state_and_availability(engine_state, availability, expected):
    assert replica_state(engine_state, availability) == expected


@given(st.lists(st.sampled_from(STATES), min_size=1, max_size=6), st.sets(st.integers(0, 5)), st.data())
def test_all_replicas_are_replaced_and_at_most_one_that_answered_is_missing_at_a_time(states, broken, data):
    """New replicas become ready, or fail, in any order; after a failure no replica that answers is retired."""
    old = {f"{number}": state for number, state in enumerate(states)}
    new: dict[str, str] = {}
    answering = sum(state == "serving" for state in states)
    for _ in range(50):
        while names := next_to_retire(replicas(**old), replicas(**new)):
            for name in names:
                del old[name]
                new[name] = "changing"
        serving = sum(each == "serving" for each in (*old.values(), *new.values()))
        assert serving >= answering - 1
        changing = [name for name, state in new.items() if state == "changing"]
        if not changing:
            break
        name = data.draw(st.sampled_from(changing))
        new[name] = "failed" if int(name) in broken else "serving"
    if "failed" not in new.values():
        assert not old
    assert set(old.values()) <= {"serving"}
