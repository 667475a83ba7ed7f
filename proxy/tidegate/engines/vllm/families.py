"""Chooses vLLM's parsers for a model of any family whose parsers are documented; no I/O.

The sources are vLLM's pages on tool calling and on reasoning (0.26 to 0.32), the model strings in its parsers
(`vllm/tool_parsers`, `vllm/parser`, `vllm/reasoning`), and the cards of the models. A model that is not in `FAMILIES`
gets no parser; the operator can set one under `args`.

The model type gives the family, and the chat template shows which markup the model writes. For example, Qwen3's coding
models write calls as XML and its other models as JSON, and a finetuned Llama may write Hermes' markup. A parser whose
markup is not in the template is not chosen: the model would not write that markup, and with some parsers vLLM refuses
to start if the tokenizer lacks their tokens. With the empty string as markup in `FAMILIES`, the model type alone
decides.

- Gemma 3 has no markup of its own for calls; FunctionGemma, of the same model type, has one.
- Llama 4 has templates of two kinds: with calls as JSON, like Llama 3, and with calls as Python code (pythonic).
- Models that always think (Qwen3's `Thinking` models) begin their answer inside the thinking. Their cards name
  `deepseek_r1`, which takes all text up to `</think>` as thinking. `qwen3` follows the switch `enable_thinking`.
- The `minimax_m2_append_think` that vLLM's page names leaves the thinking in the content; `minimax_m2` separates it.
- Mistral's own format (`consolidated*.safetensors`) has no chat template. vLLM detects the format, and chooses the
  flags for it, by itself. Mistral's tokenizers have the token `[TOOL_CALLS]` from version 3 on.
- GLM-4.7 has the model type of GLM-4.5, but another parser for tools.
- Phi-4-mini, InternLM 2, Apertus and Command A are left out: their templates do not read the tools as vLLM gives them,
  or their parsers need further packages.
"""

import re
from collections.abc import Mapping

from msgspec import Struct

from tidegate.engines.vllm import deepseek
from tidegate.engines.vllm.checkpoint import Checkpoint
from tidegate.engines.vllm.deepseek import Choices

_ALWAYS = ""  # the empty string is in every template
_HERMES = {"<tool_call>": "hermes"}
_THINK = "<think>"
_BEGINS_THINKING = r"assistant\n<think>"  # in the source of a template the line break is written as backslash and n
_LLAMA_JSON = '{"name": function name, "parameters": '  # from the instruction in Meta's templates


class Family(Struct, frozen=True):
    """The parsers of a model family, by the markup in a chat template; the first markup that the template has counts.

    Attributes:
        tools: parsers for tool calls.
        reasoning: parsers that separate the thinking from the answer.
    """

    tools: Mapping[str, str] = {}
    reasoning: Mapping[str, str] = {}


_QWEN2 = Family(tools=_HERMES)
_QWEN3 = Family(
    tools={"<function=": "qwen3_xml"} | _HERMES,
    reasoning={"enable_thinking": "qwen3", _BEGINS_THINKING: "deepseek_r1"},
)
_GLM45 = Family(tools={"<arg_key>": "glm45"}, reasoning={_THINK: "glm45"})
_GLM47 = Family(tools={"<arg_key>": "glm47"}, reasoning={_THINK: "glm45"})
_KIMI_K2 = Family(tools={_ALWAYS: "kimi_k2"}, reasoning={_THINK: "kimi_k2"})
_MISTRAL = Family(tools={"[TOOL_CALLS]": "mistral"} | _HERMES)
_GEMMA3 = Family(tools={"<start_function_call>": "functiongemma"})
_GEMMA4 = Family(tools={"<|tool_call>": "gemma4"}, reasoning={"<|channel>": "gemma4"})
_GRANITE = Family(
    tools={"<|tool_call|>": "granite", "<tool_call>": "granite4"},
    reasoning={"Here is my thought process": "granite"},
)
_ERNIE = Family(tools={"<tool_call>": "ernie45"}, reasoning={_THINK: "ernie45"})
_LFM2 = Family(tools={"<|tool_call_start|>": "lfm2", "<|tool_list_start|>": "lfm2"})

FAMILIES: Mapping[str, Family] = {
    "ernie4_5": _ERNIE,
    "ernie4_5_moe": _ERNIE,
    "exaone4": Family(tools=_HERMES),
    "gemma3": _GEMMA3,
    "gemma3_text": _GEMMA3,
    "gemma4": _GEMMA4,
    "glm4_moe": _GLM45,
    "glm4_moe_lite": _GLM47,
    "glm4v_moe": _GLM45,
    "glm_moe_dsa": _GLM47,
    "gpt_oss": Family(tools={_ALWAYS: "openai"}, reasoning={_ALWAYS: "openai_gptoss"}),
    "granite": _GRANITE,
    "granitemoe": _GRANITE,
    "granitemoehybrid": _GRANITE,
    "hunyuan_v1_moe": Family(tools={"<tool_calls>": "hunyuan_a13b"}, reasoning={"enable_thinking": "hunyuan_a13b"}),
    "jamba": Family(tools={"<tool_calls>": "jamba"}),
    "kimi_k2": _KIMI_K2,
    "kimi_k25": _KIMI_K2,
    "lfm2": _LFM2,
    "lfm2_moe": _LFM2,
    "llama": Family(tools=_HERMES | {_LLAMA_JSON: "llama3_json"}),
    "llama4": Family(tools={_LLAMA_JSON: "llama4_json", _ALWAYS: "llama4_pythonic"}),
    "longcat_flash": Family(tools={"<longcat_tool_call>": "longcat"}),
    "minimax_m2": Family(tools={"<minimax:tool_call>": "minimax_m2"}, reasoning={_THINK: "minimax_m2"}),
    "ministral3": _MISTRAL,
    "mistral": _MISTRAL,
    "mistral3": _MISTRAL,
    "mixtral": _MISTRAL,
    "mllama": Family(tools={_LLAMA_JSON: "llama3_json"}),
    "olmo3": Family(tools={"<function_calls>": "olmo3"}, reasoning={_THINK: "olmo3"}),
    "qwen2": _QWEN2,
    "qwen2_5_vl": _QWEN2,
    "qwen2_moe": _QWEN2,
    "qwen2_vl": _QWEN2,
    "qwen3": _QWEN3,
    "qwen3_5": _QWEN3,
    "qwen3_5_moe": _QWEN3,
    "qwen3_moe": _QWEN3,
    "qwen3_next": _QWEN3,
    "qwen3_omni_moe": _QWEN3,
    "qwen3_vl": _QWEN3,
    "qwen3_vl_moe": _QWEN3,
    "seed_oss": Family(tools={"<seed:tool_call>": "seed_oss"}, reasoning={"<seed:think>": "seed_oss"}),
    "smollm3": Family(tools=_HERMES),
    "step3_vl": Family(tools={_ALWAYS: "step3"}, reasoning={_ALWAYS: "step3"}),
    "step3p5": Family(tools={_ALWAYS: "step3p5"}, reasoning={_ALWAYS: "step3p5"}),
}
_NEWER_GLM = re.compile(r"glm-4[._]7")
_LLAMA_NAME = re.compile(r"llama-3\.[123]")


def choose(checkpoint: Checkpoint) -> Choices:
    """Return the flags that describe the model's markup to vLLM."""
    if (choices := deepseek.choose(checkpoint)) is not None:
        return choices
    family = _family_of(checkpoint)
    template = checkpoint.template
    return Choices(
        reasoning_parser=_find(family.reasoning, template) or _reasoning_by_name(checkpoint),
        tool_call_parser=_find(family.tools, template) or _tools_by_name(checkpoint),
    )


def reasoning_parsers() -> frozenset[str]:
    """Return every reasoning parser that `choose` can return."""
    of_deepseek = {each.reasoning_parser for each in deepseek.CHOICES.values() if each.reasoning_parser is not None}
    return frozenset({"mistral"}.union(of_deepseek, *(family.reasoning.values() for family in FAMILIES.values())))


def tool_call_parsers() -> frozenset[str]:
    """Return every parser for tool calls that `choose` can return."""
    of_deepseek = {each.tool_call_parser for each in deepseek.CHOICES.values() if each.tool_call_parser is not None}
    return frozenset(of_deepseek.union(*(family.tools.values() for family in FAMILIES.values())))


def _family_of(checkpoint: Checkpoint) -> Family:
    if checkpoint.model_type == "glm4_moe" and _NEWER_GLM.search(checkpoint.name.lower()):
        return _GLM47
    return FAMILIES.get(checkpoint.model_type, Family())


def _find(parsers: Mapping[str, str], template: str) -> str | None:
    return next((parser for markup, parser in parsers.items() if markup in template), None)


def _reasoning_by_name(checkpoint: Checkpoint) -> str | None:
    """Return the reasoning parser by the model's name, for a template that does not decide or is missing."""
    name, family = checkpoint.name.lower(), checkpoint.model_type
    if family == "qwen2" and "qwq" in name:
        return "deepseek_r1"
    if family == "kimi_k2" and "thinking" in name:
        return "kimi_k2"
    return "mistral" if checkpoint.has_mistral_format and "magistral" in name else None


def _tools_by_name(checkpoint: Checkpoint) -> str | None:
    """Return the parser for tool calls, for a template that does not decide or is missing."""
    if checkpoint.has_mistral_format:
        return "mistral"
    is_llama = checkpoint.model_type == "llama" and not checkpoint.template
    return "llama3_json" if is_llama and _LLAMA_NAME.search(checkpoint.name.lower()) else None
