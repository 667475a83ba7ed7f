"""`GET /models` and `GET /models/{model}`: authenticate the caller, look the models up, settle the request."""

from collections.abc import Callable, Sequence
from typing import Protocol

from tidegate.auth import Credentials
from tidegate.pipeline.admission import Admission
from tidegate.pipeline.context import RequestContext
from tidegate.pipeline.settlement import Settlement
from tidegate.protocol.models import ModelCard
from tidegate.protocol.routing import Reach
from tidegate.routing.reach import combine


class ModelCardSource(Protocol):
    """Finds the cards of models (see `tidegate.routing.router`)."""

    async def cards(self, reach: Reach) -> Sequence[ModelCard]:
        """The cards of all models; no request is sent to an upstream beyond that reach."""

    async def card(self, model: str, reach: Reach) -> ModelCard:
        """The card of one model; raises `ModelNotFound`."""


class ModelListing:
    """Lists the models; one object for all requests.

    Args:
        reach: how far a request may go, by the config; a caller's key may narrow it.
    """

    def __init__(self, admission: Admission, cards: ModelCardSource, settlement: Settlement, reach: Reach) -> None:
        self._reach: Reach = reach
        self._admission = admission
        self._cards = cards
        self._settlement = settlement

    async def all(
        self, credentials: Credentials, check: Callable[[], None], context: RequestContext
    ) -> Sequence[ModelCard]:
        """The cards of all models.

        Args:
            credentials: the credentials that the caller sent.
            check: checks the request for the front door, after authentication; its errors are settled too.
            context: the context of the request.

        Raises:
            ProxyError: the caller is not authenticated, or an error of `check`.
        """
        with self._settlement.settle(context):
            self._admission.authenticate(credentials, context)
            check()
            return await self._cards.cards(self._reach_of(context))

    async def one(
        self, model: str, credentials: Credentials, check: Callable[[], None], context: RequestContext
    ) -> ModelCard:
        """The card of the model of that name; for the arguments see `all`.

        Raises:
            ProxyError: no model has that name, or as for `all`.
        """
        with self._settlement.settle(context):
            self._admission.authenticate(credentials, context)
            check()
            context.model = model
            return await self._cards.card(model, self._reach_of(context))

    def _reach_of(self, context: RequestContext) -> Reach:
        principal = context.principal
        return combine(self._reach, None, None if principal is None else principal.reach)
