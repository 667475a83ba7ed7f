"""Which parsers a DeepSeek model gets: each generation, and models that are easily confused."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tidegate.config.cards import known_cards
from tidegate.engines.vllm.checkpoint import Checkpoint
from tidegate.engines.vllm.deepseek import CARDS, CHOICES, Choices, choose, generation_of

# short templates with only those parts of the models' own templates by which a parser is chosen
_HEAD = "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] }}{% endif %}{% endfor %}"
_TURNS = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ '<｜User｜>' + m['content'] }}{% endif %}"
    "{% for call in m['tool_calls'] or [] %}{{ '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>' + CALL"
    " + '<｜tool▁call▁end｜><｜tool▁calls▁end｜>' }}{% endfor %}{% endfor %}"
)
_V3_CALL = (
    "call['type'] + '<｜tool▁sep｜>' + call['function']['name']"
    " + '\\n```json\\n' + call['function']['arguments'] + '\\n```'"
)
_V31_CALL = "call['function']['name'] + '<｜tool▁sep｜>' + call['function']['arguments']"
V3_TEMPLATE = _HEAD + _TURNS.replace("CALL", _V3_CALL) + "{{ '<｜Assistant｜>' }}"
R1_TEMPLATE = V3_TEMPLATE + "{{ '<think>\\n' }}"
R1_SWITCHED = V3_TEMPLATE + "{% if thinking is not defined or thinking %}{{ '<think>\\n' }}{% endif %}"
V31_TEMPLATE = (
    "{% if not thinking is defined %}{% set thinking = false %}{% endif %}"
    + _HEAD
    + _TURNS.replace("CALL", _V31_CALL)
    + "{{ '<｜Assistant｜>' }}{% if thinking %}<think>{% else %}</think>{% endif %}"
)
WITH_TOOLS = R1_TEMPLATE + "{% if tools %}{{ tools|tojson }}{% endif %}"


def of(name, architecture=None, template=""):
    return Checkpoint(name=name, architectures=() if architecture is None else (architecture,), template=template)


@pytest.mark.parametrize(
    ("name", "generation"),
    [
        ("deepseek-ai/DeepSeek-V2-Lite-Chat", "v2"),
        ("deepseek-ai/DeepSeek-Coder-V2-Instruct", "v2"),
        ("deepseek-ai/DeepSeek-V2.5-1210", "v2"),
        ("deepseek-ai/DeepSeek-V3", "v3"),
        ("deepseek-ai/DeepSeek-V3-0324", "v3"),
        ("deepseek-ai/DeepSeek-R1", "r1"),
        ("deepseek-ai/DeepSeek-R1-0528", "r1"),
        ("deepseek-ai/DeepSeek-R1-0528-Qwen3-8B", "r1"),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", "r1"),
        ("deepseek-ai/DeepSeek-R1-Distill-Llama-70B", "r1"),
        ("nvidia/DeepSeek-R1-0528-FP4", "r1"),
        ("/models/DeepSeek-V3.1-Terminus/", "v3.1"),
        ("deepseek-ai/DeepSeek-V3.2-Exp", "v3.2-exp"),
        ("deepseek-ai/DeepSeek-V3.2", "v3.2"),
        ("deepseek-ai/DeepSeek-V4-Flash", "v4"),
        ("RedHatAI/DeepSeek-V4-Flash-NVFP4-FP8", "v4"),
        ("deepseek-ai/DeepSeek-V4.1-Flash", "v4.1"),
        ("models/tiny-deepseek-v4wire", "v4"),
        ("DeepSeekV3", "v3"),
        ("deepseek-ai/deepseek-llm-7b-chat", None),
        ("Qwen/Qwen2.5-7B-Instruct", None),
        ("meta-llama/Llama-3.1-8B-Instruct", None),
        ("someone/r1-of-mine", None),
    ],
)
def test_a_name_gives_the_generation(name, generation):
    assert generation_of(of(name)) == generation


@pytest.mark.parametrize(
    ("architecture", "generation"),
    [
        ("DeepseekV2ForCausalLM", "v2"),
        ("DeepseekV32ForCausalLM", "v3.2"),
        ("DeepseekV4ForCausalLM", "v4"),
        ("DeepseekV4ForConditionalGeneration", "v4"),
        ("DeepseekV41ForCausalLM", "v4.1"),
        ("DeepseekV3ForCausalLM", None),  # Kimi K2 has it as well
        ("Qwen2ForCausalLM", None),
    ],
)
def test_an_architecture_of_a_single_generation_gives_the_generation(architecture, generation):
    assert generation_of(of("/models/mine", architecture)) == generation


def test_v32_exp_gets_the_parsers_of_v31_though_its_architecture_is_that_of_v32():
    chosen = choose(of("deepseek-ai/DeepSeek-V3.2-Exp", "DeepseekV32ForCausalLM"))
    assert (chosen.tool_call_parser, chosen.tokenizer_mode) == ("deepseek_v31", "hf")


@pytest.mark.parametrize(
    ("template", "generation"),
    [(V3_TEMPLATE, "v3"), (R1_TEMPLATE, "r1"), (R1_SWITCHED, "r1"), (V31_TEMPLATE, "v3.1")],
)
def test_a_template_gives_the_generation_if_the_name_does_not(template, generation):
    assert generation_of(of("/models/mine", "DeepseekV3ForCausalLM", template)) == generation


def test_each_generation_has_its_parsers():
    expected = {
        "v2": Choices(),
        "v3": Choices(tool_call_parser="deepseek_v3"),
        "r1": Choices(reasoning_parser="deepseek_r1", tool_call_parser="deepseek_v3"),
        "v3.1": Choices(
            reasoning_parser="deepseek_v3", tool_call_parser="deepseek_v31", template_kwargs={"thinking": False}
        ),
        "v3.2-exp": Choices(
            reasoning_parser="deepseek_v3",
            tool_call_parser="deepseek_v31",
            tokenizer_mode="hf",
            template_kwargs={"thinking": False},
        ),
        "v3.2": Choices(
            reasoning_parser="deepseek_v3",
            tool_call_parser="deepseek_v32",
            tokenizer_mode="deepseek_v32",
            template_kwargs={"thinking": False},
        ),
        "v4": Choices(reasoning_parser="deepseek_v4", tool_call_parser="deepseek_v4", tokenizer_mode="deepseek_v4"),
        "v4.1": Choices(
            reasoning_parser="deepseek_v41", tool_call_parser="deepseek_v41", tokenizer_mode="deepseek_v41"
        ),
    }
    assert expected == CHOICES


def test_an_r1_with_a_thinking_switch_gets_the_parser_that_follows_the_switch():
    """Rows 76i and 76j: with thinking off, R1's own parser would put the whole answer into the reasoning."""
    chosen = choose(of("tiny-r1-qwen", "Qwen2ForCausalLM", R1_SWITCHED))
    assert (chosen.reasoning_parser, chosen.template_kwargs) == ("deepseek_v3", {"thinking": True})


def test_a_model_without_tokens_for_calls_gets_no_tool_call_parser():
    """Without the tokens for calls in the vocabulary, the parser would fail every request with tools."""
    template = "{% for m in messages %}{{ m['content'] }}{% endfor %}<｜Assistant｜>"
    assert choose(of("DeepSeek-R1-Distill-Qwen-7B", "Qwen2ForCausalLM", template)).tool_call_parser is None
    assert choose(of("DeepSeek-V2-Lite-Chat", "DeepseekV2ForCausalLM", template)).tool_call_parser is None
    assert choose(of("DeepSeek-V2.5", "DeepseekV2ForCausalLM", V3_TEMPLATE)).tool_call_parser == "deepseek_v3"


def test_a_template_that_reads_tools_is_not_changed():
    assert choose(of("DeepSeek-R1", "DeepseekV3ForCausalLM", WITH_TOOLS)).chat_template is None


@pytest.mark.parametrize("name", ["DeepSeek-V3.2", "DeepSeek-V4-Flash", "DeepSeek-V4.1-Flash"])
def test_a_model_with_a_prompt_encoder_gets_no_template(name):
    assert choose(of(name, template=V31_TEMPLATE)).chat_template is None


# --- the tools in front of the template -------------------------------------------------------------------------------

TOOLS = [{"type": "function", "function": {"name": "get_weather", "description": "By city.", "parameters": {"a": 1}}}]
CALLED = [
    {"role": "user", "content": "Paris?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "1", "type": "function", "function": {"name": "get_weather", "arguments": {"a": "ü"}}}],
    },
]


def render(template, messages, **variables):
    """Render the template in the same way as Transformers does."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    return environment.from_string(template).render(messages=messages, bos_token="<B>", **variables)


def with_tools(template):
    return choose(of("/m/deepseek", "DeepseekV3ForCausalLM", template)).chat_template


@given(
    st.sampled_from([V3_TEMPLATE, R1_TEMPLATE, R1_SWITCHED, V31_TEMPLATE]),
    st.lists(st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant"]), "content": st.text()})),
    st.sampled_from([{}, {"thinking": True}, {"thinking": False}, {"tools": None}]),
)
def test_without_tools_the_prompt_is_the_same(template, messages, variables):
    assert render(with_tools(template), messages, **variables) == render(template, messages, **variables)


@pytest.mark.parametrize(
    ("template", "call"),
    [
        (R1_TEMPLATE, "function<｜tool▁sep｜>NAME\n```json\nARGUMENTS\n```"),
        (V31_TEMPLATE, "NAME<｜tool▁sep｜>ARGUMENTS"),
    ],
)
def test_tools_are_listed_in_the_system_message(template, call):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Paris?"}]
    prompt = render(with_tools(template), messages, tools=TOOLS)
    assert prompt.startswith("<B>Be brief.\n\n## Tools\n\n")
    assert '### get_weather\nDescription: By city.\nParameters: {"a": 1}\n' in prompt
    assert f"<｜tool▁call▁begin｜>{call}<｜tool▁call▁end｜>" in prompt
    assert render(with_tools(template), messages[1:], tools=TOOLS).startswith("<B>## Tools\n\n")


@pytest.mark.parametrize(
    ("template", "call"),
    [
        (V3_TEMPLATE, 'function<｜tool▁sep｜>get_weather\n```json\n{"a": "ü"}\n```'),
        (V31_TEMPLATE, 'get_weather<｜tool▁sep｜>{"a": "ü"}'),
    ],
)
def test_arguments_of_earlier_calls_become_text(template, call):
    with pytest.raises(TypeError):
        render(template, CALLED)
    assert f"<｜tool▁call▁begin｜>{call}<｜tool▁call▁end｜>" in render(with_tools(template), CALLED)


def test_every_generation_has_choices_and_a_card():
    """The card has the effort map, and says whether the model thinks by default."""
    assert CARDS.keys() == CHOICES.keys()
    assert set(CARDS.values()) <= known_cards().keys()
