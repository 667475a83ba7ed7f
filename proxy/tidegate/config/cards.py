"""Model cards: facts about models, by which requests are fitted to them.

`configs/models.yaml` holds those we know, each dated and sourced; `cards:` in the config comes before it.
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

_MAX_REMEMBERED = 4096


class Price(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """US dollars for a million tokens."""

    input_usd_per_mtok: Decimal
    output_usd_per_mtok: Decimal
    cached_input_usd_per_mtok: Decimal | None = None


class Card(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is known about a model; what is null is not known, and nothing is done about it."""

    matches: Annotated[
        tuple[str, ...],
        Meta(description="Patterns (*, ?, [0-9]) for its names at hosts, in lower case, whole or after a /."),
    ] = ()
    as_of: Annotated[dt.date | None, Meta(description="When this was true.")] = None
    source: Annotated[str | None, Meta(description="Where it stands.")] = None
    context_window: Annotated[Tokens | None, Meta(description="Tokens of prompt and answer together.")] = None
    max_output_tokens: Annotated[Tokens | None, Meta(description="Tokens of an answer; more is asked for as this.")] = (
        None
    )
    thinking: Annotated[
        Thinks | None,
        Meta(description='"on" or "off": what it does unless asked, it can be switched; "always"; "never".'),
    ] = None
    reasoning_history: Annotated[
        History | None, Meta(description="Whether past reasoning must, must not or may go back.")
    ] = None
    reasoning_tags: Annotated[
        Literal["prefilled"] | None, Meta(description="prefilled: the template opens <think>, only </think> comes.")
    ] = None
    leaks_markup: Annotated[
        bool | None,
        Meta(
            description="Whether it writes tool calls in DeepSeek's markup, which a host may pass on as text; null: as "
            "its dialect says."
        ),
    ] = None
    vision: Annotated[bool | None, Meta(description="Whether it takes images.")] = None
    structured_output: Annotated[
        Structured | None, Meta(description="The most that response_format can be there; null: what the host has.")
    ] = None
    named_tool_choice: Annotated[bool, Meta(description="false: a named tool goes as required, alone.")] = True
    tools_while_thinking: Annotated[
        bool, Meta(description="false: thinking is switched off where tools are given.")
    ] = True
    tools_in_prompt: Annotated[
        bool,
        Meta(
            description="For engines of kind llamacpp whose chat template has no tools, where tool_choice is auto."
            " true: tools are listed in the prompt, and an answer that is a call in that form becomes one; false: 400."
        ),
    ] = False
    efforts: Annotated[
        dict[str, str] | None,
        Meta(description="On vLLM: words for those of reasoning_effort that it lacks or reads in its own way."),
    ] = None
    refused_while_thinking: Annotated[
        tuple[str, ...], Meta(description="Parameters that it does not take while it thinks.")
    ] = ()
    price: Annotated[Price | None, Meta(description="At the maker's own API.")] = None


UNKNOWN = Card()


class Cards:
    """Finds the card for a model; owner of the answers it remembers.

    Args:
        own: the operator's cards, which come first.
        known: ours.
    """

    def __init__(self, own: Mapping[str, Card], known: Mapping[str, Card]) -> None:
        self._named = {**known, **own}
        self._patterns = [
            (pattern.lower(), card) for cards in (own, known) for card in cards.values() for pattern in card.matches
        ]
        self._found: dict[str, Card] = {}

    def named(self, name: str) -> Card | None:
        """The card called `name`."""
        return self._named.get(name)

    def find(self, model: str) -> Card:
        """The first card that matches `model`, a name at a host; an empty one where none does."""
        if (found := self._found.get(model)) is not None:
            return found
        if len(self._found) >= _MAX_REMEMBERED:  # names come from callers
            self._found.clear()
        card = self._found[model] = self._look_for(model.lower())
        return card

    def _look_for(self, model: str) -> Card:
        names = {model, model.rpartition("/")[2]}
        for pattern, card in self._patterns:
            if any(fnmatchcase(name, pattern) for name in names):
                return card
        return UNKNOWN


@functools.cache
def known_cards() -> Mapping[str, Card]:
    """The cards of `configs/models.yaml`; a wheel carries the folder `configs` inside the package."""
    package = Path(__file__).parents[1]
    configs = package / "configs"
    path = (configs if configs.exists() else package.parents[1] / "configs") / "models.yaml"
    return msgspec.convert(yaml.safe_load(path.read_text(encoding="utf-8")) or {}, dict[str, Card])
