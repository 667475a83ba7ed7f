"""The road of `GET /models`: authenticate, look up, settle."""

from collections.abc import Callable, Sequence
from typing import Protocol

from tidegate.auth import Credentials
from tidegate.pipeline.admission import Admission
from tidegate.pipeline.context import RequestContext
from tidegate.pipeline.settlement import Settlement
from tidegate.protocol.models import ModelCard
from tidegate.protocol.routing import Reach
from tidegate.routing.reach import combine


class CardSource(Protocol):
    """Where models are known (see `tidegate.routing.Router`)."""

    async def cards(self, reach: Reach) -> Sequence[ModelCard]:
        """Every model; nobody beyond that reach is asked."""

    async def card(self, model: str, reach: Reach) -> ModelCard:
        """One model; raises `ModelNotFound`."""


class Listing:
    """Says what models there are; shared by all requests.

    Args:
        reach: how far a request may go, as the config says; a caller's key may narrow it.
    """

    def __init__(self, admission: Admission, cards: CardSource, settlement: Settlement, reach: Reach) -> None:
        self._reach: Reach = reach
        self._admission = admission
        self._cards = cards
        self._settlement = settlement

    async def all(
        self, credentials: Credentials, check: Callable[[], None], context: RequestContext
    ) -> Sequence[ModelCard]:
        """Every model. `check` is the front door's own; its errors are settled like ours.

        Raises:
            ProxyError: not for this caller, or what `check` says.
        """
        with self._settlement.settle(context):
            self._admission.authenticate(credentials, context)
            check()
            return await self._cards.cards(self._reach_of(context))

    async def one(
        self, model: str, credentials: Credentials, check: Callable[[], None], context: RequestContext
    ) -> ModelCard:
        """The model of that name.

        Raises:
            ProxyError: there is none, or as `all`.
        """
        with self._settlement.settle(context):
            self._admission.authenticate(credentials, context)
            check()
            context.model = model
            return await self._cards.card(model, self._reach_of(context))

    def _reach_of(self, context: RequestContext) -> Reach:
        key = context.principal
        return combine(self._reach, None, None if key is None else key.reach)
