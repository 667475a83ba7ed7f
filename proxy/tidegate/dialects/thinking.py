"""Translates the switches for thinking and its effort between callers and hosts (contract B.16, Q-EFFORT, Q-FORCE)."""

from collections.abc import Callable, Mapping

from msgspec import Raw, Struct

from tidegate.dialects.request_draft import RequestDraft
from tidegate.protocol.raw import as_object, as_text
from tidegate.protocol.request import Fields, is_null

_FIELDS = frozenset({"chat_template_kwargs", "reasoning", "thinking", "reasoning_effort"})
_REASONING_KEYS = frozenset({"effort", "enabled", "exclude", "max_tokens"})  # Tidegate itself honours `exclude`
_SWITCHES = ("thinking", "enable_thinking")
_BOOLEANS = {b"true": True, b"false": False}
_NO_MAPPING: Mapping[str, str] = {}


class Thinking(Struct):
    """The thinking that the caller requests.

    Attributes:
        is_on: whether the model has to think; None: the caller does not specify it.
        effort: the reasoning effort in OpenAI's terms; None: not specified.
        budget: the maximum number of tokens for thinking, a JSON number. A `Put` that sends it sets it to None.
        rest: the other fields of `reasoning`. A `Put` that sends them empties it.
    """

    is_on: bool | None = None
    effort: str | None = None
    budget: Raw | None = None
    rest: Fields = {}

    def note_rest(self, draft: RequestDraft) -> None:
        """Report the budget and the other fields of `reasoning` as dropped, if no `Put` has sent them."""
        if self.budget is not None:
            draft.note("thinking.budget", "dropped")
        draft.note_dropped("reasoning", self.rest)


# Writes the requested thinking into the draft, in the form of one host.
Put = Callable[[RequestDraft, Thinking], None]


def take(draft: RequestDraft, *, keeps_template_kwargs: bool = False) -> Thinking:
    """Remove every switch for thinking from the draft and return what they request.

    The switches are, from the strongest to the weakest, `reasoning_effort` (OpenAI), `thinking: {"type"}` (DeepSeek),
    `reasoning: {"effort", "enabled"}` (OpenRouter, SGLang), and the booleans of `chat_template_kwargs` (vLLM,
    llama.cpp). The last are not removed if `keeps_template_kwargs` is true: the host then evaluates them itself.
    """
    requested = Thinking()
    if _FIELDS.isdisjoint(draft.fields):
        return requested
    if not keeps_template_kwargs:
        requested.is_on = take_template_switch(draft)
    settings = as_object(draft.fields.pop("reasoning", None))
    requested.is_on = _boolean(settings.get("enabled"), requested.is_on)
    requested.effort = as_text(settings.get("effort"))
    switch = as_object(draft.fields.pop("thinking", None))
    requested.budget = settings.get("max_tokens", switch.get("budget_tokens"))
    requested.rest = {
        name: value for name, value in settings.items() if name not in _REASONING_KEYS and not is_null(value)
    }
    kind = as_text(switch.get("type"))
    requested.is_on = {"enabled": True, "disabled": False}.get(kind or "", requested.is_on)
    if (raw := draft.fields.pop("reasoning_effort", None)) is not None:
        requested.effort = as_text(raw)
    if requested.effort == "none":
        return Thinking(is_on=False)
    if requested.is_on is None and requested.effort is not None and draft.card.thinking == "off":
        requested.is_on = True  # for hosts that have a switch besides the effort
    return requested


def put_no_switch(draft: RequestDraft, thinking: Thinking) -> None:
    """Send no switch, for hosts that have none; the request for thinking is reported as dropped."""
    if thinking.effort is not None:
        draft.note("reasoning_effort", "dropped")
    elif thinking.is_on:
        draft.note("thinking", "dropped")


def put_effort(names: Mapping[str, str] = _NO_MAPPING, *, off: str | None = "none", on: str | None = None) -> Put:
    """Return a `Put` that sends `reasoning_effort`.

    Args:
        names: the host's value for each of OpenAI's values that the host spells differently.
        off: the host's value for no thinking; None: nothing is sent.
        on: the host's value for thinking without a given effort; None: nothing is sent.
    """

    def put(draft: RequestDraft, thinking: Thinking) -> None:
        if thinking.is_on is False:
            if off is not None:
                draft.put("reasoning_effort", off)
        elif thinking.effort is not None:
            draft.put("reasoning_effort", translate_effort(draft, thinking.effort, names))
        elif thinking.is_on and on is not None:
            draft.put("reasoning_effort", on)

    return put


def translate_effort(draft: RequestDraft, effort: str, names: Mapping[str, str]) -> str:
    """Return the host's value for `effort`, and report it if it differs; the host decides about an unknown value."""
    mapped = names.get(effort, effort)
    if mapped != effort:
        draft.note("reasoning_effort", mapped)
    return mapped


def take_template_switch(draft: RequestDraft) -> bool | None:
    """Remove the switches from `chat_template_kwargs`, not its other keys; return their value, None if none is set."""
    settings = as_object(draft.fields.pop("chat_template_kwargs", None))
    others = {name: value for name, value in settings.items() if name not in _SWITCHES}
    if others:
        draft.put("chat_template_kwargs", others)
    return _switch_value(settings)


def put_template_switch(draft: RequestDraft, names: tuple[str, ...], *, is_on: bool) -> None:
    """Set the switches `names` in `chat_template_kwargs`; a value that the caller has set there stays."""
    given = as_object(draft.fields.get("chat_template_kwargs"))
    draft.put("chat_template_kwargs", dict.fromkeys(names, is_on) | given)


def is_thinking(draft: RequestDraft, thinking: Thinking, *, by_default: bool) -> bool:
    """Return whether the model will think, as far as this is known.

    Args:
        draft: the request.
        thinking: the thinking that the caller requests.
        by_default: whether the host's models think if neither the caller nor the model's card specifies it.
    """
    if draft.card.thinking in {"always", "never"}:
        return draft.card.thinking == "always"
    switch = _switch_value(as_object(draft.fields.get("chat_template_kwargs")))
    if switch is not None:  # is sent to the host, and there it overrides the switches that Tidegate sets
        return switch
    if thinking.is_on is not None:
        return thinking.is_on
    if thinking.effort is not None:
        return True
    if draft.card.thinking is None:
        return by_default or draft.card.reasoning_tags == "prefilled"
    return draft.card.thinking == "on"


def _switch_value(settings: Mapping[str, Raw]) -> bool | None:
    is_on = None
    for name in _SWITCHES:
        is_on = _boolean(settings.get(name), is_on)
    return is_on


def _boolean(raw: Raw | None, otherwise: bool | None) -> bool | None:  # noqa: FBT001 - three-valued
    return otherwise if raw is None else _BOOLEANS.get(bytes(raw), otherwise)
