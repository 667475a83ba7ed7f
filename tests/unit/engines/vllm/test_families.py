"""Which parsers models of other families than DeepSeek get."""

import pytest

from tidegate.engines.vllm.checkpoint import Checkpoint
from tidegate.engines.vllm.families import choose

HERMES = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
XML = "<tool_call>\n<function=f>\n<parameter=p>"
LLAMA = (
    """{{- 'Respond in the format {"name": function name, "parameters": dictionary of argument name and value}.' }}"""
)
BEGINS_THINKING = r"{{- '<|im_start|>assistant\n<think>\n' }}"
GLM = "<tool_call>{name}<arg_key>{key}</arg_key> <think>"


@pytest.mark.parametrize(
    ("name", "model_type", "template", "reasoning", "tools"),
    [
        ("Qwen/Qwen2.5-7B-Instruct", "qwen2", HERMES, None, "hermes"),
        ("Qwen/QwQ-32B", "qwen2", HERMES, "deepseek_r1", "hermes"),
        ("Qwen/Qwen2.5-VL-7B-Instruct", "qwen2_5_vl", HERMES, None, "hermes"),
        ("Qwen/Qwen3-8B", "qwen3", f"{HERMES} enable_thinking", "qwen3", "hermes"),
        ("Qwen/Qwen3-30B-A3B-Instruct-2507", "qwen3_moe", HERMES, None, "hermes"),
        ("Qwen/Qwen3-30B-A3B-Thinking-2507", "qwen3_moe", HERMES + BEGINS_THINKING, "deepseek_r1", "hermes"),
        ("Qwen/Qwen3-Coder-30B-A3B-Instruct", "qwen3_moe", XML, None, "qwen3_xml"),
        ("Qwen/Qwen3-Next-80B-A3B-Instruct", "qwen3_next", HERMES, None, "hermes"),
        ("Qwen/Qwen3-Next-80B-A3B-Thinking", "qwen3_next", HERMES + BEGINS_THINKING, "deepseek_r1", "hermes"),
        ("Qwen/Qwen3-Coder-Next", "qwen3_next", XML, None, "qwen3_xml"),
        ("Qwen/Qwen3-VL-8B-Instruct", "qwen3_vl", HERMES, None, "hermes"),
        ("Qwen/Qwen3-VL-235B-A22B-Thinking", "qwen3_vl_moe", HERMES + BEGINS_THINKING, "deepseek_r1", "hermes"),
        ("Qwen/Qwen3-Omni-30B-A3B-Instruct", "qwen3_omni_moe", HERMES, None, "hermes"),
        ("Qwen/Qwen3.5-27B", "qwen3_5", f"{XML} enable_thinking {BEGINS_THINKING}", "qwen3", "qwen3_xml"),
        ("Qwen/Qwen3.5-397B-A17B", "qwen3_5_moe", f"{XML} enable_thinking", "qwen3", "qwen3_xml"),
        ("meta-llama/Llama-3.1-8B-Instruct", "llama", LLAMA, None, "llama3_json"),
        ("meta-llama/Llama-3.1-8B-Instruct", "llama", "", None, "llama3_json"),
        ("meta-llama/Llama-3.2-11B-Vision-Instruct", "mllama", LLAMA, None, "llama3_json"),
        ("meta-llama/Meta-Llama-3-8B-Instruct", "llama", "", None, None),
        ("/models/our-own-llama", "llama", LLAMA, None, "llama3_json"),
        ("NousResearch/Hermes-3-Llama-3.1-8B", "llama", HERMES, None, "hermes"),
        ("someone/Llama-3.1-storyteller", "llama", "{{ messages }}", None, None),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "llama", "", None, None),
        ("HuggingFaceTB/SmolLM3-3B", "smollm3", HERMES, None, "hermes"),
        ("meta-llama/Llama-4-Scout-17B-16E-Instruct", "llama4", "{{ tools }}", None, "llama4_pythonic"),
        ("meta-llama/Llama-4-Scout-17B-16E-Instruct", "llama4", LLAMA, None, "llama4_json"),
        ("openai/gpt-oss-20b", "gpt_oss", "", "openai_gptoss", "openai"),
        ("moonshotai/Kimi-K2-Instruct", "kimi_k2", "", None, "kimi_k2"),
        ("moonshotai/Kimi-K2-Thinking", "kimi_k2", "", "kimi_k2", "kimi_k2"),
        ("/models/k2", "kimi_k2", "<think></think>", "kimi_k2", "kimi_k2"),
        ("moonshotai/Kimi-K2.5", "kimi_k25", "<think>", "kimi_k2", "kimi_k2"),
        ("zai-org/GLM-4.5-Air", "glm4_moe", GLM, "glm45", "glm45"),
        ("zai-org/GLM-4.6", "glm4_moe", GLM, "glm45", "glm45"),
        ("zai-org/GLM-4.7", "glm4_moe", GLM, "glm45", "glm47"),
        ("zai-org/GLM-4.7-Flash", "glm4_moe_lite", GLM, "glm45", "glm47"),
        ("zai-org/GLM-4.6V", "glm4v_moe", GLM, "glm45", "glm45"),
        ("zai-org/GLM-5", "glm_moe_dsa", GLM, "glm45", "glm47"),
        ("MiniMaxAI/MiniMax-M2", "minimax_m2", "<minimax:tool_call> <think>", "minimax_m2", "minimax_m2"),
        ("google/gemma-3-27b-it", "gemma3", "<start_of_turn>", None, None),
        ("google/functiongemma-270m-it", "gemma3_text", "<start_function_call>", None, "functiongemma"),
        ("google/gemma-4-31b-it", "gemma4", "<|tool_call> <|channel>", "gemma4", "gemma4"),
        ("mistralai/Mistral-7B-Instruct-v0.3", "mistral", "[TOOL_CALLS]", None, "mistral"),
        ("mistralai/Mistral-7B-Instruct-v0.2", "mistral", "[INST]", None, None),
        ("mistralai/Mistral-Small-3.2-24B-Instruct-2506", "mistral3", "[TOOL_CALLS]", None, "mistral"),
        ("NousResearch/Hermes-2-Pro-Mistral-7B", "mistral", HERMES, None, "hermes"),
        ("ibm-granite/granite-3.1-8b-instruct", "granite", "<|tool_call|>", None, "granite"),
        ("ibm-granite/granite-3.2-8b-instruct", "granite", "Here is my thought process:", "granite", None),
        ("ibm-granite/granite-4.0-h-small", "granitemoehybrid", "<tool_call>", None, "granite4"),
        ("ByteDance-Seed/Seed-OSS-36B", "seed_oss", "<seed:tool_call> <seed:think>", "seed_oss", "seed_oss"),
        ("stepfun-ai/step3", "step3_vl", "", "step3", "step3"),
        ("stepfun-ai/Step-3.5-Flash", "step3p5", "", "step3p5", "step3p5"),
        ("tencent/Hunyuan-A13B-Instruct", "hunyuan_v1_moe", "<tool_calls>", None, "hunyuan_a13b"),
        ("baidu/ERNIE-4.5-21B-A3B-PT", "ernie4_5_moe", "{{ messages }}", None, None),
        ("baidu/ERNIE-4.5-21B-A3B-Thinking", "ernie4_5_moe", "<think> <tool_call>", "ernie45", "ernie45"),
        ("allenai/Olmo-3-7B-Instruct", "olmo3", "<function_calls>", None, "olmo3"),
        ("deepseek-ai/DeepSeek-R1-Distill-Llama-8B", "llama", "", "deepseek_r1", "deepseek_v3"),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", "qwen2", "", "deepseek_r1", "deepseek_v3"),
        ("microsoft/Phi-4-mini-instruct", "phi3", "<|tool|>", None, None),
    ],
)
def test_a_model_gets_the_documented_parsers_of_its_family(name, model_type, template, reasoning, tools):
    chosen = choose(Checkpoint(name=name, model_type=model_type, template=template))
    assert (chosen.reasoning_parser, chosen.tool_call_parser) == (reasoning, tools)


@pytest.mark.parametrize(
    ("name", "reasoning"), [("mistralai/Mistral-Small-3.1", None), ("mistralai/Magistral-Small-2509", "mistral")]
)
def test_a_model_in_mistrals_own_format_gets_the_parser_without_a_template(name, reasoning):
    chosen = choose(Checkpoint(name=name, model_type="mistral3", has_mistral_format=True))
    assert (chosen.reasoning_parser, chosen.tool_call_parser) == (reasoning, "mistral")
