"""Adapts tools, `tool_choice` and their legacy fields to a host (contract Q-TOOLS, rows 52, 98, 115, 163, 185)."""

from collections.abc import Mapping

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from tidegate.dialects.request_draft import RequestDraft, compact
from tidegate.errors import MalformedRequest
from tidegate.protocol.raw import as_list, as_object, as_text
from tidegate.protocol.request import json_type

FIELDS = frozenset({"tools", "tool_choice", "parallel_tool_calls", "functions", "function_call"})
ALL_CHOICES = frozenset({"none", "auto", "required", "named"})
_WORDS = {"none": "none", "auto": "auto", "required": "required", "any": "required"}
_NO_PARAMETERS = {"type": "object", "properties": {}}


class _Schema(Struct, gc=False):
    type: Raw | UnsetType = UNSET


class _FunctionFields(Struct, gc=False):
    parameters: _Schema | None = None


class _ToolFields(Struct, gc=False):
    function: _FunctionFields | UnsetType = UNSET


_decode_tools = msgspec.json.Decoder(list[_ToolFields]).decode


def modernise(draft: RequestDraft) -> None:
    """Turn the legacy `functions` and `function_call` into tools, of which at most one is called at a time."""
    fields = draft.fields
    functions, call = as_list(fields.pop("functions", None)), fields.pop("function_call", None)
    if not functions:
        return
    draft.uses_functions = True
    draft.put("tools", [{"type": "function", "function": function} for function in functions])
    fields["parallel_tool_calls"] = Raw(b"false")
    fields.pop("tool_choice", None)
    if call is not None:
        is_named = json_type(call) == "object"
        draft.put("tool_choice", {"type": "function", "function": call} if is_named else call)


def normalise_choice(draft: RequestDraft) -> None:
    """Put a `tool_choice` of another API into the form of OpenAI's chat completions.

    Some clients send `{"type": "auto"}`, or `any` for `required` (Anthropic, Mistral). `{"type": "function", "name"}`
    is the form of the Responses API, `{"type": "tool", "name"}` that of Anthropic.
    """
    choice = _choice(draft)
    kind = choice if isinstance(choice, str) else as_text((choice or {}).get("type"))
    if (named := _WORDS.get(kind or "")) is not None:
        draft.put("tool_choice", named)
    elif isinstance(choice, dict) and kind in {"function", "tool"} and "function" not in choice and "name" in choice:
        draft.put("tool_choice", {"type": "function", "function": {"name": choice["name"]}})


def drop_cache_control(draft: RequestDraft) -> None:
    """Drop the `cache_control` of tools and of their functions."""
    given = [as_object(tool) for tool in as_list(draft.fields["tools"])]
    is_marked = False
    for tool in given:
        function = as_object(tool.get("function"))
        if function.pop("cache_control", None) is not None:
            tool["function"] = Raw(msgspec.json.encode(function))
            is_marked = True
        is_marked = tool.pop("cache_control", None) is not None or is_marked
    if is_marked:
        draft.put("tools", given)
        draft.note("cache_control", "dropped")


def drop_empty(draft: RequestDraft) -> None:
    """Q-TOOLS: remove an empty list of tools, and what depends on tools; hosts answer 400 to it."""
    fields = draft.fields
    if "tools" in fields and compact(fields["tools"]) == b"[]":
        del fields["tools"]
    if "tools" not in fields:
        fields.pop("tool_choice", None)
        fields.pop("parallel_tool_calls", None)


def fill_parameters(draft: RequestDraft) -> None:
    """Give a function without parameters the schema of an empty object, and parameters without a type that type."""
    try:
        typed = _decode_tools(draft.fields.get("tools", b"[]"))
    except msgspec.DecodeError:  # the host reports the error
        return
    bare = {number for number, tool in enumerate(typed) if _lacks_schema(tool)}
    if not bare:
        return
    tools = [as_object(tool) for tool in as_list(draft.fields["tools"])]
    for number in bare:
        function = as_object(tools[number]["function"])
        parameters = _NO_PARAMETERS | as_object(function.get("parameters"))
        tools[number]["function"] = Raw(msgspec.json.encode(function | {"parameters": parameters}))
    draft.put("tools", tools)


def _lacks_schema(tool: _ToolFields) -> bool:
    function = tool.function
    return function is not UNSET and (function.parameters is None or function.parameters.type is UNSET)


def restrict_to_functions(draft: RequestDraft) -> None:
    """Drop custom tools and apply `allowed_tools` to the list of tools, for hosts that support only functions.

    Raises:
        UnsupportedParameter: there is a custom tool, and the caller does not allow dropping it.
        MalformedRequest: `tool_choice` names a tool that is not in `tools`.
    """
    if "tools" not in draft.fields:
        return
    tools = as_list(draft.fields["tools"])
    kept = [tool for tool in tools if _type_of(tool) == "function"]
    if len(kept) < len(tools):
        draft.drop_or_refuse(
            "tools", instead=kept or None, why="of other types than 'function' are not supported with this model"
        )
        drop_empty(draft)
    choice = _choice(draft)
    if isinstance(choice, dict) and as_text(choice.get("type")) == "allowed_tools":
        _apply_allowed_tools(draft, as_object(choice.get("allowed_tools")))


def translate_choice(draft: RequestDraft, known: frozenset[str], *, required: str = "required") -> None:
    """Put `tool_choice` into a form that the host supports.

    Args:
        draft: the request.
        known: the forms that the host supports, of `ALL_CHOICES`.
        required: the host's spelling of `required`.

    Raises:
        UnsupportedParameter: there is no such form, and the caller does not allow `auto` in its place.
        MalformedRequest: `tool_choice` names a tool that is not in `tools`.
    """
    choice = _choice(draft)
    if choice is None:
        return
    form = choice if isinstance(choice, str) else "named"
    if form == "named" and (form not in known or not draft.card.named_tool_choice) and "required" in known:
        _keep_named(draft, [_name_of_choice(choice)])  # the one tool that is left is the named one
        form = "required"
        draft.put("tool_choice", required)
    elif form not in known and form == "none":
        for name in ("tools", "tool_choice", "parallel_tool_calls"):
            draft.fields.pop(name, None)
        draft.note("tools", "dropped")
    elif form not in known:
        draft.drop_or_refuse("tool_choice", instead="auto", report="auto")
    elif form == "required":
        draft.put("tool_choice", required)


def leave_out(draft: RequestDraft) -> None:
    """Drop tools that may be called, for an engine that does not parse tool calls.

    Raises:
        UnsupportedParameter: the caller does not allow parameters to be dropped.
    """
    if may_be_called(draft) is not UNSET:
        draft.drop_or_refuse("tools")
        drop_empty(draft)


def is_forced(draft: RequestDraft) -> bool:
    """Return whether the model must call a tool."""
    choice = _choice(draft)
    return choice is not None and choice not in ("none", "auto")


def may_be_called(draft: RequestDraft) -> Raw | UnsetType:
    """Return the tools that `tool_choice` allows the model to call; unset if it may call none."""
    tools, choice = draft.fields.get("tools", UNSET), _choice(draft)
    if isinstance(tools, UnsetType) or choice == "none":
        return UNSET
    if not isinstance(choice, dict):
        return tools
    allowed = as_object(choice.get("allowed_tools")).get("tools")
    allowed_names = {_name_of(tool) for tool in ([choice] if allowed is None else map(as_object, as_list(allowed)))}
    return Raw(msgspec.json.encode([tool for tool in as_list(tools) if _name_of(as_object(tool)) in allowed_names]))


def strip_strict(draft: RequestDraft) -> None:
    """Row 15: drop `strict` from functions, as DeepSeek supports it only at its beta URL."""
    if "tools" not in draft.fields:
        return
    tools = [as_object(tool) for tool in as_list(draft.fields["tools"])]
    was_strict = False
    for tool in tools:
        function = as_object(tool.get("function"))
        if (strict := function.pop("strict", None)) is not None:
            was_strict = was_strict or bytes(strict) == b"true"
            tool["function"] = Raw(msgspec.json.encode(function))
    draft.put("tools", tools)
    if was_strict:
        draft.note("tools.strict", "dropped")


def _apply_allowed_tools(draft: RequestDraft, allowed: dict[str, Raw]) -> None:
    names = [_name_of_choice(as_object(tool)) for tool in as_list(allowed.get("tools"))]
    _keep_named(draft, names)
    draft.put("tool_choice", "required" if as_text(allowed.get("mode")) == "required" else "auto")


def _keep_named(draft: RequestDraft, names: list[str]) -> None:
    """Keep only the tools with these names.

    Raises:
        MalformedRequest: there is no such tool.
    """
    tools, allowed_names = as_list(draft.fields["tools"]), set(names)
    kept = [tool for tool in tools if _name_of(as_object(tool)) in allowed_names]
    if not kept:
        raise MalformedRequest(f"Tool choice '{', '.join(names)[:128]}' is not among 'tools'.", param="tool_choice")
    if len(kept) < len(tools):
        draft.note("tools", "filtered")
    draft.put("tools", kept)


def _choice(draft: RequestDraft) -> str | dict[str, Raw] | None:
    raw = draft.fields.get("tool_choice")
    if raw is None:
        return None
    return as_text(raw) if json_type(raw) == "string" else as_object(raw)


def _name_of_choice(choice: str | dict[str, Raw]) -> str:
    function = as_object(choice.get("function")) if isinstance(choice, dict) else {}
    name = as_text(function.get("name"))
    if name is None:
        raise MalformedRequest(
            "Missing required parameter: 'tool_choice.function.name'.",
            param="tool_choice.function.name",
            code="missing_required_parameter",
        )
    return name


def _name_of(tool: Mapping[str, Raw]) -> str | None:
    return as_text(as_object(tool.get("function")).get("name"))


def _type_of(tool: Raw) -> str | None:
    return as_text(as_object(tool).get("type")) or "function"
