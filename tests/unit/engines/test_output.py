"""Engines' output is read; `tests/data/engines/output.yaml` has recorded lines, verbatim."""

from pathlib import Path

import pytest
import yaml

from tidegate.engines.base import EngineError, PermanentEngineError, Progress
from tidegate.engines.output import explain, read_progress

RECORDED = yaml.safe_load((Path(__file__).parents[2] / "data" / "engines" / "output.yaml").read_text(encoding="utf-8"))
LAST = "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}"


@pytest.mark.parametrize("row", RECORDED["progress"], ids=lambda row: row["line"][-60:])
def test_a_line_gives_the_progress_of_a_start(row):
    expected = Progress(row["phase"], row.get("done")) if "phase" in row else None
    assert read_progress(row["line"]) == expected


@pytest.mark.parametrize("row", RECORDED["causes"], ids=lambda row: row["told"])
def test_a_line_gives_the_cause_of_an_end_with_the_cure(row):
    error = explain(["INFO 11-25 01:44:32 [x.py:1] before", row["line"], LAST])
    assert type(error) is (PermanentEngineError if row["is_hopeless"] else EngineError)
    assert row["told"] in error.message
    assert error.output == ((row["output"],) if "output" in row else ())
    assert len(str(error)) < 500


@pytest.mark.parametrize("line", RECORDED["no_causes"])
def test_a_harmless_line_is_no_cause(line):
    assert explain([line]) is None


def test_the_cause_counts_and_not_what_follows_from_it():
    lines = [
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 224.00 MiB.",
        "OSError: [Errno 98] Address already in use",
        "vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue. See stack trace (above)",
    ]
    assert "memory is full" in str(explain(lines))
    assert "memory is full" in str(explain(lines[::-1]))


def test_an_unknown_cause_is_quoted():
    lines = [
        "(EngineCore pid=7) ERROR 11-25 01:44:57 [core.py:1510] Traceback (most recent call last):",
        "(EngineCore pid=7) ERROR 11-25 01:44:57 [core.py:1510] AssertionError: kernels of the moon",
        LAST,
    ]
    assert str(explain(lines)) == "its core failed: AssertionError: kernels of the moon"
    assert str(explain([LAST])) == "its core failed"


def test_a_quoted_line_is_not_in_the_message_for_callers():
    lines = ["FileNotFoundError: [Errno 2] No such file or directory: '/home/a/secret'", LAST]
    error = explain(lines)
    assert error.message == "its core failed"
    assert error.output == (lines[0],)


def test_without_output_there_is_no_reason():
    assert explain([]) is None
