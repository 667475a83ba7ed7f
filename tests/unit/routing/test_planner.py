"""Which targets may take a request, in which order they are tried, and why the others are excluded."""

import asyncio
from random import Random
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from tests.fakes.candidates import routing_request
from tests.fakes.clock import FakeClock
from tidegate.config.cards import Card, Price
from tidegate.config.models import ModelConfig
from tidegate.config.routing import HealthConfig, RoutingConfig
from tidegate.errors import LocalModelUnavailable, NoTarget, ProxyError, UpstreamFailed, UpstreamRateLimited
from tidegate.protocol.routing import REACHES
from tidegate.routing.offline import Offline
from tidegate.routing.planner import EngineSnapshot, Planner
from tidegate.routing.policies.registry import POLICIES
from tidegate.routing.pressure import LoadReport
from tidegate.routing.quality import Qualities
from tidegate.routing.target_registry import TargetRegistry
from tidegate.routing.targets import Target

HEALTH = HealthConfig(failures=1, probe=False)


def card_priced(usd):
    return Card(price=Price(input_usd_per_mtok=usd, output_usd_per_mtok=usd))


class Stage:
    """A planner over targets whose state the test sets."""

    def __init__(self, *targets, offline=False, max_ejected=0.5, **model):
        self.clock = FakeClock()
        self.targets = targets
        self.snapshots = {}
        self.limited = {}
        self.refused = {}
        self.in_flight_by_upstream = {}
        self.target_registry = TargetRegistry(self.clock, HEALTH)
        self.offline = Offline(self.clock, forced=offline, names=[each.upstream for each in targets])
        health = structs.replace(HEALTH, max_ejected=max_ejected)
        serving = SimpleNamespace(
            target_registry=self.target_registry,
            qualities=Qualities(self.clock),
            offline=self.offline,
            upstreams=self,
        )
        models = {"m": ModelConfig(targets=(), **model)}
        self.planner = Planner(
            self, serving, models=models, routing=RoutingConfig(health=health), clock=self.clock, rng=Random(1)
        )

    async def candidates(self, model, *, reach):
        return self.targets

    def snapshot(self, target):
        return structs.replace(
            self.snapshots.get(target.upstream, EngineSnapshot()),
            limited_for_s=self.limited.get(target.upstream, 0.0),
            refused_for_s=self.refused.get(target.upstream, 0.0),
        )

    def in_flight(self, target):
        return self.in_flight_by_upstream.get(target.upstream, 0)

    def fail(self, target):
        self.target_registry.begin(target, routing_request()).end(UpstreamFailed("no"))

    def consider(self, reach="any", **fields):
        request = routing_request(**fields)
        request.reach = reach
        return asyncio.run(self.planner.evaluate(request))

    def order(self, reach="any", **fields):
        return "".join(target.upstream for target in self.consider(reach, **fields).targets)

    def refusal(self, reach="any", **fields):
        request = routing_request(**fields)
        request.reach = reach
        with pytest.raises(ProxyError) as caught:
            asyncio.run(self.planner.plan(request))
        return caught.value


NEAR, FAR, FARTHER = Target("n", "m", is_local=True), Target("f", "m"), Target("g", "m")


def test_a_local_only_request_gets_local_targets_only():
    stage = Stage(FAR, NEAR, FARTHER)
    assert stage.order("local_only") == "n"
    assert [refused.target for refused in stage.consider("local_only").excluded] == [FAR, FARTHER]


@pytest.mark.parametrize(("reach", "order"), [("any", "fng"), ("local_first", "nfg"), ("online_first", "fgn")])
def test_the_wider_reaches_put_one_side_first(reach, order):
    assert Stage(FAR, NEAR, FARTHER).order(reach) == order


def test_offline_makes_every_request_local_only():
    stage = Stage(FAR, NEAR, offline=True)
    assert stage.order() == "n"
    refusal = Stage(FAR, offline=True).refusal()
    assert (refusal.status, refusal.code) == (503, "local_model_unavailable")


def test_a_local_only_request_without_a_local_target_gets_an_error_of_its_own():
    assert isinstance(Stage(FAR).refusal("local_only"), LocalModelUnavailable)


@pytest.mark.parametrize("target", [NEAR, FAR])
def test_a_target_in_cooldown_is_left_out_until_its_trial(target):
    stage = Stage(target, FARTHER)
    error = UpstreamFailed("no", status=503, retry_after_s=60)
    error.is_stated = True
    stage.target_registry.begin(target, routing_request()).end(error)
    assert (stage.order(), stage.consider().excluded[0].for_s) == ("g", 60)
    alone = Stage(target)
    alone.target_registry.begin(target, routing_request()).end(error)
    refusal = alone.refusal()
    assert (type(refusal), refusal.status, refusal.retry_after_s, refusal.should_retry) == (NoTarget, 503, 60, None)
    alone.clock.advance(6)
    assert alone.order() == target.upstream


def test_a_target_over_the_price_ceiling_is_left_out():
    expensive, cheap = Target("d", "m", card_priced(1000)), Target("c", "m", card_priced(1))
    assert Stage(expensive, cheap, max_price_usd=0.01).order() == "c"
    refusal = Stage(expensive, max_price_usd=0.01).refusal()
    assert isinstance(refusal, NoTarget)
    assert "max_price_usd" in refusal.message


def test_a_request_at_the_price_ceiling_is_not_over_it():
    """At 3 and 15 dollars per million 276 tokens cost 0.0039, or a little more if each price is divided first."""
    card = Card(price=Price(input_usd_per_mtok=3, output_usd_per_mtok=15))
    stage = Stage(Target("f", "m", card), max_price_usd=0.0039)
    request = routing_request(answer_tokens=256)
    request.prompt_tokens = 20
    assert asyncio.run(stage.planner.plan(request)).ranked


# Each: the targets, the model's settings, the reach; `should_retry` and `retry_after_s` of the error.
@pytest.mark.parametrize(
    ("targets", "model", "reach", "expected"),
    [
        ([FAR], {}, "local_only", (False, None)),
        ([Target("d", "m", card_priced(1000))], {"max_price_usd": 0.01}, "any", (False, None)),
        ([FAR], {"offline": True}, "any", (False, None)),
    ],
    ids=["local only", "too expensive", "offline"],
)
def test_the_error_for_a_request_that_never_works_forbids_a_retry(targets, model, reach, expected):
    refusal = Stage(*targets, **model).refusal(reach)
    assert (refusal.should_retry, refusal.retry_after_s) == expected


def test_the_error_for_a_passing_state_says_when_to_retry():
    stage = Stage(FAR, max_ejected=1.0)
    stage.fail(FAR)
    refusal = stage.refusal()
    assert isinstance(refusal, NoTarget)
    assert (refusal.should_retry, refusal.retry_after_s) == (None, 5.0)
    assert refusal.message == "No target may take this request now: it has failed too often."


def test_a_local_only_request_whose_engine_is_ejected_gets_an_error_that_says_so():
    stage = Stage(NEAR, FAR, max_ejected=1.0)
    stage.fail(NEAR)
    refusal = stage.refusal("local_only")
    assert isinstance(refusal, LocalModelUnavailable)
    assert (refusal.should_retry, refusal.retry_after_s) == (None, 5.0)
    assert "it has failed too often" in refusal.message


def test_when_offline_began_by_itself_the_error_says_when_to_retry():
    stage = Stage(FAR)
    for _ in range(3):
        stage.offline.report_unreachable("f")
    refusal = stage.refusal()
    assert isinstance(refusal, LocalModelUnavailable)
    assert (refusal.should_retry, refusal.retry_after_s) == (None, 5.0)


@pytest.mark.parametrize(
    ("targets", "pressed", "favoured_count"),
    [
        ([NEAR, FAR], "", 1),
        ([NEAR, FAR], "n", 0),
        ([NEAR, Target("o", "m", is_local=True)], "o", 1),
        ([NEAR], "", 0),
        ([FAR, FARTHER], "", 0),
    ],
    ids=["room", "pressed", "another one pressed", "no other target", "no local engine"],
)
def test_local_engines_with_room_before_other_targets_are_favoured(targets, pressed, favoured_count):
    stage = Stage(*targets, policy="local_first")
    if pressed:
        stage.snapshots[pressed] = EngineSnapshot(is_ready=False, state="starting")
    assert stage.consider().favoured_count == favoured_count


def test_a_target_with_a_used_up_rate_limit_is_left_out():
    stage = Stage(FAR, FARTHER)
    stage.limited["f"] = 7.0
    assert stage.order() == "g"
    stage.limited["g"] = 3.0
    refusal = stage.refusal()
    assert isinstance(refusal, UpstreamRateLimited)
    assert refusal.retry_after_s == 3.0


def test_a_host_that_refuses_the_credentials_is_left_out_while_there_is_another():
    stage = Stage(FAR, FARTHER)
    stage.refused["f"] = 30.0
    assert stage.order() == "g"
    stage.refused["g"] = 30.0
    assert stage.order() == "fg"


def test_a_failed_target_is_left_out_unless_too_many_have_failed():
    stage = Stage(FAR, FARTHER, NEAR)
    stage.fail(FAR)
    assert stage.order() == "gn"
    stage.fail(FARTHER)
    plan = stage.consider()
    assert plan.is_panic
    assert len(plan.ranked) == 3


def test_the_only_target_is_never_left_out():
    stage = Stage(FAR)
    stage.fail(FAR)
    assert stage.order() == "f"


def test_a_target_that_may_be_tried_again_is_no_panic():
    """In a panic every request may use an ejected target; after the ejection only the trial may."""
    stage = Stage(FAR)
    stage.fail(FAR)
    assert stage.consider().is_panic
    stage.clock.advance(HEALTH.max_ejection_s)
    assert not stage.consider().is_panic


def test_requests_overflow_from_a_pressed_engine_and_return():
    """By the engine's metrics at the moment; no event tells the planner that the pressure is over."""
    stage = Stage(NEAR, FAR, policy="local_first", overflow_ttft_s=2.0)
    load_report = LoadReport(running=8, waiting=40, ttft_s=5.0, at_s=stage.clock.monotonic_s(), tidegate_in_flight=0)
    assert stage.order() == "nf"
    stage.snapshots["n"] = EngineSnapshot(is_ready=True, state="ready", load_report=load_report)
    assert stage.order() == "fn"
    stage.snapshots["n"] = EngineSnapshot(is_ready=True, state="ready")
    assert stage.order() == "nf"


@pytest.mark.parametrize("limit_s", [None, 2.0], ids=["without a limit", "however little it has to do"])
@pytest.mark.parametrize("state", ["starting", "sleeping", "draining", "failed"])
def test_requests_overflow_from_an_engine_that_is_not_ready(state, limit_s):
    stage = Stage(NEAR, FAR, policy="local_first", overflow_ttft_s=limit_s)
    stage.snapshots["n"] = EngineSnapshot(is_ready=False, state=state)
    assert stage.order() == "fn"


SESSIONS = [f"session {number}" for number in range(32)]


@pytest.mark.parametrize("policy", ["ordered", "least_cost", "best_quality"])
def test_no_session_changes_an_order_that_the_operator_has_set(policy):
    stage = Stage(FAR, FARTHER, policy=policy)
    assert {stage.order(session=session) for session in SESSIONS} == {"fg"}


@pytest.mark.parametrize(("sticky", "orders"), [(True, {"fg", "gf"}), (False, {"fg"})])
def test_under_the_other_policies_a_session_stays_at_its_target(sticky, orders):
    stage = Stage(FAR, FARTHER, policy="local_first", sticky=sticky)
    order = [stage.order(session=session) for session in SESSIONS]
    assert set(order) == orders
    assert order == [stage.order(session=session) for session in SESSIONS]


def test_a_price_ceiling_forbids_the_overflow():
    stage = Stage(NEAR, Target("f", "m", card_priced(1000)), policy="local_first", max_price_usd=0.001)
    stage.snapshots["n"] = EngineSnapshot(is_ready=False, state="starting")
    assert stage.order() == "n"


@settings(max_examples=150)
@given(
    st.lists(st.booleans(), min_size=1, max_size=5),
    st.sampled_from(sorted(POLICIES)),
    st.sampled_from(REACHES),
    st.booleans(),
    st.data(),
)
def test_the_reach_holds_and_at_most_half_of_the_targets_are_ejected(are_local, policy, reach, offline, data):
    targets = [
        Target(chr(97 + number), "m", card_priced(data.draw(st.sampled_from([1, 1000]))), is_local=is_local)
        for number, is_local in enumerate(are_local)
    ]
    stage = Stage(*targets, offline=offline, policy=policy, max_price_usd=data.draw(st.sampled_from([None, 0.01])))
    failed = [target for target in targets if data.draw(st.booleans())]
    for target in failed:
        stage.fail(target)
    stage.limited = {target.upstream: 5.0 for target in targets if data.draw(st.booleans())}
    stage.snapshots = {
        target.upstream: EngineSnapshot(is_ready=data.draw(st.booleans()), state="x")
        for target in targets
        if target.is_local
    }
    plan = stage.consider(reach)
    order = [ranked.candidate.target for ranked in plan.ranked]
    if reach == "local_only" or offline:
        assert all(target.is_local for target in order)
    assert len(order) == len(set(map(id, order)))
    assert len(order) + len(plan.excluded) == len(targets)
    assert plan.is_panic == (len(failed) > len(targets) / 2)
    if not plan.is_panic:
        assert not set(map(id, order)) & set(map(id, failed))


TOOLS = [{"type": "function", "function": {"name": "f"}}]


def test_an_engine_without_tool_calls_is_left_out_where_they_are_needed():
    stage = Stage(NEAR, FAR)
    stage.snapshots["n"] = EngineSnapshot(parses_tool_calls=False)
    assert stage.order() == "nf"
    assert stage.order(tools=TOOLS) == "f"
    assert stage.order(tools=TOOLS, tool_choice="none") == "nf"
    (refused,) = stage.consider(tools=TOOLS).excluded
    assert (refused.target, refused.why, refused.is_final) == (NEAR, "it has no tool-call parser", True)


@pytest.mark.parametrize(("targets", "reach"), [((NEAR,), "any"), ((NEAR,), "local_only"), ((NEAR, FAR), "local_only")])
def test_where_no_target_ever_calls_tools_the_request_is_at_fault(targets, reach):
    stage = Stage(*targets)
    stage.snapshots["n"] = EngineSnapshot(parses_tool_calls=False)
    refusal = stage.refusal(reach, tools=TOOLS)
    assert (refusal.status, refusal.code, refusal.param) == (400, "unsupported_parameter", "tools")
    assert refusal.message == "Unsupported parameter: 'tools' is not supported with the model 'm'."


def test_while_a_target_with_tools_is_only_limited_the_request_is_not_at_fault():
    stage = Stage(NEAR, FAR)
    stage.snapshots["n"] = EngineSnapshot(parses_tool_calls=False)
    stage.limited["f"] = 7.0
    assert isinstance(stage.refusal(tools=TOOLS), UpstreamRateLimited)


# --- replicas -----------------------------------------------------------------------------------------------------


def replica(number, model="m", **fields):
    return Target(f"{number}", model, is_local=True, group="e", **fields)


ONE, TWO = replica(1), replica(2)
READY, UNLOADED = (
    EngineSnapshot(state="ready"),
    EngineSnapshot(is_ready=False, state="stopped", availability="unloaded"),
)


def send(stage, target, requests):
    for _ in range(requests):
        stage.target_registry.begin(target, routing_request())


@pytest.mark.parametrize("policy", POLICIES)
def test_replicas_are_tried_one_after_the_other_whatever_the_policy(policy):
    stage = Stage(FAR, ONE, FARTHER, TWO, policy=policy)
    for number in range(10):
        order = stage.order(session=str(number))
        assert sorted(order) == ["1", "2", "f", "g"]
        assert "12" in order or "21" in order


def test_without_affinity_the_replica_with_the_least_work_is_first():
    stage = Stage(ONE, TWO, sticky=False)
    send(stage, ONE, 2)
    assert stage.order() == "21"
    send(stage, TWO, 3)
    assert stage.order() == "12"


def test_the_work_of_an_engine_counts_all_its_requests():
    """Requests for its adapters are at other targets; a request may count as several at the engine."""
    stage = Stage(ONE, TWO, sticky=False)
    stage.in_flight_by_upstream["1"] = 1
    assert stage.order() == "21"
    load_report = LoadReport(running=9, waiting=1, at_s=stage.clock.monotonic_s(), tidegate_in_flight=1)
    stage.snapshots["2"] = structs.replace(READY, load_report=load_report)
    assert stage.order() == "12"


def test_a_session_stays_at_its_replica_also_where_the_policy_has_an_order():
    stage = Stage(ONE, TWO, FAR)
    order_by_session = {session: stage.order(session=session) for session in map(str, range(20))}
    assert set(order_by_session.values()) == {"12f", "21f"}
    assert order_by_session == {session: stage.order(session=session) for session in order_by_session}


def test_a_session_of_a_model_that_is_not_configured_stays_too():
    stage = Stage(ONE, TWO)
    stage.planner._models = {}
    assert {stage.order(session=str(number)) for number in range(20)} == {"12", "21"}
    assert len({stage.order(session="s") for _ in range(5)}) == 1


def test_an_engine_has_one_weight_for_all_its_replicas():
    stage = Stage(ONE, TWO, FAR, policy="weighted", sticky=False)
    firsts = [stage.order()[0] for _ in range(2000)]
    assert firsts.count("f") / 2000 == pytest.approx(0.5, abs=0.05)


def test_an_engine_has_room_while_one_of_its_replicas_has():
    stage = Stage(ONE, TWO, FAR, policy="local_first")
    stage.snapshots["1"] = EngineSnapshot(is_ready=False, state="starting", availability="loading")
    assert (stage.order(), stage.consider().favoured_count) == ("21f", 1)
    stage.snapshots["2"] = stage.snapshots["1"]
    assert stage.order() == "f12"


def test_an_ejected_replica_is_left_out():
    stage = Stage(ONE, TWO)
    stage.fail(ONE)
    assert stage.order() == "2"
    assert [refused.target for refused in stage.consider().excluded] == [ONE]


def test_a_replica_is_loaded_when_the_others_have_work():
    stage = Stage(ONE, TWO, replica(3))
    stage.snapshots |= {"2": UNLOADED, "3": UNLOADED}
    plan = stage.consider()
    assert ([target.upstream for target in plan.targets], plan.replicas_to_load) == (["1", "2"], ())
    assert [(refused.target.upstream, refused.why) for refused in plan.excluded] == [
        ("3", "a replica that is not loaded, and need not be")
    ]
    send(stage, ONE, 1)
    assert stage.consider().replicas_to_load == (TWO,)
    stage.targets = (FAR, *stage.targets)
    assert stage.consider().replicas_to_load == ()
