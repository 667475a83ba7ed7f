"""Chooses vLLM's parsers for a DeepSeek model by architecture, name and chat template; no I/O.

vLLM recognises a model's thinking and tool calls only if its flags name the parser for the markup that the model
writes. With a wrong parser it puts whole answers into the reasoning (contract, rows 76i and 76j), or leaves markup in
the text.

The architecture alone decides only from V3.2 on. Before that, one architecture serves generations of different markup:
R1, V3 and V3.1 are all `DeepseekV3ForCausalLM`, the distilled R1 models are Qwen2 and Llama, and Kimi K2 of another
vendor is `DeepseekV3ForCausalLM` too. For those the model's name decides and, if the name does not show the generation,
the chat template, which contains the markup itself.

| generation | reasoning | tools | source |
| --- | --- | --- | --- |
| V2 | none, it does not think | V3's, if its template has the markup | vLLM's parser refuses other vocabularies |
| V3, V3-0324 | none | deepseek_v3 | vLLM's page on tool calling |
| R1 and its distilled models | deepseek_r1 | deepseek_v3 | vLLM's pages on reasoning and tool calling |
| R1, if the template has a switch | deepseek_v3, on | deepseek_v3 | reference `vllm.md` section 5; rows 76i, 76j |
| V3.1 | deepseek_v3, off | deepseek_v31 | rows 64, B.16; vLLM's pages |
| V3.2-Exp | deepseek_v3, off; own template | deepseek_v31 | SGLang's page on tool parsers; not tested with the model |
| V3.2 | deepseek_v3, off | deepseek_v32 | vLLM's recipe; row 64, B.16 |
| V4 | deepseek_v4 | deepseek_v4 | rows 61, 62, 66; reference `vllm.md` section 2 |
| V4.1 | deepseek_v41 | deepseek_v41 | rows 63, 65, 66 |

"On" and "off" is the default of the template's switch for thinking, which Tidegate sets.

V4 and V4.1 think by default: their prompt encoders switch thinking on. No default is set for them here, because it
would override a caller's `enable_thinking: false` (row 62).

The chat templates in the checkpoints of V3, R1 and V3.1 have two faults. They show the model its earlier calls, but
never the list of tools, so the model would call none. And they expect the arguments of earlier calls as text, but vLLM
gives them an object. (vLLM's page on tool calling recommends another template for each model.) `TOOLS` is put in front
of the checkpoint's own template and corrects both: it adds the tools to the system message, and turns the arguments
into text. For a request without tools and calls the prompt stays exactly the same.
"""

import re
from collections.abc import Mapping
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from tidegate.engines.vllm.checkpoint import Checkpoint

Generation = Literal["v2", "v3", "r1", "v3.1", "v3.2-exp", "v3.2", "v4", "v4.1"]

_ASSISTANT = "<｜Assistant｜>"
_CALLS = "<｜tool▁calls▁begin｜>"
_JSON_CALL = "```json"  # V3 and R1 put a call's arguments into a code block, V3.1 does not
_THINKING_SWITCH = re.compile(r"\b(?:enable_)?thinking\b")
_TOOLS = re.compile(r"\btools\b")
_GENERATION = re.compile(r"(?:^|[^a-z0-9]|deepseek)(?:(r)1|v(\d)(?:[._]?(\d))?)(?![0-9])")
_EXPERIMENT = re.compile(r"[^a-z]exp(?![a-z])")


class Choices(Struct, frozen=True, kw_only=True):
    """The flags that describe a model's markup to vLLM; None: vLLM's own default holds.

    Attributes:
        reasoning_parser: the parser that separates the thinking from the answer.
        tool_call_parser: the parser for tool calls.
        tokenizer_mode: the tokenizer mode, which also selects the prompt encoder.
        template_kwargs: the default arguments of the chat template; a request can override them.
        chat_template: the whole source of a chat template, in place of the checkpoint's own.
    """

    reasoning_parser: str | None = None
    tool_call_parser: str | None = None
    tokenizer_mode: str | None = None
    template_kwargs: Mapping[str, bool] = {}
    chat_template: str | None = None


_THINKING_OFF = {"thinking": False}
_V31 = Choices(reasoning_parser="deepseek_v3", tool_call_parser="deepseek_v31", template_kwargs=_THINKING_OFF)

CHOICES: Mapping[Generation, Choices] = {
    "v2": Choices(),
    "v3": Choices(tool_call_parser="deepseek_v3"),
    "r1": Choices(reasoning_parser="deepseek_r1", tool_call_parser="deepseek_v3"),
    "v3.1": _V31,
    # without this flag vLLM uses the prompt encoder of V3.2, because the architecture is the same
    "v3.2-exp": replace(_V31, tokenizer_mode="hf"),
    "v3.2": Choices(
        reasoning_parser="deepseek_v3",
        tool_call_parser="deepseek_v32",
        tokenizer_mode="deepseek_v32",
        template_kwargs=_THINKING_OFF,
    ),
    "v4": Choices(reasoning_parser="deepseek_v4", tool_call_parser="deepseek_v4", tokenizer_mode="deepseek_v4"),
    "v4.1": Choices(reasoning_parser="deepseek_v41", tool_call_parser="deepseek_v41", tokenizer_mode="deepseek_v41"),
}

# the name of the model card of each generation (`configs/models.yaml`), for models whose names do not show it
CARDS: Mapping[Generation, str] = {
    "v2": "deepseek-v2",
    "v3": "deepseek-v3",
    "r1": "deepseek-r1",
    "v3.1": "deepseek-v3.1",
    "v3.2-exp": "deepseek-v3.1",
    "v3.2": "deepseek-v3.2",
    "v4": "deepseek-v4",
    "v4.1": "deepseek-v4.1",
}

_ARCHITECTURES: Mapping[str, Generation] = {
    "DeepseekV2ForCausalLM": "v2",
    "DeepseekV32ForCausalLM": "v3.2",
    "DeepseekV4ForCausalLM": "v4",
    "DeepseekV4ForConditionalGeneration": "v4",
    "DeepseekV41ForCausalLM": "v4.1",
}
_MINORS: Mapping[tuple[str, str], Generation] = {
    ("3", "1"): "v3.1",
    ("3", "2"): "v3.2",
    ("4", "1"): "v4.1",
}
_MAJORS: Mapping[str, Generation] = {"2": "v2", "3": "v3", "4": "v4"}

# how the model has to write one call, by parser; replaces CALL_FORM in `TOOLS`
_CALL_FORMS = {
    "deepseek_v3": r"function<｜tool▁sep｜>NAME\n```json\nARGUMENTS\n```",
    "deepseek_v31": "NAME<｜tool▁sep｜>ARGUMENTS",
}
TOOLS = r"""
{%- set own = namespace(messages=[], tools='') %}
{%- for message in messages %}
  {%- set calls = namespace(all=[]) %}
  {%- for call in message.tool_calls or [] %}
    {%- set arguments = call.function.arguments %}
    {%- set arguments = arguments if arguments is string else arguments|tojson %}
    {%- set calls.all = calls.all + [dict(call, function=dict(call.function, arguments=arguments))] %}
  {%- endfor %}
  {%- set own.messages = own.messages + [dict(message, tool_calls=calls.all) if calls.all else message] %}
{%- endfor %}
{%- set messages = own.messages %}
{%- if tools %}
  {%- for tool in tools %}
    {%- set own.tools = own.tools + '\n### ' + tool.function.name
      + '\nDescription: ' + (tool.function.description or '')
      + '\nParameters: ' + (tool.function.parameters or {})|tojson + '\n' %}
  {%- endfor %}
  {%- set own.tools = '## Tools\n\nThese functions can be called:\n' + own.tools
    + '\nTo call one, write exactly the following, where NAME is its name and ARGUMENTS a JSON object that fits its'
    + ' parameters. Several calls stand one behind the other, and nothing follows the last.\n'
    + '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>CALL_FORM<｜tool▁call▁end｜><｜tool▁calls▁end｜>' %}
  {%- if messages[0].role == 'system' %}
    {%- set told = dict(messages[0], content=messages[0].content + '\n\n' + own.tools) %}
    {%- set messages = [told] + messages[1:] %}
  {%- else %}
    {%- set messages = [{'role': 'system', 'content': own.tools}] + messages %}
  {%- endif %}
{%- endif %}"""


def generation_of(checkpoint: Checkpoint) -> Generation | None:
    """Return the generation of a DeepSeek model; None if nothing shows that it is one."""
    name = checkpoint.name.lower().rstrip("/").rpartition("/")[2]
    for architecture in checkpoint.architectures:
        if (generation := _ARCHITECTURES.get(architecture)) is not None:
            return "v3.2-exp" if generation == "v3.2" and _EXPERIMENT.search(name) else generation
    if "deepseek" not in checkpoint.name.lower() and _ASSISTANT not in checkpoint.template:
        return None
    if (named := _by_name(name)) is not None:
        return named
    return _by_template(checkpoint.template) if checkpoint.template else None


def choose(checkpoint: Checkpoint) -> Choices | None:
    """Return the flags for the model's markup; None if it is not a DeepSeek model."""
    generation = generation_of(checkpoint)
    return None if generation is None else _fit_to_template(CHOICES[generation], generation, checkpoint.template)


def _by_name(name: str) -> Generation | None:
    found = _GENERATION.search(name)
    if found is None:
        return None
    r1, major, minor = found.groups()
    if r1:
        return "r1"
    generation = _MINORS.get((major, minor)) or _MAJORS.get(major)
    return "v3.2-exp" if generation == "v3.2" and _EXPERIMENT.search(name) else generation


def _by_template(template: str) -> Generation:
    if _THINKING_SWITCH.search(template) and _CALLS in template and _JSON_CALL not in template:
        return "v3.1"
    return "r1" if "<think>" in template or "</think>" in template else "v3"


def _fit_to_template(choices: Choices, generation: Generation, template: str) -> Choices:
    """Adapt the flags to the chat template, if it is known and vLLM uses it."""
    if not template or generation in {"v3.2", "v4", "v4.1"}:
        return choices
    if generation == "v2" and _CALLS in template:
        choices = replace(choices, tool_call_parser="deepseek_v3")
    elif _CALLS not in template:
        choices = replace(
            choices, tool_call_parser=None
        )  # the parser needs tokens that the model does not seem to have
    if generation == "r1" and _THINKING_SWITCH.search(template):
        choices = replace(choices, reasoning_parser="deepseek_v3", template_kwargs={"thinking": True})
    if choices.tool_call_parser is not None and not _TOOLS.search(template):
        tools = TOOLS.replace("CALL_FORM", _CALL_FORMS[choices.tool_call_parser])
        choices = replace(choices, chat_template=tools + template)
    return choices
