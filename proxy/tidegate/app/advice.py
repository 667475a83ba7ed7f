"""What a config says that does nothing, or not what was meant: told at start, at a reload and by `tidegate check`.

What cannot work at all is refused (`tidegate.config.root.check`); what stands here may be meant.
"""

from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from urllib.parse import urlsplit

from tidegate.app.models import targets_of
from tidegate.config import commands, renamed
from tidegate.config.cards import Cards, known_cards
from tidegate.config.credentials import ApiKeyConfig
from tidegate.config.engines import CommandConfig, ExternalConfig, dialect_of
from tidegate.config.models import BalanceConfig, ModelConfig
from tidegate.config.replicas import replicas_of
from tidegate.config.root import Config
from tidegate.dialects.base import Dialect
from tidegate.dialects.registry import DIALECTS
from tidegate.routing.targets import Target

_NEAR_NAMES = (".local", ".localhost", ".internal", ".lan", ".home.arpa", ".svc")


def advise(config: Config) -> Sequence[str]:
    """A line for each: the key's path, what about it, and the cure."""
    targets = targets_of(config, Cards(config.cards, known_cards()), {})
    found = [*renamed.notes(config), *_advise_on_hosts(config), *_advise_on_swaps(config)]
    for name, model in config.models.items():
        found += [f"models.{name}{line}" for line in _advise_on(model, targets[name], config)]
    return found


def is_near(url: str) -> bool:
    """Whether the host of `url` is on this machine or in a private network, as far as its name shows."""
    host = urlsplit(url).hostname or ""
    try:
        return not ip_address(host).is_global
    except ValueError:
        return "." not in host or host.endswith(_NEAR_NAMES)


def _advise_on_hosts(config: Config) -> Iterator[str]:
    for name, engine in config.engines.items():
        if isinstance(engine, CommandConfig):
            yield from (f"engines.{name}{line}" for line in commands.advice(engine))
        if isinstance(engine, ExternalConfig) and not is_near(engine.base_url):
            yield (
                f"engines.{name}.base_url: an engine counts as ours, so requests that may not leave this house "
                "(local_only) go there; if that host is somebody else's, put it under upstreams"
            )
    for name, upstream in config.upstreams.items():
        if (upstream.api_keys or upstream.credentials) and _is_in_the_clear(upstream.base_url):
            yield f"upstreams.{name}.base_url: keys and prompts cross the net in the clear; write https://"
        for index, credential in enumerate(upstream.credentials):
            url = None if isinstance(credential, ApiKeyConfig) else credential.token_url
            if url is not None and _is_in_the_clear(url):
                where = f"upstreams.{name}.credentials[{index}].token_url"
                yield f"{where}: the client's secret crosses the net in the clear; write https://"


def _advise_on_swaps(config: Config) -> Iterator[str]:
    ours = {name: engine for name, engine in config.engines.items() if not isinstance(engine, ExternalConfig)}
    for index, group in enumerate(config.swap.exclusive):
        where = f"swap.exclusive[{index}]"
        eager = [name for name in group if ours[name].start == "eager"]
        if len(eager) > 1:
            cure = "but may not be loaded together; set start: on_demand for all but one"
            yield f"{where}: {' and '.join(eager)} start with the server, {cure}"
        for name in group:
            if ours[name].pinned:
                yield f"{where}: {name} is pinned, so the others cannot be loaded after it; take pinned out"
    for name, engine in ours.items():
        if len(ours) > 1 and engine.queue_timeout_s <= config.swap.max_wait_s:
            cure = f"before an engine with requests makes room ({config.swap.max_wait_s:g} s); set it lower"
            yield (
                f"swap.max_wait_s: requests for {name} wait {engine.queue_timeout_s:g} s "
                f"(engines.{name}.queue_timeout_s) and give up {cure}"
            )


def _is_in_the_clear(url: str) -> bool:
    return url.startswith("http:") and not is_near(url)


def _advise_on(model: ModelConfig, targets: Sequence[Target], config: Config) -> Iterator[str]:
    has_choice = any(target.is_local for target in targets) and not all(target.is_local for target in targets)
    if model.overflow_ttft_s is not None and not has_choice:
        yield ".overflow_ttft_s: does nothing without both an engine and an upstream among the targets"
    elif model.overflow_ttft_s is not None and "local_first" not in {model.policy, model.reach or config.routing.reach}:
        cure = "but for reach local_first; set policy: local_first"
        yield f".overflow_ttft_s: does nothing with policy {model.policy}, {cure}"
    if model.balance != BalanceConfig() and model.policy != "balanced":
        yield f".balance: does nothing with policy {model.policy}; set policy: balanced"
    if model.hedge and _count_targets(targets, config) < 2:
        yield ".hedge: does nothing with one target; add another"
    if model.on_stream_failure == "continue":
        yield from _advise_on_continuing(targets, config)
    if model.max_price_usd is not None:
        for index, target in enumerate(targets):
            if not target.is_local and target.card.price is None:
                yield (
                    f".max_price_usd: what targets[{index}] ({target.name}) costs is not known, so the ceiling does "
                    "not hold there; give it a card that has a price"
                )
    if model.reach is None and config.routing.reach == "local_only" and not any(target.is_local for target in targets):
        yield ".targets: no engine is among them, and routing.reach is local_only: nothing can take a request"


def _advise_on_continuing(targets: Sequence[Target], config: Config) -> Iterator[str]:
    able = [target for target in targets if _dialect_of(target.upstream, config).can_go_on("chat")]
    if _count_targets(targets, config) < 2:
        yield ".on_stream_failure: continue does nothing with one target; add another"
    elif not able:
        yield ".on_stream_failure: continue does nothing for chat, as no target can take up an answer in the middle"


def _count_targets(targets: Sequence[Target], config: Config) -> int:
    """How many targets there are; each replica counts."""
    return sum(replicas_of(config.engines.get(target.upstream)) for target in targets)


def _dialect_of(place: str, config: Config) -> Dialect:
    if (upstream := config.upstreams.get(place)) is not None:
        return DIALECTS[upstream.dialect]
    return DIALECTS[dialect_of(config.engines[place])]
