"""How loading goes, for the person who waits."""

import io

import pytest
from tidegate.cli.progress import EngineProgress, describe
from tidegate.engines.base import EngineStatus, Progress

from tests.fakes.clock import FakeClock


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_loading_is_told_on_a_terminal():
    out, clock = Terminal(), FakeClock()
    progress = EngineProgress(out, clock)
    progress.tell("tiny", EngineStatus("starting"))
    clock.advance(1.5)
    progress.tell("tiny", EngineStatus("ready"))
    progress.tell("other", EngineStatus("starting"))
    progress.tell("other", EngineStatus("stopping", "no such file"))
    progress.tell("other", EngineStatus("failed", "no such file"))
    assert "tiny: ready after 1.5 s" in out.getvalue()
    assert "other: failed: no such file after 0.0 s" in out.getvalue()
    assert progress.line == ""


def test_loading_is_not_told_to_a_file():
    out = io.StringIO()
    progress = EngineProgress(out)
    progress.tell("tiny", EngineStatus("starting"))
    progress.tell("tiny", EngineStatus("ready"))
    assert out.getvalue() == ""


def test_all_that_load_stand_in_one_line():
    """Log lines come between, so there is no going back to a line before."""
    clock = FakeClock()
    progress = EngineProgress(Terminal(), clock)
    progress.tell("r1", EngineStatus("starting"))
    clock.advance(4)
    progress.tell("tiny", EngineStatus("starting"))
    progress.tell("r1", EngineStatus("starting", progress=Progress("loading weights", 0.4), left_s=60))
    clock.advance(10)
    assert progress.line == "  waiting for r1: loading weights 40%, about 50 s left, 14.0 s; tiny: 10.0 s"


async def test_sizes_are_shown_where_known():
    progress = EngineProgress(io.StringIO(), FakeClock())
    progress.start({"tiny": 105_000_000, "r1": 0})
    progress.tell("tiny", EngineStatus("starting"))
    assert progress.line == "  waiting for tiny: 105 MB, 0.0 s"


def test_what_takes_longer_than_it_was_thought_to_is_about_to_be_ready():
    clock = FakeClock()
    progress = EngineProgress(Terminal(), clock)
    progress.tell("r1", EngineStatus("starting", left_s=5))
    clock.advance(9)
    assert progress.line == "  waiting for r1: about 0 s left, 9.0 s"


@pytest.mark.parametrize(
    ("progress", "left_s", "told"),
    [
        (None, None, ""),
        (Progress("capturing graphs"), None, "capturing graphs"),
        (Progress("downloading", 0.0), None, "downloading 0%"),
        (Progress("loading weights", 0.456), 29.6, "loading weights 46%, about 30 s left"),
        (None, 600.0, "about 10 min left"),
        (Progress("starting", line="layer 3 of 9"), None, "starting, layer 3 of 9"),
    ],
)
def test_progress_in_words(progress, left_s, told):
    assert describe(progress, left_s) == told
