"""Which replicas go next when their config has changed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tidegate.engines.rollout import Replica, next_to_retire, replica_state

STATES = ["serving", "idle", "changing", "failed"]


def replicas(**states):
    return [Replica(name, state) for name, state in states.items()]


def test_of_those_that_answer_one_goes_at_a_time():
    assert next_to_retire(replicas(a="serving", b="serving"), []) == ["a"]
    assert next_to_retire(replicas(b="serving"), replicas(a="changing")) == []
    assert next_to_retire(replicas(b="serving"), replicas(a="serving")) == ["b"]


def test_those_that_do_not_answer_go_at_once():
    assert next_to_retire(replicas(a="serving", b="failed", c="idle", d="changing"), replicas(e="failed")) == [
        "b",
        "c",
        "d",
    ]


def test_one_that_is_not_wanted_is_not_waited_for():
    assert next_to_retire(replicas(b="serving"), replicas(a="idle")) == ["b"]


def test_one_that_has_failed_keeps_the_rest_in_service():
    assert next_to_retire(replicas(b="serving", c="serving"), replicas(a="failed")) == []


@pytest.mark.parametrize(
    ("life", "availability", "expected"),
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
def test_the_state_of_a_replica_follows_from_its_life_and_availability(life, availability, expected):
    assert replica_state(life, availability) == expected


@given(st.lists(st.sampled_from(STATES), min_size=1, max_size=6), st.sets(st.integers(0, 5)), st.data())
def test_all_are_replaced_and_no_two_that_answer_are_away_together(states, broken, data):
    """Whenever the new ones come up; those that answer wait behind one that does not."""
    old = {f"{number}": state for number, state in enumerate(states)}
    new: dict[str, str] = {}
    answering = sum(state == "serving" for state in states)
    for _ in range(50):
        while going := next_to_retire(replicas(**old), replicas(**new)):
            for name in going:
                del old[name]
                new[name] = "changing"
        serving = sum(each == "serving" for each in (*old.values(), *new.values()))
        assert serving >= answering - 1
        coming = [name for name, state in new.items() if state == "changing"]
        if not coming:
            break
        name = data.draw(st.sampled_from(coming))
        new[name] = "failed" if int(name) in broken else "serving"
    if "failed" not in new.values():
        assert not old
    assert set(old.values()) <= {"serving"}
