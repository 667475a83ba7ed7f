"""What is kept of an engine's output."""

from hypothesis import given
from hypothesis import strategies as st
from tidegate.engines.process.lines import OutputTail

KEPT = 400


@given(st.lists(st.sampled_from(["begin", "well"]) | st.integers(0, 1500), max_size=12), st.integers(0, 20))
def test_it_keeps_the_end_and_the_first_and_last_lines_since_it_was_well(steps, late):
    """`late` lines came while it was asked."""
    kept, said, since, number = OutputTail(), [], [], 0
    was_healthy = False
    for step in steps:
        if isinstance(step, int):
            lines = [str(number + place) for place in range(step)]
            number += step
            said += lines
            since += lines
            for line in lines:
                kept.add(line)
        else:
            was_healthy = step == "well"
            at = number - late if was_healthy else number
            since = [line for line in since if int(line) >= at]
            kept.saw_healthy(at) if was_healthy else kept.begin()
        assert kept.last == said[-KEPT:]
        assert kept.since_healthy == (since if len(since) <= 2 * KEPT else since[:KEPT] + since[-KEPT:])
        assert kept.was_healthy == was_healthy


def test_lines_of_the_core_are_kept_among_those_of_requests():
    kept = OutputTail()
    kept.saw_healthy(kept.number)
    for line in ["the core is gone", *["of a request"] * 2800, "the server ends"]:
        kept.add(line)
    assert kept.since_healthy[0] == "the core is gone"
    assert kept.since_healthy[-1] == "the server ends"
