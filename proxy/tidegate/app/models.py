"""What names mean: models and their targets, and what is known of them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from msgspec import structs

from tidegate.config.cards import UNKNOWN, Card, Cards
from tidegate.config.engines import CommandConfig, EngineConfig, VllmConfig, served_name
from tidegate.config.models import ModelConfig, TargetConfig
from tidegate.config.replicas import engine_of, groups
from tidegate.config.root import Config, unnamed_engines
from tidegate.engines.base import Engine
from tidegate.engines.factory import ConnectedEngine
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
    """The targets of every model by its name; `replicas` are the names of replicas, by engine (`replicas.groups`)."""
    named = {
        name: [
            _with_settings(one, model)
            for each in model.targets
            for one in _targets(each, config.engines, cards, loaded, replicas)
        ]
        for name, model in config.models.items()
    }
    unnamed = {
        name: list(_targets(TargetConfig(engine=name), config.engines, cards, loaded, replicas))
        for name in unnamed_engines(config)
    }
    return named | unnamed


def own_targets(
    config: Config, cards: Cards, loaded: Mapping[str, Card], replicas: Mapping[str, Sequence[str]]
) -> dict[str, Sequence[Target]]:
    """For each engine of `loaded`, the targets of the model that has the engine's name."""
    return {name: list(_targets(TargetConfig(engine=name), config.engines, cards, loaded, replicas)) for name in loaded}


def loaded_cards(engines: Mapping[str, ConnectedEngine], cards: Cards) -> dict[str, Card]:
    """What is known of what each vLLM has loaded: by its name or, where that says nothing, by its checkpoint.

    For replicas the first one counts: when they are replaced one at a time, it has the new config first.
    """
    found: dict[str, Card] = {}
    for name, connected in engines.items():
        if isinstance(connected.config, VllmConfig) and engine_of(name) not in found:
            found[engine_of(name)] = card_of(connected.config, connected.model_card, cards)
    return found


def card_of(engine: VllmConfig, read: str | None, cards: Cards) -> Card:
    """The card of an engine; `read` is the name of the one that fits its checkpoint."""
    card = cards.find(engine.model.rstrip("/"))
    if card is UNKNOWN and read is not None:
        card = cards.named(read) or UNKNOWN
    return card if engine.max_model_len is None else structs.replace(card, context_window=engine.max_model_len)


def statuses(engines: Mapping[str, ConnectedEngine]) -> dict[str, Callable[[], Status]]:
    """The status of each engine and each replica, as functions; an engine has the status of its best replica."""
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
    target: TargetConfig,
    engines: Mapping[str, EngineConfig],
    cards: Cards,
    loaded: Mapping[str, Card],
    replicas: Mapping[str, Sequence[str]],
) -> Iterator[Target]:
    """The target, or one for each replica of its engine."""
    whole = _target(target, engines, cards, loaded)
    engine = whole.upstream
    if target.engine is None or engine not in replicas:
        yield whole
        return
    for name in replicas[engine]:
        yield structs.replace(whole, upstream=name, group=engine)


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
