"""A token is renewed in time, by one fetch at a time, and never sent after it expired."""

import asyncio
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes.clock import FakeClock
from tidegate.errors import UpstreamError, UpstreamFailed, UpstreamUnreachable
from tidegate.transport.auth_headers import StaticAuth, Token, TokenAuth


class Issuer:
    """Issues the tokens "1", "2" and so on; waits for `go`, and raises `failure` if that is set."""

    def __init__(self, lifetime_s: float = 100) -> None:
        self.lifetime_s = lifetime_s
        self.requested = 0
        self.running = self.most_running = 0
        self.failure: UpstreamError | None = None
        self.go = asyncio.Event()
        self.go.set()

    async def __call__(self) -> Token:
        self.requested += 1
        number = self.requested
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await self.go.wait()
            if self.failure is not None:
                raise self.failure
            return Token(str(number), self.lifetime_s)
        finally:
            self.running -= 1


class Stage:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.issuer = Issuer()
        self.tasks = set()
        self.token = TokenAuth(self.issuer, clock=self.clock, tasks=self.tasks)

    def current(self) -> str | None:
        headers = self.token.ready()
        return headers and headers["authorization"]

    async def settled(self) -> None:
        await asyncio.gather(*self.tasks)


@pytest.fixture
async def stage():
    return Stage()


async def test_a_token_is_fetched_once_for_all_waiting_requests(stage):
    assert stage.current() is None
    results = await asyncio.gather(*(stage.token.fetch() for _ in range(50)))
    assert Counter(headers["authorization"] for headers in results) == {"Bearer 1": 50}
    assert (stage.issuer.requested, stage.current(), stage.token.secrets) == (1, "Bearer 1", ("1",))


async def test_a_cancelled_request_does_not_cancel_the_fetch(stage):
    stage.issuer.go.clear()
    first, second = (asyncio.create_task(stage.token.fetch()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    stage.issuer.go.set()
    assert (await second)["authorization"] == "Bearer 1"
    assert first.cancelled()


async def test_a_token_is_renewed_in_the_background_after_80_percent_of_its_lifetime(stage):
    await stage.token.fetch()
    stage.clock.advance(79.9)
    assert (stage.current(), len(stage.tasks)) == ("Bearer 1", 0)
    stage.clock.advance(0.1)
    assert [stage.current() for _ in range(3)] == ["Bearer 1"] * 3
    await stage.settled()
    assert (stage.current(), stage.issuer.requested) == ("Bearer 2", 2)


async def test_the_lifetime_begins_when_the_token_is_requested(stage):
    stage.issuer.go.clear()
    waiting = asyncio.create_task(stage.token.fetch())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    stage.clock.advance(80)
    stage.issuer.go.set()
    await waiting
    stage.current()
    assert len(stage.tasks) == 1
    await stage.settled()


async def test_the_old_token_is_used_until_it_expires_while_no_new_one_can_be_fetched(stage):
    await stage.token.fetch()
    stage.issuer.failure = UpstreamUnreachable("down")
    stage.clock.advance(80)
    requested = []
    for _ in range(14):
        assert stage.current() == "Bearer 1"
        await stage.settled()
        requested.append(stage.issuer.requested)
        stage.clock.advance(1)
    assert requested == [2, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 5, 5, 5]  # ever longer pauses
    stage.clock.advance(1)
    assert stage.current() is None  # it is not used in the last 5 seconds before it expires
    with pytest.raises(UpstreamUnreachable, match="down"):
        await stage.token.fetch()


async def test_a_failure_is_raised_for_all_waiting_requests_and_again_for_a_second(stage):
    """Each request gets its own copy, as an error is changed while its request is handled."""
    stage.issuer.failure = UpstreamFailed("no", retry_after_s=3)
    results = await asyncio.gather(*(stage.token.fetch() for _ in range(5)), return_exceptions=True)
    assert len({id(error) for error in results}) == 5
    assert {(type(error), error.message, error.retry_after_s) for error in results} == {(UpstreamFailed, "no", 3)}
    stage.issuer.failure = None
    with pytest.raises(UpstreamFailed):
        await stage.token.fetch()
    assert stage.issuer.requested == 1
    stage.clock.advance(1)
    assert (await stage.token.fetch())["authorization"] == "Bearer 2"


async def test_a_refused_token_is_renewed_once_for_all_refused_requests(stage):
    old = await stage.token.fetch()
    results = await asyncio.gather(*(stage.token.renew(old) for _ in range(50)))
    assert {headers["authorization"] for headers in results} == {"Bearer 2"}
    late = await stage.token.renew(old)  # by a request whose 401 arrived after the renewal
    assert (late["authorization"], stage.issuer.requested) == ("Bearer 2", 2)


async def test_if_the_new_token_is_refused_too_the_next_is_fetched_after_10_seconds(stage):
    refused = await stage.token.renew(await stage.token.fetch())
    assert await stage.token.renew(refused) is None
    stage.clock.advance(10)
    assert (await stage.token.renew(refused))["authorization"] == "Bearer 3"


async def test_if_no_new_token_can_be_fetched_renew_returns_none(stage):
    old = await stage.token.fetch()
    stage.issuer.failure = UpstreamUnreachable("down")
    assert await stage.token.renew(old) is None
    stage.clock.advance(0.5)
    assert await stage.token.renew(old) is None
    assert stage.issuer.requested == 2


async def test_static_headers_cannot_be_renewed():
    static = StaticAuth("k", "authorization")
    assert static.ready() is await static.fetch()
    assert await static.renew(static.ready()) is None
    assert static.secrets == ()


class RandomSteps(Stage):
    """Runs one step after another; `expires_s` holds when each token expires at the latest."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[asyncio.Task] = []
        self.expires_s: dict[str, float] = {}

    def ready(self) -> None:
        auth_headers = self.current()
        assert auth_headers is None or self.clock.monotonic_s() < self.expires_s[auth_headers]

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
            requested = self.issuer.requested
            await asyncio.sleep(0)
            for number in range(requested + 1, self.issuer.requested + 1):
                self.expires_s[f"Bearer {number}"] = self.clock.monotonic_s() + self.issuer.lifetime_s

    async def end(self) -> None:
        self.open()
        results = await asyncio.gather(*self.waiting, return_exceptions=True)
        assert all(not isinstance(each, Exception) or isinstance(each, UpstreamFailed) for each in results)
        await self.settled()
        assert self.issuer.most_running <= 1


async def test_an_unexpected_exception_in_a_renewal_is_logged_and_delays_the_next_one(stage):
    """No request waits for a renewal in the background; and the next fetch waits for the pause."""
    loop, logged = asyncio.get_running_loop(), []
    loop.set_exception_handler(lambda _, context: logged.append(repr(context["exception"])))
    await stage.token.fetch()
    stage.clock.advance(85)
    stage.issuer.failure = ValueError("a bug")
    for _ in range(5):
        assert stage.current() == "Bearer 1"
        await stage.settled()
    assert (stage.issuer.requested, logged) == (2, ["ValueError('a bug')"])
    stage.clock.advance(16)
    with pytest.raises(UpstreamFailed):
        await stage.token.fetch()
    stage.issuer.failure = None
    stage.clock.advance(30)
    assert (await stage.token.fetch())["authorization"] == "Bearer 4"


STEPS = st.sampled_from(["ready", "fetch", "renew", "open", "shut", "fail", "mend", 0.5, 1.0, 15.0, 80.0, 200.0])


@given(st.lists(STEPS, max_size=40))
@settings(max_examples=60)
def test_no_expired_token_is_used_and_no_two_fetches_run_in_any_sequence_of_steps(steps):
    async def run() -> None:
        stage = RandomSteps()
        for step in steps:
            await stage.step(step)
        await stage.end()

    asyncio.run(run())
