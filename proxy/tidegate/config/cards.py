"""Model cards: facts about models, by which dialects adapt requests and routing chooses targets.

`configs/models.yaml` holds the cards that come with Tidegate, each with its date and source. The operator's `cards:` in
the config take precedence over them.
"""

import datetime as dt
import functools
from collections.abc import Mapping
from decimal import Decimal
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import yaml
from msgspec import Meta, Struct

Tokens = Annotated[int, Meta(ge=1)]
Thinks = Literal["on", "off", "always", "never"]
History = Literal["required", "forbidden", "ignored"]
Structured = Literal["json_schema", "json_object", "none"]

_MAX_CACHED = 4096


class Price(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Prices in US dollars for a million tokens."""

    input_usd_per_mtok: Decimal
    output_usd_per_mtok: Decimal
    cached_input_usd_per_mtok: Decimal | None = None


class Card(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The facts about a model; null: not known, and then requests are not changed for it."""

    matches: Annotated[
        tuple[str, ...],
        Meta(description="Patterns (*, ?, [0-9]), in lower case, for its names at hosts: whole, or the part after /."),
    ] = ()
    as_of: Annotated[dt.date | None, Meta(description="The date of these facts.")] = None
    source: Annotated[str | None, Meta(description="Where these facts are documented.")] = None
    context_window: Annotated[Tokens | None, Meta(description="The most tokens of prompt and answer together.")] = None
    max_output_tokens: Annotated[
        Tokens | None,
        Meta(description="The most tokens of an answer; a larger limit in a request is lowered to this."),
    ] = None
    thinking: Annotated[
        Thinks | None,
        Meta(description='Whether it thinks: "on" or "off" by default (a request can switch it), "always" or "never".'),
    ] = None
    reasoning_history: Annotated[
        History | None,
        Meta(description="Whether a conversation's earlier reasoning has to be sent to it, must not, or is ignored."),
    ] = None
    reasoning_tags: Annotated[
        Literal["prefilled"] | None,
        Meta(description="prefilled: the chat template writes <think>, so an answer has only </think>."),
    ] = None
    leaks_markup: Annotated[
        bool | None,
        Meta(
            description="Whether it writes tool calls in DeepSeek's markup, which a host may pass on as text; null: the"
            " dialect's setting."
        ),
    ] = None
    vision: Annotated[bool | None, Meta(description="Whether it accepts images.")] = None
    structured_output: Annotated[
        Structured | None,
        Meta(description="The most of response_format that it supports; null: what the host supports."),
    ] = None
    named_tool_choice: Annotated[
        bool, Meta(description="false: a tool_choice that names a tool is sent as required, with this tool alone.")
    ] = True
    tools_while_thinking: Annotated[
        bool, Meta(description="false: thinking is switched off in requests with tools.")
    ] = True
    tools_in_prompt: Annotated[
        bool,
        Meta(
            description="For engines of kind llamacpp whose chat template has no tools, where tool_choice is auto."
            " true: the tools are listed in the prompt, and an answer in the form of a call becomes a tool call;"
            " false: such a request gets 400."
        ),
    ] = False
    efforts: Annotated[
        dict[str, str] | None,
        Meta(description="On vLLM: what to send for a reasoning_effort that it lacks, or reads in its own way."),
    ] = None
    refused_while_thinking: Annotated[
        tuple[str, ...], Meta(description="Parameters that it does not accept while it thinks; they are left out.")
    ] = ()
    price: Annotated[Price | None, Meta(description="Its price at the maker's own API.")] = None


UNKNOWN = Card()


class Cards:
    """Finds the card for a model; owns a cache of the cards that it found.

    Args:
        own: the operator's cards, which take precedence.
        known: the cards that come with Tidegate.
    """

    def __init__(self, own: Mapping[str, Card], known: Mapping[str, Card]) -> None:
        self._named = {**known, **own}
        self._patterns = [
            (pattern.lower(), card) for cards in (own, known) for card in cards.values() for pattern in card.matches
        ]
        self._found: dict[str, Card] = {}

    def named(self, name: str) -> Card | None:
        """The card with this name; None: there is none."""
        return self._named.get(name)

    def find(self, model: str) -> Card:
        """The first card whose pattern matches `model`, the model's name at a host; `UNKNOWN` where none does."""
        if (found := self._found.get(model)) is not None:
            return found
        if len(self._found) >= _MAX_CACHED:  # names come from callers
            self._found.clear()
        card = self._found[model] = self._match(model.lower())
        return card

    def _match(self, model: str) -> Card:
        names = {model, model.rpartition("/")[2]}
        for pattern, card in self._patterns:
            if any(fnmatchcase(name, pattern) for name in names):
                return card
        return UNKNOWN


@functools.cache
def known_cards() -> Mapping[str, Card]:
    """The cards of `configs/models.yaml`; in a wheel the folder `configs` is inside the package."""
    package = Path(__file__).parents[1]
    configs = package / "configs"
    path = (configs if configs.exists() else package.parents[1] / "configs") / "models.yaml"
    return msgspec.convert(yaml.safe_load(path.read_text(encoding="utf-8")) or {}, dict[str, Card])
