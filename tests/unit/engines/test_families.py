"""Which parsers other models get."""

import pytest

from proxy.engines.checkpoint import Checkpoint
from proxy.engines.families import choose


@pytest.mark.parametrize(
    ("name", "model_type", "template", "reasoning", "tools"),
    [
        ("Qwen/Qwen2.5-7B-Instruct", "qwen2", "<tool_call>", None, "hermes"),
        ("Qwen/QwQ-32B", "qwen2", "<tool_call>", "deepseek_r1", "hermes"),
        ("Qwen/Qwen3-8B", "qwen3", "<tool_call> enable_thinking", "qwen3", "hermes"),
        ("Qwen/Qwen3-30B-A3B-Instruct-2507", "qwen3_moe", "<tool_call>", None, "hermes"),
        ("Qwen/Qwen3-Coder-30B-A3B-Instruct", "qwen3_moe", "<tool_call><function=", None, "qwen3_xml"),
        ("meta-llama/Llama-3.1-8B-Instruct", "llama", "", None, "llama3_json"),
        ("meta-llama/Meta-Llama-3-8B-Instruct", "llama", "", None, None),
        ("moonshotai/Kimi-K2-Instruct", "kimi_k2", "", None, "kimi_k2"),
        ("deepseek-ai/DeepSeek-R1-Distill-Llama-8B", "llama", "", "deepseek_r1", "deepseek_v3"),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", "qwen2", "", "deepseek_r1", "deepseek_v3"),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "llama", "", None, None),
        ("mistralai/Mistral-7B-Instruct-v0.3", "mistral", "", None, None),
    ],
)
def test_only_a_documented_family_gets_a_parser(name, model_type, template, reasoning, tools):
    chosen = choose(Checkpoint(name=name, model_type=model_type, template=template))
    assert (chosen.reasoning_parser, chosen.tool_call_parser) == (reasoning, tools)
