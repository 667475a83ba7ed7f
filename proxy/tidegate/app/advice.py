"""Notes on settings that have no effect, or perhaps an unintended one.

They are shown at the start, at a reload and by `tidegate check`. A setting that cannot work at all is an error instead
(`tidegate.config.root.check`); the settings noted here may be intended.
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

_PRIVATE_SUFFIXES = (".local", ".localhost", ".internal", ".lan", ".home.arpa", ".svc")


def advise(config: Config) -> Sequence[str]:
    """The notes, one line each: the path of the key, the problem, and how to fix it."""
    targets = targets_of(config, Cards(config.cards, known_cards()), {})
    lines = [*renamed.notes(config), *_advise_on_hosts(config), *_advise_on_swaps(config)]
    for name, model in config.models.items():
        lines += [f"models.{name}{line}" for line in _advise_on_model(model, targets[name], config)]
    return lines


def is_private(url: str) -> bool:
    """Whether the host of `url` is on this machine or in a private network, judged by its name alone."""
    host = urlsplit(url).hostname or ""
    try:
        return not ip_address(host).is_global
    except ValueError:
        return "." not in host or host.endswith(_PRIVATE_SUFFIXES)


def _advise_on_hosts(config: Config) -> Iterator[str]:
    for name, engine in config.engines.items():
        if isinstance(engine, CommandConfig):
            yield from (f"engines.{name}{line}" for line in commands.advice(engine))
        if isinstance(engine, ExternalConfig) and not is_private(engine.base_url):
            yield (
                f"engines.{name}.base_url: an engine counts as local, so requests with reach local_only are sent "
                "there; if another party runs that host, put it under upstreams"
            )
    for name, upstream in config.upstreams.items():
        if (upstream.api_keys or upstream.credentials) and _is_unencrypted(upstream.base_url):
            yield f"upstreams.{name}.base_url: keys and prompts are sent unencrypted; use https://"
        for index, credential in enumerate(upstream.credentials):
            url = None if isinstance(credential, ApiKeyConfig) else credential.token_url
            if url is not None and _is_unencrypted(url):
                path = f"upstreams.{name}.credentials[{index}].token_url"
                yield f"{path}: the client secret is sent unencrypted; use https://"


def _advise_on_swaps(config: Config) -> Iterator[str]:
    managed = {name: engine for name, engine in config.engines.items() if not isinstance(engine, ExternalConfig)}
    for index, group in enumerate(config.swap.exclusive):
        path = f"swap.exclusive[{index}]"
        eager = [name for name in group if managed[name].start == "eager"]
        if len(eager) > 1:
            fix = "but may not be loaded together; set start: on_demand for all but one"
            yield f"{path}: {' and '.join(eager)} start with the server, {fix}"
        for name in group:
            if managed[name].pinned:
                yield f"{path}: {name} is pinned, so the others cannot be loaded after it; remove pinned"
    for name, engine in managed.items():
        if len(managed) > 1 and engine.queue_timeout_s <= config.swap.max_wait_s:
            fix = f"before an engine with requests makes room ({config.swap.max_wait_s:g} s); set it lower"
            yield (
                f"swap.max_wait_s: requests for {name} wait {engine.queue_timeout_s:g} s "
                f"(engines.{name}.queue_timeout_s) and give up {fix}"
            )


def _is_unencrypted(url: str) -> bool:
    return url.startswith("http:") and not is_private(url)


def _advise_on_model(model: ModelConfig, targets: Sequence[Target], config: Config) -> Iterator[str]:
    has_choice = any(target.is_local for target in targets) and not all(target.is_local for target in targets)
    if model.overflow_ttft_s is not None and not has_choice:
        yield ".overflow_ttft_s: does nothing without both an engine and an upstream among the targets"
    elif model.overflow_ttft_s is not None and "local_first" not in {model.policy, model.reach or config.routing.reach}:
        fix = "except for requests with reach local_first; set policy: local_first"
        yield f".overflow_ttft_s: does nothing with policy {model.policy}, {fix}"
    if model.balance != BalanceConfig() and model.policy != "balanced":
        yield f".balance: does nothing with policy {model.policy}; set policy: balanced"
    if model.hedge and _count_targets(targets, config) < 2:
        yield ".hedge: does nothing with one target; add another"
    if model.on_stream_failure == "continue":
        yield from _advise_on_continuation(targets, config)
    if model.max_price_usd is not None:
        for index, target in enumerate(targets):
            if not target.is_local and target.card.price is None:
                yield (
                    f".max_price_usd: the price of targets[{index}] ({target.name}) is not known, so the limit is not "
                    "applied to it; give it a card that has a price"
                )
    if model.reach is None and config.routing.reach == "local_only" and not any(target.is_local for target in targets):
        yield ".targets: no engine is among them, and routing.reach is local_only: no target can take a request"


def _advise_on_continuation(targets: Sequence[Target], config: Config) -> Iterator[str]:
    capable = [target for target in targets if _dialect_of(target.upstream, config).can_continue("chat")]
    if _count_targets(targets, config) < 2:
        yield ".on_stream_failure: continue does nothing with one target; add another"
    elif not capable:
        yield ".on_stream_failure: continue does nothing for chat, as no target can continue a partial answer"


def _count_targets(targets: Sequence[Target], config: Config) -> int:
    """The number of targets; each replica counts as one."""
    return sum(replicas_of(config.engines.get(target.upstream)) for target in targets)


def _dialect_of(name: str, config: Config) -> Dialect:
    """The dialect of the upstream or engine of that name."""
    if (upstream := config.upstreams.get(name)) is not None:
        return DIALECTS[upstream.dialect]
    return DIALECTS[dialect_of(config.engines[name])]
