"""`Catalogue`: the models that upstreams list (`GET /models`)."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

from tidegate.clock import Clock
from tidegate.errors import ProxyError
from tidegate.protocol.models import ModelCard

_FRESH_S = 300.0
_FAILED_FRESH_S = 15.0

Fetch = Callable[[], Awaitable[Sequence[ModelCard]]]


class Catalogue:
    """The models that each upstream lists; owns the cached lists.

    A list is fetched when it is needed, once for all requests that wait for it, and cached for 5 minutes (15 seconds if
    the fetch failed; then the earlier list stays).

    Args:
        sources: by upstream name, the function that fetches its list; it raises `ProxyError` if it cannot.
        may_fetch: whether a request may be sent to the upstream of that name now.
    """

    def __init__(
        self, sources: Mapping[str, Fetch], clock: Clock, *, may_fetch: Callable[[str], bool] = lambda _: True
    ) -> None:
        self._sources = sources
        self._clock = clock
        self._may_fetch = may_fetch
        self._lists: dict[str, tuple[float, Sequence[ModelCard]]] = {}
        self._fetches: dict[str, asyncio.Task[Sequence[ModelCard]]] = {}

    async def cards(self, only: Collection[str] | None = None) -> Sequence[ModelCard]:
        """The models of the upstreams in `only` (None: of all) that may be fetched, in the order of the upstreams."""
        names = [name for name in self._sources if (only is None or name in only) and self._may_fetch(name)]
        lists = await asyncio.gather(*map(self._cards_of, names))
        return [card for cards in lists for card in cards]

    async def wait_for_fetches(self) -> None:
        """Wait until all running fetches have ended, with or without success."""
        await asyncio.gather(*self._fetches.values(), return_exceptions=True)

    async def close(self) -> None:
        """Cancel all running fetches."""
        for task in list(self._fetches.values()):
            task.cancel()
        await asyncio.gather(*self._fetches.values(), return_exceptions=True)

    async def _cards_of(self, name: str) -> Sequence[ModelCard]:
        until_s, cards = self._lists.get(name, (0.0, ()))
        if self._clock.monotonic_s() < until_s:
            return cards
        task = self._fetches.get(name)
        if task is None:
            task = self._fetches[name] = asyncio.create_task(self._fetch(name))
        # shielded: when one request is cancelled, the fetch must go on for the others
        return await asyncio.shield(task)

    async def _fetch(self, name: str) -> Sequence[ModelCard]:
        cards: Sequence[ModelCard] = self._lists.get(name, (0.0, ()))[1]
        fresh_s = _FAILED_FRESH_S
        try:
            cards = await self._sources[name]()
            fresh_s = _FRESH_S
        except ProxyError:
            pass
        finally:
            self._lists[name] = (self._clock.monotonic_s() + fresh_s, cards)
            del self._fetches[name]
        return cards
