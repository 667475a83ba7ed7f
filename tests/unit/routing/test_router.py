"""Which targets a model name means, and in which order."""

import asyncio
from functools import partial

import pytest

from tests.fakes.clock import FakeClock
from tidegate.config.cards import Card, Cards
from tidegate.errors import ModelNotFound, UpstreamUnreachable
from tidegate.protocol.models import ModelCard
from tidegate.routing.catalogue import Catalogue
from tidegate.routing.router import Router
from tidegate.routing.targets import Target


class Source:
    """An upstream's list; counts its fetches, and waits while `may_answer` is not set."""

    def __init__(self, name: str, *ids: str) -> None:
        self.name = name
        self.ids = ids
        self.fetches = 0
        self.error = None
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def __call__(self):
        self.fetches += 1
        await self.may_answer.wait()
        if self.error:
            raise self.error
        return [ModelCard(id=model, owned_by=self.name, created=5) for model in self.ids]


def catalogue_of(*sources, clock=None):
    return Catalogue({source.name: source for source in sources}, clock or FakeClock())


def router_of(*sources, models=None, clock=None, **engines):
    return Router(
        models or {},
        upstreams=[source.name for source in sources],
        catalogue=catalogue_of(*sources, clock=clock),
        cards=Cards({}, {}),
        created=7,
        **engines,
    )


def ids(cards):
    return [card.id for card in cards]


# --- names --------------------------------------------------------------------------------------------------------


async def test_a_configured_model_has_its_targets_in_order():
    targets = [Target("local", "a"), Target("far", "b")]
    source = Source("local", "a")
    router = router_of(source, models={"m": targets})
    assert await router.candidates("m") == targets
    assert source.fetches == 0


async def test_a_name_before_a_slash_is_an_upstream():
    """The rest is the host's own name, which may have slashes; no list is fetched."""
    source = Source("far")
    router = router_of(source)
    assert await router.candidates("far/a") == [Target("far", "a")]
    assert await router.candidates("far/org/model:free") == [Target("far", "org/model:free")]
    assert source.fetches == 0


async def test_a_configured_target_has_a_name_of_its_own():
    """By it the target can be measured apart from the model's others; nothing of its configuration is lost."""
    near, far = Target("tiny", "tiny", is_local=True), Target("far", "b", Card(vision=False), quality=0.9)
    router = router_of(Source("far"), models={"m": [near, far]})
    assert await router.candidates("tiny/tiny") == [near]
    assert await router.candidates("far/b") == [far]


async def test_a_name_that_an_upstream_lists_is_found():
    """The first upstream wins; names may contain slashes."""
    router = router_of(Source("one", "a"), Source("two", "a", "org/b"))
    assert await router.candidates("a") == [Target("one", "a")]
    assert await router.candidates("org/b") == [Target("two", "org/b")]


async def test_a_configured_model_name_precedes_an_upstream_before_a_slash():
    router = router_of(Source("far", "x"), models={"far/x": [Target("near", "y")]})
    assert await router.candidates("far/x") == [Target("near", "y")]


async def test_an_engines_adapters_are_models_with_the_card_of_what_it_has_loaded():
    """Adapters are listed while they are loaded; one that is not listed may still be requested."""
    card, loaded = Card(thinking="always"), ["r1/sql"]
    router = router_of(
        models={"r1": [Target("r1", "r1", card)]},
        engines={"r1": [Target("r1", "r1", card, is_local=True)]},
        adapters=lambda: loaded,
    )
    assert await router.candidates("r1/sql") == [Target("r1", "sql", card, is_local=True)]
    assert ids(await router.cards()) == ["r1", "r1/sql"]
    assert (await router.card("r1/sql")).owned_by == "tidegate"
    loaded.clear()
    assert ids(await router.cards()) == ["r1"]
    assert await router.candidates("r1/org/other") == [Target("r1", "org/other", card, is_local=True)]


@pytest.mark.parametrize("model", ["nope", "far/", "/a", "/", "other/a", "A"])
async def test_an_unknown_name_gets_openais_404(model):
    router = router_of(Source("far", "a"))
    with pytest.raises(ModelNotFound) as caught:
        await router.candidates(model)
    assert caught.value.message == f"The model '{model}' does not exist or you do not have access to it."
    assert (caught.value.status, caught.value.param, caught.value.code) == (404, "model", "model_not_found")


async def test_a_long_name_is_cut_in_the_refusal():
    with pytest.raises(ModelNotFound) as caught:
        await router_of().candidates("x" * 10**6)
    assert len(caught.value.message) < 500


# --- lists --------------------------------------------------------------------------------------------------------


async def test_every_model_is_listed_once_configured_ones_first():
    router = router_of(Source("one", "a", "m"), Source("two", "a", "b"), models={"m": [Target("one", "x")]})
    cards = await router.cards()
    assert [(card.id, card.owned_by) for card in cards] == [("m", "tidegate"), ("a", "one"), ("b", "two")]
    assert cards[0].created == 7


async def test_models_with_engines_have_a_status():
    """By name, in the list, for an adapter, and for what an external engine lists; hosted upstreams have none."""
    states = {"r1": "sleeping", "stack": "loaded"}
    router = router_of(
        Source("far", "a"),
        Source("stack", "theirs"),
        models={"m": [Target("far", "x"), Target("r1", "r1")], "n": [Target("r1", "r1"), Target("stack", "y")]},
        engines={"r1": [Target("r1", "r1", Card(), is_local=True)]},
        adapters=lambda: ["r1/sql"],
        local={name: partial(states.get, name) for name in states},
    )
    listed = {card.id: card.status for card in await router.cards()}
    assert listed == {"m": "sleeping", "n": "loaded", "r1/sql": "sleeping", "a": None, "theirs": "loaded"}
    assert {name: (await router.card(name)).status for name in listed} == listed
    assert (await router.card("r1/other")).status == "sleeping"
    assert (await router.card("far/other")).status is None
    states["r1"] = "failed"
    assert (await router.card("m")).status == "failed"


async def test_one_model_has_its_card():
    router = router_of(Source("one", "a"), models={"m": [Target("one", "x")]})
    assert (await router.card("m")).owned_by == "tidegate"
    assert (await router.card("a")).owned_by == "one"
    with pytest.raises(ModelNotFound):
        await router.card("nope")


async def test_a_model_named_with_its_upstream_has_a_card_too():
    card = await router_of(Source("one", "a")).card("one/zzz")
    assert (card.id, card.owned_by) == ("one/zzz", "one")


# --- the catalogue ------------------------------------------------------------------------------------------------


async def test_a_list_is_kept_for_five_minutes():
    clock, source = FakeClock(), Source("one", "a")
    catalogue = catalogue_of(source, clock=clock)
    assert ids(await catalogue.cards()) == ["a"]
    source.ids = ("b",)
    clock.advance(299)
    assert ids(await catalogue.cards()) == ["a"]
    assert source.fetches == 1
    clock.advance(2)
    assert ids(await catalogue.cards()) == ["b"]
    assert source.fetches == 2


async def test_after_a_failed_fetch_the_next_one_is_soon():
    clock, source = FakeClock(), Source("one", "a")
    source.error = UpstreamUnreachable("down")
    catalogue = catalogue_of(source, clock=clock)
    assert await catalogue.cards() == []
    clock.advance(14)
    assert await catalogue.cards() == []
    assert source.fetches == 1
    source.error = None
    clock.advance(2)
    assert ids(await catalogue.cards()) == ["a"]


async def test_the_old_list_stays_while_fetches_fail():
    clock, source = FakeClock(), Source("one", "a")
    catalogue = catalogue_of(source, clock=clock)
    await catalogue.cards()
    source.error = UpstreamUnreachable("down")
    clock.advance(301)
    assert ids(await catalogue.cards()) == ["a"]
    assert source.fetches == 2


async def test_one_dead_host_does_not_hide_the_others():
    dead = Source("dead")
    dead.error = UpstreamUnreachable("down")
    assert ids(await catalogue_of(dead, Source("one", "a")).cards()) == ["a"]


async def test_a_list_is_fetched_once_for_all_requests_that_wait():
    source = Source("one", "a")
    source.may_answer.clear()
    catalogue = catalogue_of(source)
    waiting = [asyncio.create_task(catalogue.cards()) for _ in range(5)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    source.may_answer.set()
    assert [ids(cards) for cards in await asyncio.gather(*waiting)] == [["a"]] * 5
    assert source.fetches == 1


async def test_a_cancelled_request_does_not_cancel_the_fetch_of_the_others():
    source = Source("one", "a")
    source.may_answer.clear()
    catalogue = catalogue_of(source)
    leaving, staying = (asyncio.create_task(catalogue.cards()) for _ in range(2))
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.sleep(0)
    source.may_answer.set()
    assert ids(await staying) == ["a"]
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert source.fetches == 1


async def test_closing_cancels_running_fetches():
    source = Source("one", "a")
    source.may_answer.clear()
    catalogue = catalogue_of(source)
    before = asyncio.all_tasks()
    waiting = asyncio.create_task(catalogue.cards())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await catalogue.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert asyncio.all_tasks() - before == set()


async def test_an_engines_name_means_all_of_its_replicas():
    """Also before a slash; a replica's own name means that replica alone."""
    one, two = (Target(f"gpu:{number}", "gpu", is_local=True, group="gpu") for number in (1, 2))
    router = router_of(models={"m": [one, two]}, engines={"gpu": [one, two]})
    assert await router.candidates("m") == [one, two]
    assert await router.candidates("gpu/gpu") == [one, two]
    assert await router.candidates("gpu:2/gpu") == [two]
    adapters = await router.candidates("gpu/sql")
    assert [(target.name, target.shared_name) for target in adapters] == [
        ("gpu:1/sql", "gpu/sql"),
        ("gpu:2/sql", "gpu/sql"),
    ]
    assert ids(await router.cards()) == ["m"]
