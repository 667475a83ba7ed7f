"""Which of vLLM's parsers understand a DeepSeek model: decided by architecture, name and chat template; no I/O.

vLLM reads a model's thinking and tool calls only where it is told which markup the model writes; told wrongly, it puts
whole answers into the reasoning (contract, rows 76i and 76j) or leaves markup in the text. One architecture serves
generations of different markup (R1, V3 and V3.1 are all `DeepseekV3ForCausalLM`, the distilled R1 are Qwen2 and Llama),
and models of others as well (Kimi K2), so the architecture settles it only from V3.2 on; before that the name does, and
after it the chat template, which shows the markup itself.

| generation | reasoning | tools | source |
| --- | --- | --- | --- |
| V2 | none, it does not think | V3's, where its template shows the markup | vLLM's parser refuses other vocabularies |
| V3, V3-0324 | none | deepseek_v3 | vLLM's page on tool calling |
| R1, its distilled ones | deepseek_r1 | deepseek_v3 | vLLM's pages on reasoning and tool calling |
| R1, where the template has a switch | deepseek_v3, on | deepseek_v3 | reference `vllm.md` section 5; rows 76i, 76j |
| V3.1 | deepseek_v3, off | deepseek_v31 | rows 64, B.16; vLLM's pages |
| V3.2-Exp | the same, its own template | deepseek_v31 | SGLang's page on tool parsers; not run |
| V3.2 | deepseek_v3, off | deepseek_v32 | vLLM's recipe; row 64, B.16 |
| V4 | deepseek_v4 | deepseek_v4 | rows 61, 62, 66; reference `vllm.md` section 2 |
| V4.1 | deepseek_v41 | deepseek_v41 | rows 63, 65, 66 |

V4 and V4.1 think unless told otherwise, by their prompt encoders; no default is set for them, because it would outweigh
a caller's `enable_thinking: false` (row 62).

The chat templates that come with V3, R1 and V3.1 show the model its earlier calls, but never which tools there are, so
it would not know of any; and they want the arguments of earlier calls as text, where vLLM gives an object (vLLM's page
on tool calling wants another template for each model). `TOOLS` stands in front of the checkpoint's own template and
mends both: it adds the tools to the system message. Without tools and calls not a byte of the prompt differs.
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
_JSON_CALL = "```json"  # V3 and R1 put a call's arguments into a block of code, V3.1 does not
_SWITCH = re.compile(r"\b(?:enable_)?thinking\b")
_TOOLS = re.compile(r"\btools\b")
_GENERATION = re.compile(r"(?:^|[^a-z0-9]|deepseek)(?:(r)1|v(\d)(?:[._]?(\d))?)(?![0-9])")
_EXPERIMENT = re.compile(r"[^a-z]exp(?![a-z])")


class Choices(Struct, frozen=True, kw_only=True):
    """What vLLM is told of a model's markup; None leaves it to vLLM.

    Attributes:
        template_kwargs: what the chat template is told where a caller says nothing.
        chat_template: its whole source, in place of the checkpoint's own.
    """

    reasoning_parser: str | None = None
    tool_call_parser: str | None = None
    tokenizer_mode: str | None = None
    template_kwargs: Mapping[str, bool] = {}
    chat_template: str | None = None


_OFF = {"thinking": False}
_V31 = Choices(reasoning_parser="deepseek_v3", tool_call_parser="deepseek_v31", template_kwargs=_OFF)

CHOICES: Mapping[Generation, Choices] = {
    "v2": Choices(),
    "v3": Choices(tool_call_parser="deepseek_v3"),
    "r1": Choices(reasoning_parser="deepseek_r1", tool_call_parser="deepseek_v3"),
    "v3.1": _V31,
    # vLLM would give it the encoder of V3.2, by its architecture
    "v3.2-exp": replace(_V31, tokenizer_mode="hf"),
    "v3.2": Choices(
        reasoning_parser="deepseek_v3",
        tool_call_parser="deepseek_v32",
        tokenizer_mode="deepseek_v32",
        template_kwargs=_OFF,
    ),
    "v4": Choices(reasoning_parser="deepseek_v4", tool_call_parser="deepseek_v4", tokenizer_mode="deepseek_v4"),
    "v4.1": Choices(reasoning_parser="deepseek_v41", tool_call_parser="deepseek_v41", tokenizer_mode="deepseek_v41"),
}

# what is known of each, for models whose names do not say it (`configs/models.yaml`)
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

# what stands between the list of tools and the call, by parser
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
    """Which DeepSeek it is, or None where nothing says that it is one."""
    name = checkpoint.name.lower().rstrip("/").rpartition("/")[2]
    for architecture in checkpoint.architectures:
        if (settled := _ARCHITECTURES.get(architecture)) is not None:
            return "v3.2-exp" if settled == "v3.2" and _EXPERIMENT.search(name) else settled
    if "deepseek" not in checkpoint.name.lower() and _ASSISTANT not in checkpoint.template:
        return None
    if (named := _by_name(name)) is not None:
        return named
    return _by_template(checkpoint.template) if checkpoint.template else None


def choose(checkpoint: Checkpoint) -> Choices | None:
    """What vLLM is told of it; None where it is no DeepSeek model."""
    generation = generation_of(checkpoint)
    return None if generation is None else _fit(CHOICES[generation], generation, checkpoint.template)


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
    if _SWITCH.search(template) and _CALLS in template and _JSON_CALL not in template:
        return "v3.1"
    return "r1" if "<think>" in template or "</think>" in template else "v3"


def _fit(choices: Choices, generation: Generation, template: str) -> Choices:
    """Follow the template, where it is known and used."""
    if not template or generation in {"v3.2", "v4", "v4.1"}:
        return choices
    if generation == "v2" and _CALLS in template:
        choices = replace(choices, tool_call_parser="deepseek_v3")
    elif _CALLS not in template:
        choices = replace(choices, tool_call_parser=None)  # the parser needs tokens that it does not seem to have
    if generation == "r1" and _SWITCH.search(template):
        choices = replace(choices, reasoning_parser="deepseek_v3", template_kwargs={"thinking": True})
    if choices.tool_call_parser is not None and not _TOOLS.search(template):
        tools = TOOLS.replace("CALL_FORM", _CALL_FORMS[choices.tool_call_parser])
        choices = replace(choices, chat_template=tools + template)
    return choices
