"""llama.cpp's server (contract B.4)."""

import msgspec
from msgspec import Raw, Struct

from proxy.dialects import effort
from proxy.dialects.base import Dialect
from proxy.errors import MalformedRequest, UnsupportedParameter
from proxy.protocol.request import Fields, json_type


class _Named(Struct):
    name: str | None = None


class _Tool(Struct):
    function: _Named | None = None


_tool = msgspec.json.Decoder(_Tool)
_raw_list = msgspec.json.Decoder(list[Raw])
_encode = msgspec.json.Encoder().encode


def _adjust(fields: Fields) -> None:
    _name_tool(fields)
    if "tools" in fields and bytes(fields.get("logprobs", Raw(b"false"))) == b"true":
        # row 100: it answers an error, as we always ask it for a stream
        raise UnsupportedParameter(
            "Unsupported parameter: 'logprobs' is not supported together with 'tools' with this model.",
            param="logprobs",
        )
    _, is_on = effort.take(fields)
    if is_on is not None:
        effort.put_template_switch(fields, is_on=is_on, names=("enable_thinking",))


def _name_tool(fields: Fields) -> None:
    """Row 98: a named choice is read as "auto"; "required" with that tool alone means the same."""
    choice = fields.get("tool_choice")
    if choice is None or json_type(choice) != "object":
        return
    try:
        named = _tool.decode(choice).function
        kept = [tool for tool in _raw_list.decode(fields["tools"]) if _tool.decode(tool).function == named]
    except msgspec.DecodeError as error:
        raise MalformedRequest(f"Invalid 'tools' or 'tool_choice': {error}.", param="tools") from error
    if named is None:
        return
    if not kept:
        raise MalformedRequest(f"Tool choice '{named.name}' is not among 'tools'.", param="tool_choice")
    fields["tools"], fields["tool_choice"] = Raw(_encode(kept)), Raw(b'"required"')


DIALECT = Dialect(
    name="llamacpp",
    max_tokens="max_tokens",
    reasoning_history="reasoning_content",
    dropped=frozenset({"modalities"}),
    refused=frozenset({"best_of", "suffix", "audio"}),  # row 104
    adjust=_adjust,
)
