"""Which credential is used next: turns by weight, cooldowns, rotation; also against a reference model."""

import math
from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.fakes.clock import FakeClock
from tests.fakes.tokens import ScriptedClient
from tidegate.config.credentials import ApiKeyConfig, OAuth2Config
from tidegate.config.routing import HealthConfig
from tidegate.config.secret import Secret
from tidegate.cooldown import Cooldown
from tidegate.errors import UpstreamFailed, UpstreamRateLimited, UpstreamUnreachable
from tidegate.transport.credential_specs import CredentialSpec, of_keys
from tidegate.transport.credentials import CredentialPool, Trial


def key(name: str, *, weight: float = 1.0, account: str | None = None) -> CredentialSpec:
    return CredentialSpec(ApiKeyConfig(key=Secret.from_env(name), weight=weight, account=account), name)


def oauth(name: str, *, account: str | None = None) -> CredentialSpec:
    config = OAuth2Config(
        token_url=f"https://{name}/token", client_id=name, client_secret=Secret.from_env(name), account=account
    )
    return CredentialSpec(config, f"secret-of-{name}")


@pytest.fixture
def clock():
    return FakeClock()


def pool_of(clock, *specs: CredentialSpec, client=None) -> CredentialPool:
    return CredentialPool(specs, clock=clock, client=client)


def chosen(pool: CredentialPool, times: int, model: str = "") -> list[str]:
    return [pool.choose(model).spec.secret for _ in range(times)]


def test_a_key_is_sent_in_the_header_that_the_host_reads(clock):
    headers = CredentialPool(of_keys(["k"]), clock=clock).choose().auth_headers.ready()
    assert headers["authorization"] == "Bearer k"
    headers = CredentialPool(of_keys(["k"]), key_header="api-key", clock=clock).choose().auth_headers.ready()
    assert (headers["api-key"], "authorization" in headers) == ("k", False)
    assert "authorization" not in CredentialPool(clock=clock).choose().auth_headers.ready()


def test_keys_are_used_in_turn(clock):
    assert chosen(pool_of(clock, *of_keys("abc")), 5) == ["a", "b", "c", "a", "b"]


def test_a_weight_is_a_share_and_its_turns_are_spread(clock):
    """The example in nginx's source."""
    pool = pool_of(clock, key("a", weight=5), key("b"), key("c"))
    assert "".join(chosen(pool, 7)) == "aabacaa"


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6))
@settings(max_examples=50)
def test_in_every_round_each_is_used_as_often_as_its_weight(weights):
    pool = pool_of(FakeClock(), *(key(str(index), weight=weight) for index, weight in enumerate(weights)))
    for _ in range(2):
        assert Counter(chosen(pool, sum(weights))) == {str(index): weight for index, weight in enumerate(weights)}


def test_the_cooldown_of_a_refused_credential_grows_until_it_works(clock):
    pool = pool_of(clock, *of_keys("ab"))
    a = pool.choose()
    for cooldown_s in [30, 60, 90]:
        a.refused(401)
        clock.advance(cooldown_s - 1)
        assert set(chosen(pool, 4)) == {"b"}
        clock.advance(1)
        assert set(chosen(pool, 4)) == {"a", "b"}
    for _ in range(30):
        a.refused(402)
        clock.advance(600)
        assert set(chosen(pool, 4)) == {"a", "b"}
    a.worked()
    a.refused(401)
    clock.advance(30)
    assert set(chosen(pool, 4)) == {"a", "b"}


def test_fifty_refusals_at_once_count_as_one(clock):
    """Their requests were all sent before the first was refused."""
    pool = pool_of(clock, *of_keys("ab"))
    a = pool.choose()
    for _ in range(50):
        a.refused(401)
    clock.advance(30)
    assert set(chosen(pool, 4)) == {"a", "b"}


def test_a_403_counts_for_its_model_only(clock):
    pool = pool_of(clock, *of_keys("ab"))
    a = pool.choose()
    a.refused(403, "large")
    assert set(chosen(pool, 4, "large")) == {"b"}
    assert set(chosen(pool, 4, "small")) == {"a", "b"}
    assert pool.has_other(a, "large")
    a.worked("small")
    assert set(chosen(pool, 4, "large")) == {"b"}
    a.worked("large")
    assert set(chosen(pool, 4, "large")) == {"a", "b"}
    a.refused(403)
    assert set(chosen(pool, 4, "small")) == {"b"}


def test_the_number_of_models_kept_is_limited(clock):
    pool = pool_of(clock, *of_keys("ab"))
    a = pool.choose()
    for number in range(1000):
        a.refused(403, f"m{number}")
    assert len(a._models) == 64
    assert set(chosen(pool, 4, "m999")) == {"b"}


def test_a_single_key_is_used_though_it_was_refused(clock):
    pool = pool_of(clock, *of_keys("a"))
    pool.choose().refused(401)
    pool.choose().refused(403, "m")
    assert (chosen(pool, 1, "m"), pool.limited_for_s()) == (["a"], 0.0)


def test_if_all_are_refused_the_one_whose_cooldown_ends_first_is_used(clock):
    pool = pool_of(clock, *of_keys("ab"))
    a, b = pool.choose(), pool.choose()
    a.refused(401)
    clock.advance(1)
    b.refused(401)
    assert chosen(pool, 2) == ["a", "a"]
    assert not pool.has_other(a)


def test_a_limited_credential_is_not_used_for_as_long_as_the_host_said(clock):
    pool = pool_of(clock, *of_keys("ab"))
    a, b = pool.choose(), pool.choose()
    a.limited(10)
    assert chosen(pool, 2) == ["b", "b"]
    b.limited(4)
    b.limited(2)  # an answer that arrived late
    assert pool.limited_for_s() == 4
    with pytest.raises(UpstreamRateLimited) as caught:
        pool.choose()
    assert caught.value.retry_after_s == 4
    clock.advance(4)
    assert (pool.limited_for_s(), chosen(pool, 2)) == (0.0, ["b", "b"])


@pytest.mark.parametrize("seconds", [0, -1, math.nan, -math.inf])
def test_a_wait_of_zero_or_less_or_nan_changes_nothing(clock, seconds):
    pool = pool_of(clock)
    a = pool.choose()
    a.limited(seconds)
    assert (pool.limited_for_s(), pool.has_cooldowns) == (0, False)
    a.limited(9)
    a.limited(seconds)
    assert pool.limited_for_s() == 9


def test_a_limit_is_no_longer_than_the_configured_cooldown(clock):
    pool = pool_of(clock)
    pool.choose().limited(math.inf)
    assert pool.limited_for_s() == 3600
    pool = CredentialPool(clock=clock, health=HealthConfig(max_cooldown_s=20))
    pool.choose().limited(21)
    assert pool.limited_for_s() == 20


def test_a_reload_changes_the_longest_cooldown(clock):
    pool = pool_of(clock, key("a", account="x"), key("b"))
    a, b = pool.choose(), pool.choose()
    pool.use_health(HealthConfig(max_cooldown_s=20, ejection_s=1))
    pool.replace([key("a", account="x"), key("b"), key("c")])
    for credential in (a, b, pool.choose(), pool.choose(), pool.choose()):
        credential.limited(100)
    assert pool.limited_for_s() == 20
    clock.advance(2)
    assert pool.limited_for_s() == 0


def test_a_single_request_is_sent_during_a_long_limit(clock):
    """It is sent after a tenth of the limit; if it succeeds, the limit is over."""
    pool = pool_of(clock, *of_keys("a"))
    pool.choose().limited(600)
    clock.advance(59)
    with pytest.raises(UpstreamRateLimited):
        pool.choose()
    clock.advance(1)
    assert pool.limited_for_s() == 0
    with pytest.raises(UpstreamRateLimited):
        pool.choose(may_try=False)  # as for a list of models
    trial = pool.choose("m")
    for _ in range(3):
        with pytest.raises(UpstreamRateLimited) as caught:
            pool.choose()
    assert caught.value.retry_after_s == pool.limited_for_s() == 540
    assert (trial.name, trial.has_other("m")) == ("api_key 0", False)
    trial.worked("m")
    trial.done()
    assert chosen(pool, 2) == ["a", "a"]


@pytest.mark.parametrize(("outcome", "wait_s"), [(lambda trial: trial.limited(30), 30), (lambda _: None, 540)])
def test_a_trial_that_is_limited_renews_the_limit(clock, outcome, wait_s):
    pool = pool_of(clock, *of_keys("a"))
    pool.choose().limited(600)
    clock.advance(60)
    trial = pool.choose()
    outcome(trial)
    trial.done()
    with pytest.raises(UpstreamRateLimited):
        pool.choose()
    assert pool.limited_for_s() == wait_s


def test_a_request_that_was_sent_before_a_limit_does_not_end_it(clock):
    pool = pool_of(clock, *of_keys("a"))
    a = pool.choose()
    a.limited(600)
    a.worked()
    a.done()
    assert pool.limited_for_s() == 600


def test_a_refused_trial_counts_as_a_refusal(clock):
    pool = pool_of(clock, *of_keys("ab"))
    a = pool.choose()
    a.limited(600)
    clock.advance(60)
    assert chosen(pool, 1) == ["b"]
    trial = pool.choose()
    assert (trial.spec.secret, trial.has_other()) == ("a", True)
    trial.refused(401)
    trial.done()
    assert a.refused_until_s("") == clock.monotonic_s() + 30


def test_a_limited_credential_gets_its_trial_in_turn_with_others(clock):
    pool = pool_of(clock, *of_keys("ab"))
    pool.choose().limited(600)
    clock.advance(60)
    assert Counter(chosen(pool, 9)) == {"a": 1, "b": 8}


def test_a_host_without_keys_can_be_limited_too(clock):
    pool = pool_of(clock)
    pool.choose().limited(3)
    assert pool.limited_for_s() == 3


def test_a_limit_applies_to_all_keys_of_an_account(clock):
    pool = pool_of(clock, key("a", account="x"), key("b", account="x"), key("c", account="y"), key("d"))
    a = pool.choose()
    a.limited(5)
    assert set(chosen(pool, 8)) == {"c", "d"}
    clock.advance(5)
    assert set(chosen(pool, 8)) == {"a", "b", "c", "d"}


def test_an_account_has_one_trial_at_a_time(clock):
    pool = pool_of(clock, key("a", account="x"), key("b", account="x"))
    pool.choose().limited(600)
    clock.advance(60)
    trial = pool.choose()
    with pytest.raises(UpstreamRateLimited):
        pool.choose()
    trial.worked()
    assert set(chosen(pool, 4)) == {"a", "b"}


def test_turns_start_again_after_a_rotation(clock):
    pool = pool_of(clock, *of_keys("ab"))
    assert chosen(pool, 1) == ["a"]
    pool.replace(of_keys("ab"))
    assert chosen(pool, 3) == ["a", "b", "a"]


def test_keys_without_an_account_are_limited_separately(clock):
    pool = pool_of(clock, *of_keys("ab"), key("c"))
    pool.choose().limited(5)
    assert set(chosen(pool, 8)) == {"b", "c"}


def test_a_credential_that_stays_in_a_rotation_keeps_its_cooldown(clock):
    pool = pool_of(clock, key("a"), key("b"))
    a, b = pool.choose(), pool.choose()
    a.limited(9)
    pool.replace([key("c"), key("a"), key("a", weight=2)])
    assert sorted(set(chosen(pool, 6))) == ["a", "c"]
    kept = [credential for credential in pool._all if credential is a]
    assert (len(kept), pool.has_other(b)) == (1, True)
    b.refused(401)  # the answer to a request that was sent before
    b.limited(9)
    assert sorted(set(chosen(pool, 6))) == ["a", "c"]


def test_a_replaced_key_still_limits_its_account(clock):
    pool = pool_of(clock, key("a", account="x"))
    a = pool.choose()
    pool.replace([key("b", account="x")])
    a.limited(7)
    assert pool.limited_for_s() == 7


def test_the_names_of_credentials_are_not_secret(clock):
    pool = pool_of(clock, *of_keys(["k"]), key("b"), oauth("c"))
    assert [credential.name for credential in pool._all] == ["api_key 0", "api_key 1", "oauth2 2"]
    assert pool_of(clock).choose().name == "no key 0"


# --- tokens -------------------------------------------------------------------------------------------------------


async def auth_headers(pool: CredentialPool, model: str = "") -> str:
    credential = pool.choose(model)
    headers = credential.auth_headers.ready()
    if headers is None:
        _, headers = await pool.fetch(credential, model)
    return headers["authorization"]


async def test_a_credential_that_stays_in_a_rotation_keeps_its_token(clock):
    client = ScriptedClient(3600)
    pool = pool_of(clock, oauth("a"), client=client)
    assert await auth_headers(pool) == "Bearer token-1"
    pool.replace([oauth("a"), oauth("b")])
    assert {await auth_headers(pool), await auth_headers(pool)} == {"Bearer token-1", "Bearer token-2"}
    pool.replace([CredentialSpec(oauth("a").config, "another-secret")])  # the same reference, whose secret has changed
    assert await auth_headers(pool) == "Bearer token-3"
    await pool.close()
    assert client.is_closed


async def test_secrets_are_the_current_and_the_replaced_ones_longest_first(clock):
    client = ScriptedClient(100)
    pool = pool_of(clock, oauth("a"), *of_keys(["key"]), client=client)
    assert pool.secrets == ["secret-of-a", "key"]
    await auth_headers(pool)
    clock.advance(100)
    await auth_headers(pool)  # the key
    await auth_headers(pool)
    assert sorted(pool.secrets) == ["key", "secret-of-a", "token-1", "token-2"]
    pool.replace([])
    assert sorted(pool.secrets) == ["key", "secret-of-a", "token-1", "token-2"]
    assert [len(secret) for secret in pool.secrets] == sorted((len(secret) for secret in pool.secrets), reverse=True)
    assert not any(secret in repr(oauth("a")) for secret in pool.secrets)


async def test_if_a_token_cannot_be_fetched_another_credential_is_used(clock):
    client = ScriptedClient(UpstreamUnreachable("down"))
    pool = pool_of(clock, oauth("a"), *of_keys(["key"]), client=client)
    assert [await auth_headers(pool) for _ in range(4)] == ["Bearer key"] * 4
    assert len(client.requested_urls) == 1
    clock.advance(30)
    client.outcomes = [3600]
    assert {await auth_headers(pool), await auth_headers(pool)} == {"Bearer key", "Bearer token-2"}


async def test_if_no_credentials_token_can_be_fetched_the_failure_is_raised(clock):
    client = ScriptedClient(UpstreamFailed("first"), UpstreamUnreachable("second"))
    pool = pool_of(clock, oauth("a"), oauth("b"), client=client)
    with pytest.raises(UpstreamUnreachable, match="second"):
        await auth_headers(pool)
    assert client.requested_urls == ["https://a/token", "https://b/token"]


# --- against a model ----------------------------------------------------------------------------------------------

MODELS = st.sampled_from(["", "m", "n"])
SECONDS = st.sampled_from([0.5, 1.0, 29.0, 30.0, 60.0, 601.0])
WHICH = st.integers(0, 3)
NAMES = "abcd"
ACCOUNTS = {"a": "x", "b": "x", "c": None, "d": None}


@dataclass
class ExpectedRefusals:
    times: int = 0
    until_s: float = 0.0

    def extend(self, now_s: float) -> None:
        if now_s >= self.until_s:
            self.times += 1
            self.until_s = now_s + min(600.0, 30.0 * self.times)


@dataclass
class Expected:
    cooldown: Cooldown
    all_models: ExpectedRefusals = field(default_factory=ExpectedRefusals)
    models: dict[str, ExpectedRefusals] = field(default_factory=dict)

    def refused_s(self, model: str) -> float:
        return max(self.all_models.until_s, self.models.get(model, ExpectedRefusals()).until_s)


class PoolMachine(RuleBasedStateMachine):
    """After any sequence of events, the credential chosen is one that the rules allow."""

    @initialize(names=st.sets(st.sampled_from(NAMES), max_size=4))
    def build(self, names):
        self.clock = FakeClock()
        self.pool = CredentialPool(clock=self.clock)
        self.accounts = {"x": Cooldown(max_s=3600, trial_s=5)}
        self.expected = {"": self.new("")}
        self.replace(names)

    def new(self, name):
        return Expected(self.accounts.get(ACCOUNTS.get(name)) or Cooldown(max_s=3600, trial_s=5))

    @property
    def now_s(self) -> float:
        return self.clock.monotonic_s()

    @rule(names=st.sets(st.sampled_from(NAMES), max_size=4))
    def replace(self, names):
        self.pool.replace([key(name, account=ACCOUNTS[name]) for name in sorted(names)])
        self.expected = {name: self.expected.get(name) or self.new(name) for name in sorted(names) or [""]}
        self.held = {credential.spec.secret: credential for credential in self.pool._all}

    def pick(self, which: int) -> str:
        return list(self.expected)[which % len(self.expected)]

    @rule(seconds=SECONDS)
    def advance(self, seconds):
        self.clock.advance(seconds)

    @rule(which=WHICH, status=st.sampled_from([401, 402, 403]), model=MODELS)
    def refused(self, which, status, model):
        name = self.pick(which)
        self.held[name].refused(status, model)
        expected = self.expected[name]
        is_for_all_models = status != 403 or not model
        (expected.all_models if is_for_all_models else expected.models.setdefault(model, ExpectedRefusals())).extend(
            self.now_s
        )

    @rule(which=WHICH, seconds=SECONDS)
    def limited(self, which, seconds):
        name = self.pick(which)
        self.held[name].limited(seconds)
        self.expected[name].cooldown.extend(seconds, self.now_s)

    @rule(which=WHICH, model=MODELS)
    def worked(self, which, model):
        name = self.pick(which)
        self.held[name].worked(model)
        self.expected[name].all_models = ExpectedRefusals()
        self.expected[name].models.pop(model, None)

    @rule(model=MODELS, works=st.booleans())
    def choose(self, model, works):
        now_s = self.now_s
        unlimited = {name: each for name, each in self.expected.items() if each.cooldown.may_enter(now_s)}
        usable = {name for name, each in unlimited.items() if each.refused_s(model) <= now_s}
        free = {name for name in usable if self.expected[name].cooldown.is_over(now_s)}
        if not unlimited:
            with pytest.raises(UpstreamRateLimited) as caught:
                self.pool.choose(model)
            assert caught.value.retry_after_s == self.pool.limited_for_s() > 0
            return
        choice = self.pool.choose(model)
        assert self.pool.has_other(choice, model) == bool(free - {choice.spec.secret})
        self.end(choice, self.expected[choice.spec.secret], works=works)
        if usable:
            assert choice.spec.secret in usable
        else:
            first_s = min(each.refused_s(model) for each in unlimited.values())
            assert unlimited[choice.spec.secret].refused_s(model) == first_s

    def end(self, choice, expected, *, works):
        number = expected.cooldown.enter(self.now_s)
        assert isinstance(choice, Trial) if number else choice is self.held[choice.spec.secret]
        if number and works:
            choice.limited(0.5)
            expected.cooldown.extend(0.5, self.now_s, number)
        choice.done()
        expected.cooldown.ended(number, self.now_s)

    @invariant()
    def says_when_one_can_be_used(self):
        assert self.pool.limited_for_s() == min(
            each.cooldown.remaining_s(self.now_s) for each in self.expected.values()
        )


PoolMachine.TestCase.settings = settings(max_examples=80, stateful_step_count=30)
TestPool = PoolMachine.TestCase
