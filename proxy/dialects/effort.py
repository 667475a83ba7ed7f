"""How hard a model thinks: `reasoning_effort` and DeepSeek's `thinking`, in each host's way (contract B.16)."""

from collections.abc import Mapping

import msgspec
from msgspec import Raw

from proxy.protocol.request import Fields

_encode = msgspec.json.Encoder().encode
_text = msgspec.json.Decoder(str)
_object = msgspec.json.Decoder(dict[str, Raw])


def take_effort(fields: Fields) -> str | None:
    """Take `reasoning_effort` out of the fields."""
    raw = fields.pop("reasoning_effort", None)
    return None if raw is None else _text.decode(raw)


def take_thinking(fields: Fields) -> bool | None:
    """Take `thinking: {"type": "enabled" | "disabled"}` out of the fields: on, off, or None where it says nothing."""
    raw = fields.pop("thinking", None)
    if raw is None:
        return None
    try:
        kind = bytes(_object.decode(raw).get("type", Raw(b"")))
    except msgspec.DecodeError:
        return None
    return {b'"enabled"': True, b'"disabled"': False}.get(kind)


def take(fields: Fields) -> tuple[str | None, bool | None]:
    """Take both out: the effort, and whether thinking is to be on; an effort of `none` means off."""
    wanted, is_on = take_effort(fields), take_thinking(fields)
    return (None, False) if wanted == "none" else (wanted, is_on)


def put_effort(fields: Fields, effort: str | None, names: Mapping[str, str]) -> None:
    """Send `effort` under the host's name for it; an unknown one goes as it is, for the host to judge."""
    if effort is not None:
        fields["reasoning_effort"] = Raw(_encode(names.get(effort, effort)))


def put_template_switch(fields: Fields, *, is_on: bool, names: tuple[str, ...]) -> None:
    """Set booleans in `chat_template_kwargs`; what the caller has set there stays."""
    given = fields.get("chat_template_kwargs")
    try:
        switches = {} if given is None else _object.decode(given)
    except msgspec.DecodeError:
        return
    fields["chat_template_kwargs"] = Raw(_encode(dict.fromkeys(names, is_on) | switches))
