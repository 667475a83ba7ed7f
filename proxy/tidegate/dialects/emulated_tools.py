"""Emulates tools for models whose chat template does not support tools.

llama.cpp would drop `tools` and ignore `tool_choice` for such a model.

The tools are listed in the prompt. If the caller requires a call, `response_format` restricts the answer to the JSON of
one call (`{"name": …, "arguments": {…}}`). If the model may choose, nothing restricts its answer, so the model's card
must allow that (`tools_in_prompt`). `streaming.text_calls` turns the answer into calls. Past calls and their results
become text.
"""

import re
from collections.abc import Iterator, Sequence

import msgspec
from msgspec import Raw, Struct

from tidegate.dialects import structured, tools
from tidegate.dialects.messages import calls_of, role_of, set_text, text_of
from tidegate.dialects.request_draft import Message, RequestDraft, compact
from tidegate.errors import MalformedRequest, ProxyError, UpstreamRejected
from tidegate.protocol.raw import as_list, as_object, as_text
from tidegate.protocol.request import is_null, json_type
from tidegate.protocol.text_calls import TextCalls

_encode = msgspec.json.Encoder().encode
# values of `logprobs`, `top_logprobs` and `response_format` that are the default
_DEFAULTS = frozenset({b"false", b"0", b'{"type":"text"}'})
_NO_PARAMETERS = Raw(b'{"type":"object","properties":{}}')
_COMBINING_KEYWORDS = frozenset({"$ref", "allOf", "anyOf", "oneOf"})
# Keywords whose values are not schemas, and keywords whose values map names to schemas.
_VALUE_KEYWORDS = frozenset({"const", "default", "enum", "examples"})
_NAMED_SCHEMA_KEYWORDS = frozenset({"$defs", "definitions", "dependentSchemas", "patternProperties", "properties"})
_SCHEMA_ERROR = re.compile(r"JSON schema|grammar", re.IGNORECASE)  # in the error messages of llama.cpp
_FORM = '{"name": "TOOL", "arguments": {…}}'
_MUST_CALL = f"Call one of these tools. Answer with one JSON object and nothing else, in the form {_FORM}."
_MAY_CALL = (
    f"You have these tools. To call one, answer with a JSON object in the form {_FORM} and nothing else:"
    " no explanation, no code fence; for several calls, one such object a line."
    " If no tool is needed, answer in plain text."
)
_ARGUMENTS_VALID = "The arguments must be valid against the tool's parameters."


class _EmulatedTool(Struct, frozen=True):
    """A function that is listed in the prompt; `parameters` is the JSON schema of its arguments."""

    name: str
    description: Raw | None
    parameters: Raw

    @property
    def for_prompt(self) -> str:
        about = {} if self.description is None else {"description": self.description}
        return _encode({"name": self.name, **about, "parameters": self.parameters}).decode()


def emulate(draft: RequestDraft) -> None:
    """Move the tools of a request into its prompt and its `response_format`.

    All tools are functions here, as `tools.restrict_to_functions` has run before.

    Raises:
        UnsupportedParameter: the model may choose whether to call a tool, and its card does not allow that.
        MalformedRequest: a tool has no name, or its parameters are not the schema of an object.
    """
    fields = draft.fields
    if "tools" not in fields:
        return
    is_forced, is_none = tools.is_forced(draft), as_text(fields.get("tool_choice")) == "none"
    if not (is_forced or is_none or draft.card.tools_in_prompt):
        choice = "function_call" if draft.uses_functions else "tool_choice"
        draft.drop_or_refuse("tools", why=f"is supported with this model only if '{choice}' requires a call")
    offered = [] if is_none else list(_tools(draft))
    one_call = draft.uses_functions or bytes(fields.get("parallel_tool_calls", b"")) == b"false"
    for name in ("tools", "tool_choice", "parallel_tool_calls"):
        fields.pop(name, None)
    if not offered:
        draft.note("tools", "dropped")
        return
    if is_forced:
        structured.drop(draft)
        _refuse(draft, "logprobs", "top_logprobs")
        draft.put("response_format", _response_format(offered))
    else:
        _refuse(draft, "response_format")
    structured.instruct(
        draft, "\n".join([_MUST_CALL if is_forced else _MAY_CALL, _ARGUMENTS_VALID, *(t.for_prompt for t in offered)])
    )
    field = "functions" if draft.uses_functions else "tools"
    names = frozenset(tool.name for tool in offered)
    draft.text_calls = TextCalls(names=names, is_forced=is_forced, one_call=one_call, field=field)
    draft.note(field, "emulated")


def write_history(draft: RequestDraft) -> None:
    """Turn past calls and their results into text, as the template would drop them.

    Successive results become one user message, as some templates require user and assistant messages to alternate.
    """
    names: dict[str, str] = {}
    written: list[Message] = []
    has_tools = was_result = False
    for message in draft.messages:
        is_result, calls = role_of(message) == "tool", calls_of(message)
        has_tools = has_tools or is_result or bool(calls)
        if calls:
            names |= {as_text(call.get("id")) or "": _name_of(call) for call in calls}
            _write_calls(message, calls, as_json=draft.text_calls is not None)
        elif is_result:
            _write_result(message, names)
        if not (is_result and was_result and _append_text(written[-1], message)):
            written.append(message)
        was_result = is_result
    if has_tools:
        draft.note("messages", "tools_as_text")
    draft.messages = written


def point_to_tools(error: ProxyError, calls: TextCalls) -> None:
    """Change a host's error about the schema that Tidegate sent into an error about the caller's tools, in place."""
    if isinstance(error, UpstreamRejected) and error.code is None and _SCHEMA_ERROR.search(error.message):
        error.param = calls.field
        error.message = f"This model cannot be restricted to the parameters in '{calls.field}': {error.message}"


def _tools(draft: RequestDraft) -> Iterator[_EmulatedTool]:
    field = "functions[{}]" if draft.uses_functions else "tools[{}].function"
    for number, tool in enumerate(as_list(draft.fields.get("tools"))):
        function, at = as_object(as_object(tool).get("function")), field.format(number)
        if not (name := as_text(function.get("name"))):
            raise MalformedRequest(
                f"Missing required parameter: '{at}.name'.", param=f"{at}.name", code="missing_required_parameter"
            )
        description = function.get("description")
        has_none = description is None or is_null(description)
        yield _EmulatedTool(name, None if has_none else description, _parameters(function.get("parameters"), at, name))


def _parameters(raw: Raw | None, at: str, name: str) -> Raw:
    """Return the schema of a function's arguments."""
    if raw is None or is_null(raw):
        return _NO_PARAMETERS
    schema = as_object(raw)
    kind = schema.get("type")
    if json_type(raw) != "object" or (
        kind is not None and "object" not in (as_text(kind), *map(as_text, as_list(kind)))
    ):
        raise MalformedRequest(
            f"Invalid schema for function '{name[:64]}': schema must be a JSON Schema of type 'object'.",
            param=f"{at}.parameters",
            code="invalid_function_parameters",
        )
    if kind is None and _COMBINING_KEYWORDS.isdisjoint(schema):
        return Raw(_encode({"type": "object", **schema}))
    return raw


def _refuse(draft: RequestDraft, *names: str) -> None:
    for name in names:
        if name in draft.fields and compact(draft.fields[name]) not in _DEFAULTS:
            draft.drop_or_refuse(name, why="is not supported together with 'tools' with this model")
        draft.fields.pop(name, None)


def _response_format(offered: Sequence[_EmulatedTool]) -> dict[str, object]:
    """Return the `response_format` that allows only a call of one of these tools."""
    definitions: dict[str, object] = {}
    calls = [_call_schema(tool, f"tool_{number}", definitions) for number, tool in enumerate(offered)]
    schema = calls[0] if len(calls) == 1 else {"anyOf": calls}
    if definitions:
        schema = {**schema, "$defs": definitions}
    return {"type": "json_schema", "json_schema": {"name": "tool_call", "strict": True, "schema": schema}}


def _call_schema(tool: _EmulatedTool, key: str, definitions: dict[str, object]) -> dict[str, object]:
    """Return the schema of a call; parameters with references move to `$defs`, where their references still resolve."""
    arguments: object = tool.parameters
    if b'"$ref"' in bytes(tool.parameters):
        definitions[key] = _rebased(msgspec.json.decode(tool.parameters), f"#/$defs/{key}")
        arguments = {"$ref": f"#/$defs/{key}"}
    return {
        "type": "object",
        "properties": {"name": {"const": tool.name}, "arguments": arguments},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _rebased(schema: object, to: str) -> object:
    """Return a schema with its references rewritten for a root at the JSON pointer `to`."""
    if isinstance(schema, list):
        return [_rebased(item, to) for item in schema]
    if not isinstance(schema, dict):
        return schema
    moved: dict[str, object] = {}
    for key, value in schema.items():
        if key == "$ref" and isinstance(value, str) and (value == "#" or value.startswith("#/")):
            moved[key] = to + value[1:]
        elif key in _NAMED_SCHEMA_KEYWORDS and isinstance(value, dict):
            moved[key] = {name: _rebased(each, to) for name, each in value.items()}
        else:
            moved[key] = value if key in _VALUE_KEYWORDS else _rebased(value, to)
    return moved


def _write_calls(message: Message, calls: Sequence[dict[str, Raw]], *, as_json: bool) -> None:
    """Append the calls to the text.

    They are written as JSON only if the prompt asks for calls as JSON. Otherwise they are written as prose, as small
    models would imitate the JSON.
    """
    lines = [text_of(message) or ""]
    for call in calls:
        name, arguments = _name_of(call), as_text(as_object(call.get("function")).get("arguments"))
        if arguments is None:
            arguments = _encode({"input": as_object(call.get("custom")).get("input")}).decode()
        call_json = f'{{"name": {_encode(name).decode()}, "arguments": {arguments}}}'
        lines.append(call_json if as_json else f"[Called {name} with {arguments}]")
    set_text(message, "\n".join(text for text in lines if text))
    del message["tool_calls"]


def _name_of(call: dict[str, Raw]) -> str:
    called = as_object(call.get("function")) or as_object(call.get("custom"))
    return as_text(called.get("name")) or ""


def _write_result(message: Message, names: dict[str, str]) -> None:
    message["role"] = Raw(b'"user"')
    name = names.get(as_text(message.pop("tool_call_id", None)) or "")
    message.pop("name", None)
    if (text := text_of(message)) is not None:
        set_text(message, f"Result of {name or 'the tool'}:\n{text}")


def _append_text(before: Message, message: Message) -> bool:
    """Append the text of `message` to `before` if the content of both is a string; return whether it is."""
    first, second = text_of(before), text_of(message)
    if first is None or second is None:
        return False
    set_text(before, f"{first}\n\n{second}")
    return True
