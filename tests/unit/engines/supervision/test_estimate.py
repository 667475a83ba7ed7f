"""How long a start will still take."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.engines.base import Progress
from tidegate.engines.supervision.estimate import Estimate, StartTimes, left_s

# a minute without a report, ten minutes of download, one of loading and two of compiling
PREVIOUS = StartTimes(
    {
        "": (0, 0),
        "downloading the model": (60, 650),
        "loading the weights": (660, 710),
        "compiling": (720, 720),
    },
    total_s=840,
)


@pytest.mark.parametrize(
    ("phase", "since_s", "phase_left_s", "expected"),
    [
        ("", 0, None, 840),
        ("", 50, None, 790),
        ("", 70, None, 780),  # it takes longer than last time
        ("downloading the model", 100, None, 680),
        ("downloading the model", 0, 300, 490),
        ("downloading the model", 100, 300, 390),
        ("downloading the model", 500, 300, 180),
        ("loading the weights", 15, None, 165),
        ("compiling", 60, None, 60),
        ("compiling", 600, None, 0),
        ("capturing CUDA graphs", 3, 7, 4),  # new, and nothing long follows
        ("capturing CUDA graphs", 5, None, None),
        ("preparing kernels", 5, 7, None),  # new, and what follows is unknown
    ],
)
def test_the_estimate_includes_the_later_phases(phase, since_s, phase_left_s, expected):
    assert left_s(phase, since_s, phase_left_s, PREVIOUS) == expected


def test_a_download_does_not_promise_that_the_engine_is_ready_after_it():
    assert left_s("downloading the model", 0, 10, None) is None
    assert left_s("capturing CUDA graphs", 0, 10, None) == 10


def test_the_rate_is_that_of_the_phase_alone():
    """Imports and downloads say nothing about how fast graphs are captured."""
    estimate = Estimate()
    estimate.begin(0)
    estimate.record(Progress("downloading the model"), 30)
    estimate.record(Progress("capturing CUDA graphs", 0.25), 40)
    assert estimate.left_s(40) == 30
    assert estimate.left_s(50) == 20
    estimate.record(Progress("capturing CUDA graphs", 0.5), 50)
    assert estimate.left_s(50) == 20
    assert estimate.left_s(1000) == 0


def test_without_reported_phases_the_estimate_is_the_time_of_the_last_start():
    estimate = Estimate()
    assert estimate.left_s(0) is None
    estimate.begin(0)
    assert estimate.left_s(1) is None
    estimate.end(20)
    assert estimate.left_s(20) is None
    estimate.begin(100)
    assert [estimate.left_s(now_s) for now_s in (100, 105, 130)] == [20, 15, 0]


def test_a_wake_is_not_compared_with_a_start():
    estimate = Estimate()
    estimate.begin(0)
    estimate.end(60)
    estimate.begin(100, is_wake=True)
    assert estimate.left_s(100) is None
    estimate.end(102)
    estimate.begin(200, is_wake=True)
    assert estimate.left_s(200) == 2
    estimate.begin(300)
    assert estimate.left_s(300) == 60


def test_a_failed_start_is_no_source_for_the_next_estimate():
    estimate = Estimate()
    estimate.begin(0)
    estimate.record(Progress("loading the weights", 0.5), 10)
    estimate.begin(20)
    assert (estimate.left_s(20), estimate.phase_left_s(20)) == (None, None)


PHASES = st.sampled_from(["a", "b", "c", "capturing CUDA graphs"])
STEPS = st.lists(st.tuples(PHASES, st.floats(0.01, 100), st.none() | st.floats(0, 1)), max_size=8)


@given(st.lists(STEPS, min_size=1, max_size=4))
def test_the_estimate_is_never_negative_and_falls_until_the_next_report(starts):
    estimate, now_s = Estimate(), 0.0
    for steps in starts:
        estimate.begin(now_s)
        for phase, pause_s, done in steps:
            before_s = estimate.left_s(now_s)
            now_s += pause_s
            later_s = estimate.left_s(now_s)
            assert (before_s is None) == (later_s is None)
            assert later_s is None or 0 <= later_s <= before_s
            estimate.record(Progress(phase, done), now_s)
            assert (estimate.left_s(now_s) or 0) >= 0
            assert (estimate.phase_left_s(now_s) or 0) >= 0
        estimate.end(now_s)


@given(
    st.lists(st.tuples(st.floats(0.5, 100), st.integers(1, 5), st.booleans()), min_size=1, max_size=5),
    st.integers(2, 3),
)
def test_a_start_like_the_one_before_is_estimated_exactly(phases, starts):
    """Each phase has a length, and is reported several times with its share, or once when it begins."""
    estimate, now_s = Estimate(), 0.0
    total_s = sum(length_s for length_s, _, _ in phases)
    for number in range(starts):
        begun_s = now_s
        estimate.begin(now_s)
        for phase, (length_s, times, has_share) in enumerate(phases):
            if not has_share:
                estimate.record(Progress(str(phase)), now_s)
            for step in range(1, times + 1):
                now_s += length_s / times
                estimate.record(Progress(str(phase), step / times if has_share else None), now_s)
                if number:
                    assert estimate.left_s(now_s) == pytest.approx(total_s - (now_s - begun_s), abs=1e-6)
        estimate.end(now_s)
