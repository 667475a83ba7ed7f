"""Which lines of an engine's output are kept."""

from hypothesis import given
from hypothesis import strategies as st

from tidegate.engines.process.lines import OutputTail

KEPT = 400


@given(st.lists(st.sampled_from(["begin", "well"]) | st.integers(0, 1500), max_size=12), st.integers(0, 20))
def test_the_last_lines_and_the_first_and_last_since_a_good_health_check_are_kept(steps, late):
    """`late` lines were written during each health check."""
    tail, written, since, number = OutputTail(), [], [], 0
    was_healthy = False
    for step in steps:
        if isinstance(step, int):
            lines = [str(number + offset) for offset in range(step)]
            number += step
            written += lines
            since += lines
            for line in lines:
                tail.add(line)
        else:
            was_healthy = step == "well"
            at = number - late if was_healthy else number
            since = [line for line in since if int(line) >= at]
            tail.mark_healthy(at) if was_healthy else tail.begin()
        assert tail.last == written[-KEPT:]
        assert tail.since_healthy == (since if len(since) <= 2 * KEPT else since[:KEPT] + since[-KEPT:])
        assert tail.was_healthy == was_healthy


def test_the_first_lines_are_kept_before_many_lines_of_requests():
    tail = OutputTail()
    tail.mark_healthy(tail.number)
    for line in ["the core is gone", *["of a request"] * 2800, "the server ends"]:
        tail.add(line)
    assert tail.since_healthy[0] == "the core is gone"
    assert tail.since_healthy[-1] == "the server ends"
