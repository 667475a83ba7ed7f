"""What fuzzing found, and what it grew from, once more (`tests/fuzz/run.py` looks for more)."""

from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS

CORPUS = Path(__file__).with_name("corpus")
INPUTS = sorted(path.relative_to(CORPUS).as_posix() for path in CORPUS.glob("*/*"))


@pytest.mark.parametrize("path", INPUTS)
def test_an_input_that_was_found_breaks_nothing(path):
    """No error but ours, no standstill, and nothing but what OpenAI's contract allows comes out."""
    TARGETS[path.partition("/")[0]]((CORPUS / path).read_bytes())


def test_every_target_has_a_corpus():
    assert {path.partition("/")[0] for path in INPUTS} == TARGETS.keys()
