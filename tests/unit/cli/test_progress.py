"""The progress of loading engines on the terminal."""

import io

import pytest

from tests.fakes.clock import FakeClock
from tidegate.cli.progress import EngineProgress, describe
from tidegate.engines.base import EngineStatus, Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_loading_is_shown_on_a_terminal():
    out, clock = Terminal(), FakeClock()
    progress = EngineProgress(out, clock)
    progress.update("tiny", EngineStatus("starting"))
    clock.advance(1.5)
    progress.update("tiny", EngineStatus("ready"))
    progress.update("other", EngineStatus("starting"))
    progress.update("other", EngineStatus("stopping", "no such file"))
    progress.update("other", EngineStatus("failed", "no such file"))
    assert "tiny: ready after 1.5 s" in out.getvalue()
    assert "other: failed: no such file after 0.0 s" in out.getvalue()
    assert progress.line == ""


def test_loading_is_not_shown_in_a_file():
    out = io.StringIO()
    progress = EngineProgress(out)
    progress.update("tiny", EngineStatus("starting"))
    progress.update("tiny", EngineStatus("ready"))
    assert out.getvalue() == ""


def test_all_loading_engines_are_shown_in_one_line():
    """Log lines may be written in between, so earlier lines cannot be redrawn."""
    clock = FakeClock()
    progress = EngineProgress(Terminal(), clock)
    progress.update("r1", EngineStatus("starting"))
    clock.advance(4)
    progress.update("tiny", EngineStatus("starting"))
    progress.update("r1", EngineStatus("starting", progress=Progress("loading weights", 0.4), left_s=60))
    clock.advance(10)
    assert progress.line == "  waiting for r1: loading weights 40%, about 50 s left, 14.0 s; tiny: 10.0 s"


async def test_sizes_are_shown_if_known():
    progress = EngineProgress(io.StringIO(), FakeClock())
    progress.start({"tiny": 105_000_000, "r1": 0})
    progress.update("tiny", EngineStatus("starting"))
    assert progress.line == "  waiting for tiny: 105 MB, 0.0 s"


def test_loading_that_takes_longer_than_estimated_has_0_seconds_left():
    clock = FakeClock()
    progress = EngineProgress(Terminal(), clock)
    progress.update("r1", EngineStatus("starting", left_s=5))
    clock.advance(9)
    assert progress.line == "  waiting for r1: about 0 s left, 9.0 s"


@pytest.mark.parametrize(
    ("progress", "left_s", "text"),
    [
        (None, None, ""),
        (Progress("capturing graphs"), None, "capturing graphs"),
        (Progress("downloading", 0.0), None, "downloading 0%"),
        (Progress("loading weights", 0.456), 29.6, "loading weights 46%, about 30 s left"),
        (None, 600.0, "about 10 min left"),
        (Progress("starting", line="layer 3 of 9"), None, "starting, layer 3 of 9"),
    ],
)
def test_progress_is_described_as_text(progress, left_s, text):
    assert describe(progress, left_s) == text
