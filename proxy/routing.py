"""Which targets a model name means, and in which order.

A name is, in this order: a configured model; an engine of ours; `upstream/name` with a configured upstream, or with an
engine that may have several models (LoRA adapters, or what somebody else has put there); a name that an upstream or
somebody else's engine lists (`GET /models`, asked lazily and remembered), the first one first.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec

from proxy.clock import Clock
from proxy.config.cards import UNKNOWN, Card, Cards
from proxy.errors import ModelNotFound, ProxyError
from proxy.protocol.models import ModelCard

_FRESH_S = 300.0
_FAILED_FRESH_S = 15.0

Fetch = Callable[[], Awaitable[Sequence[ModelCard]]]


class Target(msgspec.Struct, frozen=True):
    """An upstream (or engine) by name, what the model is called there, and what is known of it."""

    upstream: str
    model: str
    card: Card = UNKNOWN


class Catalogue:
    """What each upstream lists; owner of the remembered lists.

    A list is asked for when somebody needs it, once for all who wait, and kept for 5 minutes (15 seconds where the
    upstream could not tell).

    Args:
        sources: by upstream name, how to ask it; raises `ProxyError` where it cannot.
    """

    def __init__(self, sources: Mapping[str, Fetch], clock: Clock) -> None:
        self._sources = sources
        self._clock = clock
        self._lists: dict[str, tuple[float, Sequence[ModelCard]]] = {}
        self._asking: dict[str, asyncio.Task[Sequence[ModelCard]]] = {}

    async def cards(self) -> Sequence[ModelCard]:
        """The models of every upstream, in the order of the upstreams."""
        lists = await asyncio.gather(*(self._cards_of(name) for name in self._sources))
        return [card for cards in lists for card in cards]

    async def close(self) -> None:
        """Give up what is being asked."""
        for task in list(self._asking.values()):
            task.cancel()
        await asyncio.gather(*self._asking.values(), return_exceptions=True)

    async def _cards_of(self, name: str) -> Sequence[ModelCard]:
        until_s, cards = self._lists.get(name, (0.0, ()))
        if self._clock.monotonic_s() < until_s:
            return cards
        task = self._asking.get(name)
        if task is None:
            task = self._asking[name] = asyncio.create_task(self._ask(name))
        # shielded: one caller who leaves must not take the answer from the others
        return await asyncio.shield(task)

    async def _ask(self, name: str) -> Sequence[ModelCard]:
        cards: Sequence[ModelCard] = self._lists.get(name, (0.0, ()))[1]
        fresh_s = _FAILED_FRESH_S
        try:
            cards = await self._sources[name]()
            fresh_s = _FRESH_S
        except ProxyError:
            pass
        finally:
            self._lists[name] = (self._clock.monotonic_s() + fresh_s, cards)
            del self._asking[name]
        return cards


class Router:
    """Reads the configured models and the catalogue; holds nothing of its own.

    Args:
        models: by public name, the targets in order of preference.
        upstreams: the names that may stand before a slash.
        engines: further ones, whose models all have the same card.
        adapters: the names of the form `engine/name` that can be asked for now.
        cards: what is known of models that are not configured.
    """

    def __init__(
        self,
        models: Mapping[str, Sequence[Target]],
        *,
        upstreams: Sequence[str],
        catalogue: Catalogue,
        cards: Cards,
        created: int,
        engines: Mapping[str, Card] = {},
        adapters: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        self._cards = cards
        self._models = models
        self._upstreams = frozenset(upstreams)
        self._engines = engines
        self._adapters = adapters
        self._catalogue = catalogue
        self._created = created

    async def candidates(self, model: str) -> Sequence[Target]:
        """The targets for `model`, the preferred one first.

        Raises:
            ModelNotFound: nobody knows the name.
        """
        if (targets := self._models.get(model)) is not None:
            return targets
        upstream, slash, name = model.partition("/")
        if slash and name and upstream in self._upstreams:
            return [Target(upstream, name, self._cards.find(name))]
        if slash and name and upstream in self._engines:
            return [Target(upstream, name, self._engines[upstream])]
        for card in await self._catalogue.cards():
            if card.id == model:
                return [Target(card.owned_by, model, self._cards.find(model))]
        raise ModelNotFound(f"The model '{model[:256]}' does not exist or you do not have access to it.", param="model")

    async def cards(self) -> Sequence[ModelCard]:
        """Every model that is known by name, each once: configured ones first."""
        cards = self._own_cards()
        for card in await self._catalogue.cards():
            cards.setdefault(card.id, card)
        return list(cards.values())

    async def card(self, model: str) -> ModelCard:
        """One model.

        Raises:
            ModelNotFound: nobody knows the name.
        """
        if (own := self._own_cards().get(model)) is not None:
            return own
        targets = await self.candidates(model)
        found = next((card for card in await self._catalogue.cards() if card.id == model), None)
        return found or ModelCard(id=model, owned_by=targets[0].upstream, created=0)

    def _own_cards(self) -> dict[str, ModelCard]:
        names = [*self._models, *self._adapters()]
        return {name: ModelCard(id=name, owned_by="tidegate", created=self._created) for name in names}
