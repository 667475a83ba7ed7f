"""`Router`: which targets a model name means, in the order of the config.

A name is the first of these that matches:

- a configured model;
- a local engine;
- a configured target by its own name (`upstream/name`, or `engine/engine` if the engine has only one target);
- `upstream/name`, with a configured upstream, or with an engine that may have several models (LoRA adapters, or an
  engine that Tidegate does not start);
- a name that an upstream, or an engine that Tidegate does not start, lists (`GET /models`, fetched when needed and
  cached); of several upstreams, the first one.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

from msgspec import structs

from tidegate.config.cards import Cards
from tidegate.errors import ModelNotFound
from tidegate.protocol.models import ModelCard, Status, best_status
from tidegate.protocol.routing import Reach
from tidegate.routing.catalogue import Catalogue
from tidegate.routing.targets import Target


class Router:
    """Finds targets in the configured models and the catalogue; owns no data of its own.

    Args:
        models: by public name, the targets in order of preference.
        upstreams: the names that may precede a slash.
        engines: further names that may precede a slash: for each engine its targets, one for each replica, whose
            `model` is replaced by the name after the slash.
        local: for each engine (started by Tidegate, or on the operator's machines) and each replica, by its name, a
            function that returns its status.
        adapters: returns the names `engine/name` of the LoRA adapters that may be used now.
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
        engines: Mapping[str, Sequence[Target]] = {},
        local: Mapping[str, Callable[[], Status]] = {},
        adapters: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        self._cards = cards
        self._models = models
        self._targets = {target.name: target for targets in models.values() for target in targets}
        self._shared: dict[str, list[Target]] = {}
        for target in self._targets.values():
            self._shared.setdefault(target.shared_name, []).append(target)
        self._upstreams = frozenset(upstreams)
        self._engines = engines
        self._local = local
        self._adapters = adapters
        self._catalogue = catalogue
        self._created = created

    @property
    def configured(self) -> Sequence[Target]:
        """The targets in the config, each once."""
        return list(self._targets.values())

    async def candidates(self, model: str, *, reach: Reach = "any") -> Sequence[Target]:
        """The targets for `model`, in order of preference.

        The reach does not filter them, but no upstream beyond it is requested to list its models.

        Raises:
            ModelNotFound: the name is unknown.
        """
        if (targets := self._models.get(model)) is not None:
            return targets
        if (targets := self._shared.get(model)) is not None:
            return targets
        if (target := self._targets.get(model)) is not None:
            return [target]
        upstream, slash, name = model.partition("/")
        if slash and name and upstream in self._upstreams:
            return [self._target(upstream, name)]
        if slash and name and upstream in self._engines:
            return [structs.replace(target, model=name) for target in self._engines[upstream]]
        for card in await self._listed(reach):
            if card.id == model:
                return [self._target(card.owned_by, model)]
        raise ModelNotFound(f"The model '{model[:256]}' does not exist or you do not have access to it.", param="model")

    async def cards(self, reach: Reach = "any") -> Sequence[ModelCard]:
        """Every model whose name is known, each once, configured ones first. Requests no list beyond the reach."""
        cards = self._own_cards()
        for card in await self._listed(reach):
            cards.setdefault(card.id, self._with_status(card, (card.owned_by,)))
        return list(cards.values())

    async def card(self, model: str, reach: Reach = "any") -> ModelCard:
        """One model.

        Raises:
            ModelNotFound: the name is unknown.
        """
        if (own := self._own_cards().get(model)) is not None:
            return own
        targets = await self.candidates(model, reach=reach)
        found = next((card for card in await self._listed(reach) if card.id == model), None)
        card = found or ModelCard(id=model, owned_by=targets[0].group or targets[0].upstream, created=0)
        return self._with_status(card, [target.upstream for target in targets])

    async def _listed(self, reach: Reach) -> Sequence[ModelCard]:
        return await self._catalogue.cards(self._local if reach == "local_only" else None)

    def _target(self, upstream: str, model: str) -> Target:
        return Target(upstream, model, self._cards.find(model), is_local=upstream in self._local)

    def _own_cards(self) -> dict[str, ModelCard]:
        upstreams_by_name = {name: [target.upstream for target in targets] for name, targets in self._models.items()}
        upstreams_by_name |= {
            name: [name.partition("/")[0]] for name in self._adapters() if name not in upstreams_by_name
        }
        return {
            name: self._with_status(ModelCard(id=name, owned_by="tidegate", created=self._created), upstreams)
            for name, upstreams in upstreams_by_name.items()
        }

    def _with_status(self, card: ModelCard, upstreams: Iterable[str]) -> ModelCard:
        """The card, with the best status of the engines among the upstreams; unchanged if there are none."""
        found = [self._local[name]() for name in upstreams if name in self._local]
        return structs.replace(card, status=best_status(found)) if found else card
