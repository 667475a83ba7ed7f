"""What is wanted of an engine."""

from tidegate.engines.supervision.goal import GoalOwner


def test_another_goal_is_a_change():
    orders = GoalOwner("stop")
    assert not orders.changed.is_set()
    orders.set("run")
    assert (orders.goal, orders.is_held, orders.changed.is_set()) == ("run", False, True)


def test_one_that_is_held_is_stopped():
    orders = GoalOwner("run")
    orders.hold()
    assert (orders.goal, orders.is_held, orders.changed.is_set()) == ("stop", True, True)
