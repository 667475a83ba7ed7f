"""Which of vLLM's parsers understand a model, for the families that vLLM's documentation names; no I/O.

The source is vLLM's pages on tool calling and on reasoning (0.26 to 0.32). A model that is not here gets no parser: its
owner names one under `args`.
"""

from proxy.engines import deepseek
from proxy.engines.checkpoint import Checkpoint
from proxy.engines.deepseek import Choices

_NONE = Choices()
_QWEN2 = frozenset({"qwen2", "qwen2_moe"})
_QWEN3 = frozenset({"qwen3", "qwen3_moe"})


def choose(checkpoint: Checkpoint) -> Choices:
    """What vLLM is told of a model's markup."""
    if (choices := deepseek.choose(checkpoint)) is not None:
        return choices
    name = checkpoint.name.lower()
    if checkpoint.model_type in _QWEN3:
        return _qwen3(checkpoint.template)
    if checkpoint.model_type in _QWEN2:
        return Choices(
            reasoning_parser="deepseek_r1" if "qwq" in name else None,
            tool_call_parser="hermes" if "<tool_call>" in checkpoint.template else None,
        )
    if checkpoint.model_type == "llama" and any(f"llama-3.{minor}" in name for minor in (1, 2, 3)):
        return Choices(tool_call_parser="llama3_json")
    if checkpoint.model_type == "kimi_k2":
        return Choices(tool_call_parser="kimi_k2")
    return _NONE


def _qwen3(template: str) -> Choices:
    """The switch shows a model that thinks; the coders write calls as XML, the others as JSON."""
    reasoning = "qwen3" if "enable_thinking" in template else None
    if "<function=" in template:
        return Choices(reasoning_parser=reasoning, tool_call_parser="qwen3_xml")
    return Choices(reasoning_parser=reasoning, tool_call_parser="hermes" if "<tool_call>" in template else None)
