"""Whether and how hard a model thinks, in each host's way (contract B.16, Q-EFFORT, Q-FORCE)."""

from collections.abc import Callable, Mapping

from msgspec import Raw, Struct

from tidegate.dialects.draft import Draft
from tidegate.protocol.raw import as_object, as_text
from tidegate.protocol.request import Fields, is_null

_FIELDS = frozenset({"chat_template_kwargs", "reasoning", "thinking", "reasoning_effort"})
_OF_REASONING = frozenset({"effort", "enabled", "exclude", "max_tokens"})  # `exclude` is honoured here
_SWITCHES = ("thinking", "enable_thinking")
_TRUTH = {b"true": True, b"false": False}
_NO_MAPPING: Mapping[str, str] = {}


class Thinking(Struct):
    """What was asked for.

    Attributes:
        is_on: on, off, or None where nothing was said.
        effort: how hard, in OpenAI's words.
        budget: for how many tokens at most; a JSON number. A `Put` that sends it sets it to None.
        rest: the other fields of `reasoning`. A `Put` that sends them empties it.
    """

    is_on: bool | None = None
    effort: str | None = None
    budget: Raw | None = None
    rest: Fields = {}

    def note_rest(self, draft: Draft) -> None:
        """Report what no `Put` has sent as dropped."""
        if self.budget is not None:
            draft.note("thinking.budget", "dropped")
        draft.note_dropped("reasoning", self.rest)


Put = Callable[[Draft, Thinking], None]


def take(draft: Draft, *, leaves_template: bool = False) -> Thinking:
    """Take every switch that callers use out of the draft; the most particular one wins.

    `reasoning_effort` (OpenAI), `thinking: {"type"}` (DeepSeek), `reasoning: {"effort", "enabled"}` (OpenRouter,
    SGLang) and, where the host knows no chat templates, the booleans of `chat_template_kwargs` (vLLM, llama.cpp).
    """
    wanted = Thinking()
    if _FIELDS.isdisjoint(draft.fields):
        return wanted
    if not leaves_template:
        wanted.is_on = take_template_switch(draft)
    settings = as_object(draft.fields.pop("reasoning", None))
    wanted.is_on = _truth(settings.get("enabled"), wanted.is_on)
    wanted.effort = as_text(settings.get("effort"))
    switch = as_object(draft.fields.pop("thinking", None))
    wanted.budget = settings.get("max_tokens", switch.get("budget_tokens"))
    wanted.rest = {name: value for name, value in settings.items() if name not in _OF_REASONING and not is_null(value)}
    kind = as_text(switch.get("type"))
    wanted.is_on = {"enabled": True, "disabled": False}.get(kind or "", wanted.is_on)
    if (raw := draft.fields.pop("reasoning_effort", None)) is not None:
        wanted.effort = as_text(raw)
    if wanted.effort == "none":
        return Thinking(is_on=False)
    if wanted.is_on is None and wanted.effort is not None and draft.card.thinking == "off":
        wanted.is_on = True  # hosts whose switch is another field than the effort
    return wanted


def put_nothing(draft: Draft, thinking: Thinking) -> None:
    """For hosts without a switch."""
    if thinking.effort is not None:
        draft.note("reasoning_effort", "dropped")
    elif thinking.is_on:
        draft.note("thinking", "dropped")


def put_effort(names: Mapping[str, str] = _NO_MAPPING, *, off: str | None = "none", on: str | None = None) -> Put:
    """`reasoning_effort`, under the host's names; `off` and `on` are the words for no thinking and for some."""

    def put(draft: Draft, thinking: Thinking) -> None:
        if thinking.is_on is False:
            if off is not None:
                draft.put("reasoning_effort", off)
        elif thinking.effort is not None:
            draft.put("reasoning_effort", word(draft, thinking.effort, names))
        elif thinking.is_on and on is not None:
            draft.put("reasoning_effort", on)

    return put


def word(draft: Draft, effort: str, names: Mapping[str, str]) -> str:
    """The host's word for `effort`; another one is said. An unknown one goes as it is, for the host to judge."""
    mapped = names.get(effort, effort)
    if mapped != effort:
        draft.note("reasoning_effort", mapped)
    return mapped


def take_template_switch(draft: Draft) -> bool | None:
    """Take the booleans out of `chat_template_kwargs`, whose other keys stay."""
    settings = as_object(draft.fields.pop("chat_template_kwargs", None))
    others = {name: value for name, value in settings.items() if name not in _SWITCHES}
    if others:
        draft.put("chat_template_kwargs", others)
    return _switched(settings)


def put_template_switch(draft: Draft, names: tuple[str, ...], *, is_on: bool) -> None:
    """Set booleans in `chat_template_kwargs`; what the caller has set there stays."""
    given = as_object(draft.fields.get("chat_template_kwargs"))
    draft.put("chat_template_kwargs", dict.fromkeys(names, is_on) | given)


def is_thinking(draft: Draft, thinking: Thinking, *, by_default: bool) -> bool:
    """Whether the model will think, as far as it can be known."""
    if draft.card.thinking in {"always", "never"}:
        return draft.card.thinking == "always"
    switched = _switched(as_object(draft.fields.get("chat_template_kwargs")))
    if switched is not None:  # left to the host, where it overrules what we put
        return switched
    if thinking.is_on is not None:
        return thinking.is_on
    if thinking.effort is not None:
        return True
    if draft.card.thinking is None:
        return by_default or draft.card.reasoning_tags == "prefilled"
    return draft.card.thinking == "on"


def _switched(settings: Mapping[str, Raw]) -> bool | None:
    is_on = None
    for name in _SWITCHES:
        is_on = _truth(settings.get(name), is_on)
    return is_on


def _truth(raw: Raw | None, otherwise: bool | None) -> bool | None:  # noqa: FBT001 - three-valued
    return otherwise if raw is None else _TRUTH.get(bytes(raw), otherwise)
