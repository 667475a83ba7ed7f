"""`GoalOwner`: setting a goal, and holding an engine."""

from tidegate.engines.supervision.goal import GoalOwner


def test_a_new_goal_sets_changed():
    goal_owner = GoalOwner("stop")
    assert not goal_owner.changed.is_set()
    goal_owner.set("run")
    assert (goal_owner.goal, goal_owner.is_held, goal_owner.changed.is_set()) == ("run", False, True)


def test_a_held_engine_has_the_goal_stop():
    goal_owner = GoalOwner("run")
    goal_owner.hold()
    assert (goal_owner.goal, goal_owner.is_held, goal_owner.changed.is_set()) == ("stop", True, True)
