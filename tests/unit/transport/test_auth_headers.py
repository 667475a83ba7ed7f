"""A token is renewed in time, by one fetch at a time, and never shown after its end."""

import asyncio
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tidegate.errors import UpstreamError, UpstreamFailed, UpstreamUnreachable
from tidegate.transport.auth_headers import StaticAuth, Token, TokenAuth

from tests.fakes.clock import FakeClock


class Issuer:
    """Gives 1, 2 and so on; fails while it is told to; waits for `go`."""

    def __init__(self, life_s: float = 100) -> None:
        self.life_s = life_s
        self.asked = 0
        self.at_once = self.most_at_once = 0
        self.failure: UpstreamError | None = None
        self.go = asyncio.Event()
        self.go.set()

    async def __call__(self) -> Token:
        self.asked += 1
        number = self.asked
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await self.go.wait()
            if self.failure is not None:
                raise self.failure
            return Token(str(number), self.life_s)
        finally:
            self.at_once -= 1


class Stage:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.issuer = Issuer()
        self.tasks = set()
        self.token = TokenAuth(self.issuer, clock=self.clock, tasks=self.tasks)

    def shows(self) -> str | None:
        headers = self.token.ready()
        return headers and headers["authorization"]

    async def settled(self) -> None:
        await asyncio.gather(*self.tasks)


@pytest.fixture
async def stage():
    return Stage()


async def test_a_token_is_fetched_once_for_all_who_wait(stage):
    assert stage.shows() is None
    got = await asyncio.gather(*(stage.token.fetch() for _ in range(50)))
    assert Counter(headers["authorization"] for headers in got) == {"Bearer 1": 50}
    assert (stage.issuer.asked, stage.shows(), stage.token.secrets) == (1, "Bearer 1", ("1",))


async def test_whoever_stops_waiting_does_not_stop_the_fetch(stage):
    stage.issuer.go.clear()
    first, second = (asyncio.create_task(stage.token.fetch()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    stage.issuer.go.set()
    assert (await second)["authorization"] == "Bearer 1"
    assert first.cancelled()


async def test_it_is_renewed_in_the_background_after_four_fifths_of_its_life(stage):
    await stage.token.fetch()
    stage.clock.advance(79.9)
    assert (stage.shows(), len(stage.tasks)) == ("Bearer 1", 0)
    stage.clock.advance(0.1)
    assert [stage.shows() for _ in range(3)] == ["Bearer 1"] * 3
    await stage.settled()
    assert (stage.shows(), stage.issuer.asked) == ("Bearer 2", 2)


async def test_its_life_begins_when_it_is_asked_for(stage):
    stage.issuer.go.clear()
    waiting = asyncio.create_task(stage.token.fetch())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    stage.clock.advance(80)
    stage.issuer.go.set()
    await waiting
    stage.shows()
    assert len(stage.tasks) == 1
    await stage.settled()


async def test_the_old_one_is_used_while_it_lives_and_no_new_one_is_to_be_had(stage):
    await stage.token.fetch()
    stage.issuer.failure = UpstreamUnreachable("down")
    stage.clock.advance(80)
    asked = []
    for _ in range(14):
        assert stage.shows() == "Bearer 1"
        await stage.settled()
        asked.append(stage.issuer.asked)
        stage.clock.advance(1)
    assert asked == [2, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 5, 5, 5]  # ever longer pauses
    stage.clock.advance(1)
    assert stage.shows() is None  # some seconds before the end
    with pytest.raises(UpstreamUnreachable, match="down"):
        await stage.token.fetch()


async def test_a_failure_is_told_to_all_and_for_a_second(stage):
    """Each gets its own: errors carry the marks of who they were raised for."""
    stage.issuer.failure = UpstreamFailed("no", retry_after_s=3)
    got = await asyncio.gather(*(stage.token.fetch() for _ in range(5)), return_exceptions=True)
    assert len({id(error) for error in got}) == 5
    assert {(type(error), error.message, error.retry_after_s) for error in got} == {(UpstreamFailed, "no", 3)}
    stage.issuer.failure = None
    with pytest.raises(UpstreamFailed):
        await stage.token.fetch()
    assert stage.issuer.asked == 1
    stage.clock.advance(1)
    assert (await stage.token.fetch())["authorization"] == "Bearer 2"


async def test_a_refused_token_is_renewed_once_for_all_who_were_refused(stage):
    old = await stage.token.fetch()
    got = await asyncio.gather(*(stage.token.renew(old) for _ in range(50)))
    assert {headers["authorization"] for headers in got} == {"Bearer 2"}
    late = await stage.token.renew(old)  # its answer took longer
    assert (late["authorization"], stage.issuer.asked) == ("Bearer 2", 2)


async def test_where_a_new_token_is_no_cure_not_every_refusal_asks_for_one(stage):
    refused = await stage.token.renew(await stage.token.fetch())
    assert await stage.token.renew(refused) is None
    stage.clock.advance(10)
    assert (await stage.token.renew(refused))["authorization"] == "Bearer 3"


async def test_where_no_new_token_is_to_be_had_the_refusal_stands(stage):
    old = await stage.token.fetch()
    stage.issuer.failure = UpstreamUnreachable("down")
    assert await stage.token.renew(old) is None
    stage.clock.advance(0.5)
    assert await stage.token.renew(old) is None
    assert stage.issuer.asked == 2


async def test_fixed_headers_are_all_there_is():
    fixed = StaticAuth("k", "authorization")
    assert fixed.ready() is await fixed.fetch()
    assert await fixed.renew(fixed.ready()) is None
    assert fixed.secrets == ()


class Play(Stage):
    """One step after another; knows when each token's life ends at the latest."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[asyncio.Task] = []
        self.ends_s: dict[str, float] = {}

    def ready(self) -> None:
        auth_headers = self.shows()
        assert auth_headers is None or self.clock.monotonic_s() < self.ends_s[auth_headers]

    def fetch(self) -> None:
        self.waiting.append(asyncio.create_task(self.token.fetch()))

    def renew(self) -> None:
        self.waiting.append(asyncio.create_task(self.token.renew(self.token._headers)))

    def fail(self) -> None:
        self.issuer.failure = UpstreamFailed("no")

    def mend(self) -> None:
        self.issuer.failure = None

    def open(self) -> None:
        self.issuer.go.set()

    def shut(self) -> None:
        self.issuer.go.clear()

    async def step(self, step: str | float) -> None:
        if isinstance(step, float):
            self.clock.advance(step)
        else:
            getattr(self, step)()
        for _ in range(4):
            asked = self.issuer.asked
            await asyncio.sleep(0)
            for number in range(asked + 1, self.issuer.asked + 1):
                self.ends_s[f"Bearer {number}"] = self.clock.monotonic_s() + self.issuer.life_s

    async def end(self) -> None:
        self.open()
        got = await asyncio.gather(*self.waiting, return_exceptions=True)
        assert all(not isinstance(each, Exception) or isinstance(each, UpstreamFailed) for each in got)
        await self.settled()
        assert self.issuer.most_at_once <= 1


async def test_an_unexpected_exception_in_a_renewal_is_logged_and_delays_the_next_one(stage):
    """In the background no request is told of it; and not every request may try again."""
    loop, logged = asyncio.get_running_loop(), []
    loop.set_exception_handler(lambda _, context: logged.append(repr(context["exception"])))
    await stage.token.fetch()
    stage.clock.advance(85)
    stage.issuer.failure = ValueError("a fault of ours")
    for _ in range(5):
        assert stage.shows() == "Bearer 1"
        await stage.settled()
    assert (stage.issuer.asked, logged) == (2, ["ValueError('a fault of ours')"])
    stage.clock.advance(16)
    with pytest.raises(UpstreamFailed):
        await stage.token.fetch()
    stage.issuer.failure = None
    stage.clock.advance(30)
    assert (await stage.token.fetch())["authorization"] == "Bearer 4"


STEPS = st.sampled_from(["ready", "fetch", "renew", "open", "shut", "fail", "mend", 0.5, 1.0, 15.0, 80.0, 200.0])


@given(st.lists(STEPS, max_size=40))
@settings(max_examples=60)
def test_no_dead_token_is_shown_and_no_two_fetches_run_whatever_happens(steps):
    async def run() -> None:
        play = Play()
        for step in steps:
            await play.step(step)
        await play.end()

    asyncio.run(run())
