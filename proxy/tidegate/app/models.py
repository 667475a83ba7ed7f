"""From the config to the targets of each model, with their cards; and the statuses of engines for model lists."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from msgspec import structs

from tidegate.config.cards import UNKNOWN, Card, Cards
from tidegate.config.engines import CommandConfig, EngineConfig, VllmConfig, served_name
from tidegate.config.models import ModelConfig, TargetConfig
from tidegate.config.replicas import engine_of, groups
from tidegate.config.root import Config, unnamed_engines
from tidegate.engines.base import Engine
from tidegate.engines.factory import EngineEntry
from tidegate.engines.states import State
from tidegate.protocol.models import Status, best_status
from tidegate.routing.targets import Target

_STATUSES: Mapping[State, Status] = {
    "ready": "loaded",
    "draining": "loaded",  # it still answers the requests that it has
    "starting": "loading",
    "sleeping": "sleeping",
    "stopping": "unloaded",
    "stopped": "unloaded",
    "failed": "failed",
}


def targets_of(
    config: Config, cards: Cards, loaded: Mapping[str, Card], replicas: Mapping[str, Sequence[str]] = {}
) -> dict[str, list[Target]]:
    """The targets of every model by its name, including the engines that no configured model uses.

    Args:
        config: the config.
        cards: the configured cards and the ones that come with Tidegate.
        loaded: the cards of what the vLLM engines have loaded, by engine (`loaded_cards`).
        replicas: the names of the replicas, by engine (`replicas.groups`).
    """
    named = {
        name: [
            _with_settings(target, model)
            for target_config in model.targets
            for target in _targets(target_config, config.engines, cards, loaded, replicas)
        ]
        for name, model in config.models.items()
    }
    unnamed = {
        name: list(_targets(TargetConfig(engine=name), config.engines, cards, loaded, replicas))
        for name in unnamed_engines(config)
    }
    return named | unnamed


def engine_targets(
    config: Config, cards: Cards, loaded: Mapping[str, Card], replicas: Mapping[str, Sequence[str]]
) -> dict[str, Sequence[Target]]:
    """For each engine of `loaded`, the targets of the model that has the engine's name."""
    return {name: list(_targets(TargetConfig(engine=name), config.engines, cards, loaded, replicas)) for name in loaded}


def loaded_cards(engines: Mapping[str, EngineEntry], cards: Cards) -> dict[str, Card]:
    """The card of the model in each vLLM engine: found by the model's name, otherwise by its checkpoint.

    Of several replicas the first one counts: when they are replaced one at a time, it has the new config first.
    """
    found: dict[str, Card] = {}
    for name, entry in engines.items():
        if isinstance(entry.config, VllmConfig) and engine_of(name) not in found:
            found[engine_of(name)] = card_of(entry.config, entry.model_card, cards)
    return found


def card_of(engine: VllmConfig, checkpoint_card: str | None, cards: Cards) -> Card:
    """The card of a vLLM engine; `checkpoint_card` names the card that fits its checkpoint, or is None."""
    card = cards.find(engine.model.rstrip("/"))
    if card is UNKNOWN and checkpoint_card is not None:
        card = cards.named(checkpoint_card) or UNKNOWN
    return card if engine.max_model_len is None else structs.replace(card, context_window=engine.max_model_len)


def statuses(engines: Mapping[str, EngineEntry]) -> dict[str, Callable[[], Status]]:
    """A function for each engine and each replica that returns its status; an engine has that of its best replica."""
    members = {**{name: [name] for name in engines}, **groups(engines)}
    return {name: partial(_status_of, [engines[each].engine for each in names]) for name, names in members.items()}


def _status_of(replicas: Sequence[Engine]) -> Status:
    return best_status([_STATUSES[engine.status.state] for engine in replicas])


def _with_settings(target: Target, model: ModelConfig) -> Target:
    """The target with its card overridden by the settings of the model."""
    if model.repairs_tool_markup:
        return target
    return structs.replace(target, card=structs.replace(target.card, leaks_markup=False))


def _targets(
    config: TargetConfig,
    engines: Mapping[str, EngineConfig],
    cards: Cards,
    loaded: Mapping[str, Card],
    replicas: Mapping[str, Sequence[str]],
) -> Iterator[Target]:
    """The target of `config`, or one target for each replica of its engine."""
    target = _target(config, engines, cards, loaded)
    engine = target.upstream
    if config.engine is None or engine not in replicas:
        yield target
        return
    for name in replicas[engine]:
        yield structs.replace(target, upstream=name, group=engine)


def _target(
    config: TargetConfig, engines: Mapping[str, EngineConfig], cards: Cards, loaded: Mapping[str, Card]
) -> Target:
    upstream = config.upstream or config.engine or ""
    engine = None if config.engine is None else engines[config.engine]
    model = config.model or (upstream if engine is None else served_name(upstream, engine))
    if config.card is not None:
        card = cards.named(config.card) or UNKNOWN
    elif upstream in loaded:
        card = loaded[upstream]
    else:
        path = engine.model if isinstance(engine, CommandConfig) and config.model is None else None
        card = cards.find(path or model)
    return Target(
        upstream, model, card, is_local=config.engine is not None, weight=config.weight, quality=config.quality
    )
