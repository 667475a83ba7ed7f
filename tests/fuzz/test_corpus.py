"""Runs the targets on the corpus: inputs that fuzzing found, and those that it started from (`tests/fuzz/run.py`)."""

from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS

CORPUS = Path(__file__).with_name("corpus")
INPUTS = sorted(path.relative_to(CORPUS).as_posix() for path in CORPUS.glob("*/*"))


@pytest.mark.parametrize("path", INPUTS)
def test_an_input_of_the_corpus_breaks_nothing(path):
    """The only exception is `ProxyError`, nothing hangs, and the output conforms to OpenAI's contract."""
    TARGETS[path.partition("/")[0]]((CORPUS / path).read_bytes())


def test_every_target_has_a_corpus():
    assert {path.partition("/")[0] for path in INPUTS} == TARGETS.keys()
