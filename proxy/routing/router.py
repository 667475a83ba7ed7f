"""Which targets a model name means, in the order of the config.

A name is, in this order: a configured model; an engine of ours; `upstream/name` with a configured upstream, or with an
engine that may have several models (LoRA adapters, or what somebody else has put there); a name that an upstream or
somebody else's engine lists (`GET /models`, asked lazily and remembered), the first one first.
"""

from collections.abc import Callable, Mapping, Sequence

from proxy.config.cards import Card, Cards
from proxy.errors import ModelNotFound
from proxy.protocol.models import ModelCard
from proxy.routing.catalogue import Catalogue
from proxy.routing.targets import Target


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
