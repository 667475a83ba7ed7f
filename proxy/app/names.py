"""What names mean: models and their targets, and what is known of them."""

from collections.abc import Iterator, Mapping, Sequence

from msgspec import structs

from proxy.config.cards import UNKNOWN, Card, Cards
from proxy.config.engines import VllmConfig
from proxy.config.models import ModelConfig, TargetConfig
from proxy.config.replicas import engine_of
from proxy.config.root import Config, unnamed_engines
from proxy.engines.workshop import Assembled
from proxy.routing.targets import Target


def targets_of(
    config: Config, cards: Cards, loaded: Mapping[str, Card], replicas: Mapping[str, Sequence[str]] = {}
) -> dict[str, list[Target]]:
    """Every name that is ours to give; `replicas` are those of the engines that have several, by engine."""
    named = {
        name: [_with_settings(one, model) for each in model.targets for one in _targets(each, cards, loaded, replicas)]
        for name, model in config.models.items()
    }
    unnamed = {
        name: list(_targets(TargetConfig(engine=name), cards, loaded, replicas)) for name in unnamed_engines(config)
    }
    return named | unnamed


def own_targets(
    cards: Cards, loaded: Mapping[str, Card], replicas: Mapping[str, Sequence[str]]
) -> dict[str, Sequence[Target]]:
    """By engine that may have several models, the targets of a model there whose name is the engine's."""
    return {name: list(_targets(TargetConfig(engine=name), cards, loaded, replicas)) for name in loaded}


def loaded_cards(engines: Mapping[str, Assembled], cards: Cards) -> dict[str, Card]:
    """What is known of what each vLLM has loaded: by its name or, where that says nothing, by its checkpoint.

    Of several replicas the first one tells: when they are replaced one at a time, it is of the new config.
    """
    found: dict[str, Card] = {}
    for name, assembled in engines.items():
        if isinstance(assembled.config, VllmConfig) and engine_of(name) not in found:
            found[engine_of(name)] = card_of(assembled.config, assembled.model_card, cards)
    return found


def card_of(engine: VllmConfig, read: str | None, cards: Cards) -> Card:
    """The card of an engine; `read` is the name of the one that fits its checkpoint."""
    card = cards.find(engine.model.rstrip("/"))
    if card is UNKNOWN and read is not None:
        card = cards.named(read) or UNKNOWN
    return card if engine.max_model_len is None else structs.replace(card, context_window=engine.max_model_len)


def _with_settings(target: Target, model: ModelConfig) -> Target:
    """The target with its card overridden by the settings of the model."""
    if model.repairs_tool_markup:
        return target
    return structs.replace(target, card=structs.replace(target.card, leaks_markup=False))


def _targets(
    target: TargetConfig, cards: Cards, loaded: Mapping[str, Card], replicas: Mapping[str, Sequence[str]]
) -> Iterator[Target]:
    """One, or one for each replica of its engine."""
    whole = _target(target, cards, loaded)
    engine = whole.upstream
    if target.engine is None or engine not in replicas:
        yield whole
        return
    for name in replicas[engine]:
        yield structs.replace(whole, upstream=name, group=engine)


def _target(target: TargetConfig, cards: Cards, loaded: Mapping[str, Card]) -> Target:
    place = target.upstream or target.engine or ""
    model = target.model or place
    if target.card is not None:
        card = cards.named(target.card) or UNKNOWN
    else:
        card = loaded[place] if place in loaded else cards.find(model)
    return Target(place, model, card, is_local=target.engine is not None, weight=target.weight, quality=target.quality)
