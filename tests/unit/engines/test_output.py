"""What engines say is understood: `tests/data/engines/output.yaml` has their lines, word by word."""

from pathlib import Path

import pytest
import yaml
from tidegate.engines.base import EngineError, PermanentEngineError, Progress
from tidegate.engines.output import explain, read_progress

SAID = yaml.safe_load((Path(__file__).parents[2] / "data" / "engines" / "output.yaml").read_text(encoding="utf-8"))
LAST = "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}"


@pytest.mark.parametrize("said", SAID["progress"], ids=lambda said: said["line"][-60:])
def test_a_line_tells_how_far_the_start_is(said):
    expected = Progress(said["phase"], said.get("done")) if "phase" in said else None
    assert read_progress(said["line"]) == expected


@pytest.mark.parametrize("said", SAID["causes"], ids=lambda said: said["told"])
def test_a_line_tells_why_with_the_cure(said):
    error = explain(["INFO 11-25 01:44:32 [x.py:1] before", said["line"], LAST])
    assert type(error) is (PermanentEngineError if said["is_hopeless"] else EngineError)
    assert said["told"] in error.message
    assert error.output == ((said["output"],) if "output" in said else ())
    assert len(str(error)) < 500


@pytest.mark.parametrize("line", SAID["no_causes"])
def test_what_is_said_in_passing_is_no_cause(line):
    assert explain([line]) is None


def test_the_cause_counts_and_not_what_follows_from_it():
    lines = [
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 224.00 MiB.",
        "OSError: [Errno 98] Address already in use",
        "vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue. See stack trace (above)",
    ]
    assert "memory is full" in str(explain(lines))
    assert "memory is full" in str(explain(lines[::-1]))


def test_a_cause_that_is_new_is_told_in_its_own_words():
    lines = [
        "(EngineCore pid=7) ERROR 11-25 01:44:57 [core.py:1510] Traceback (most recent call last):",
        "(EngineCore pid=7) ERROR 11-25 01:44:57 [core.py:1510] AssertionError: kernels of the moon",
        LAST,
    ]
    assert str(explain(lines)) == "its core failed: AssertionError: kernels of the moon"
    assert str(explain([LAST])) == "its core failed"


def test_a_line_that_is_quoted_is_for_the_administrator_alone():
    lines = ["FileNotFoundError: [Errno 2] No such file or directory: '/home/a/secret'", LAST]
    error = explain(lines)
    assert error.message == "its core failed"
    assert error.output == (lines[0],)


def test_without_output_there_is_no_reason():
    assert explain([]) is None
