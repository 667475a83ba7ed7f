"""What names mean: models and their targets, and what is known of them."""

from collections.abc import Callable, Mapping
from functools import partial

from msgspec import structs

from proxy.config.cards import UNKNOWN, Card, Cards
from proxy.config.engines import CommandConfig, EngineConfig, VllmConfig, served_name
from proxy.config.models import ModelConfig, TargetConfig
from proxy.config.root import Config, unnamed_engines
from proxy.engines.base import Engine
from proxy.engines.life import State
from proxy.engines.workshop import Assembled
from proxy.protocol.models import Status
from proxy.routing.targets import Target

_STATUSES: Mapping[State, Status] = {
    "ready": "loaded",
    "draining": "loaded",  # it still answers the requests that it has
    "starting": "loading",
    "sleeping": "sleeping",
    "stopping": "unloaded",
    "stopped": "unloaded",
    "failed": "failed",
}


def targets_of(config: Config, cards: Cards, loaded: Mapping[str, Card]) -> dict[str, list[Target]]:
    """Every name that is ours to give."""
    named = {
        name: [_with_settings(_target(each, config.engines, cards, loaded), model) for each in model.targets]
        for name, model in config.models.items()
    }
    own = {name: TargetConfig(engine=name) for name in unnamed_engines(config)}
    return named | {name: [_target(each, config.engines, cards, loaded)] for name, each in own.items()}


def loaded_cards(engines: Mapping[str, Assembled], cards: Cards) -> dict[str, Card]:
    """What is known of what each vLLM has loaded: by its name or, where that says nothing, by its checkpoint."""
    return {
        name: card_of(assembled.config, assembled.model_card, cards)
        for name, assembled in engines.items()
        if isinstance(assembled.config, VllmConfig)
    }


def card_of(engine: VllmConfig, read: str | None, cards: Cards) -> Card:
    """The card of an engine; `read` is the name of the one that fits its checkpoint."""
    card = cards.find(engine.model.rstrip("/"))
    if card is UNKNOWN and read is not None:
        card = cards.named(read) or UNKNOWN
    return card if engine.max_model_len is None else structs.replace(card, context_window=engine.max_model_len)


def statuses(engines: Mapping[str, Assembled]) -> dict[str, Callable[[], Status]]:
    """By engine, how far it is loaded now."""
    return {name: partial(_status_of, assembled.engine) for name, assembled in engines.items()}


def _status_of(engine: Engine) -> Status:
    return _STATUSES[engine.status.state]


def _with_settings(target: Target, model: ModelConfig) -> Target:
    """The target with its card overridden by the settings of the model."""
    if model.repairs_tool_markup:
        return target
    return structs.replace(target, card=structs.replace(target.card, leaks_markup=False))


def _target(
    target: TargetConfig, engines: Mapping[str, EngineConfig], cards: Cards, loaded: Mapping[str, Card]
) -> Target:
    place = target.upstream or target.engine or ""
    engine = None if target.engine is None else engines[target.engine]
    model = target.model or (place if engine is None else served_name(place, engine))
    if target.card is not None:
        card = cards.named(target.card) or UNKNOWN
    elif place in loaded:
        card = loaded[place]
    else:
        path = engine.model if isinstance(engine, CommandConfig) and target.model is None else None
        card = cards.find(path or model)
    return Target(place, model, card, is_local=target.engine is not None, weight=target.weight, quality=target.quality)
