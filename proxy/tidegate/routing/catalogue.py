"""`Catalogue`: what upstreams say they have (`GET /models`)."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

from tidegate.clock import Clock
from tidegate.errors import ProxyError
from tidegate.protocol.models import ModelCard

_FRESH_S = 300.0
_FAILED_FRESH_S = 15.0

Fetch = Callable[[], Awaitable[Sequence[ModelCard]]]


class Catalogue:
    """What each upstream lists; owner of the remembered lists.

    A list is asked for when somebody needs it, once for all who wait, and kept for 5 minutes (15 seconds where the
    upstream could not tell).

    Args:
        sources: by upstream name, how to ask it; raises `ProxyError` where it cannot.
        may_ask: whether the upstream of that name may be asked for anything now.
    """

    def __init__(
        self, sources: Mapping[str, Fetch], clock: Clock, *, may_ask: Callable[[str], bool] = lambda _: True
    ) -> None:
        self._sources = sources
        self._clock = clock
        self._may_ask = may_ask
        self._lists: dict[str, tuple[float, Sequence[ModelCard]]] = {}
        self._asking: dict[str, asyncio.Task[Sequence[ModelCard]]] = {}

    async def cards(self, only: Collection[str] | None = None) -> Sequence[ModelCard]:
        """The models of every upstream that may be asked, or of those named, in the order of the upstreams."""
        names = [name for name in self._sources if (only is None or name in only) and self._may_ask(name)]
        lists = await asyncio.gather(*map(self._cards_of, names))
        return [card for cards in lists for card in cards]

    async def settled(self) -> None:
        """Wait until what is being asked has come, or not."""
        await asyncio.gather(*self._asking.values(), return_exceptions=True)

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
