"""Which targets may take a request, in which order; who may not, and why."""

import asyncio
from random import Random
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs
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

from tests.fakes.candidates import routing_request
from tests.fakes.clock import FakeClock

HEALTH = HealthConfig(failures=1, probe=False)


def priced(usd):
    return Card(price=Price(input_usd_per_mtok=usd, output_usd_per_mtok=usd))


class World:
    """A planner over targets of which anything may be so."""

    def __init__(self, *targets, offline=False, max_ejected=0.5, **model):
        self.clock = FakeClock()
        self.targets = targets
        self.looks = {}
        self.limited = {}
        self.refused = {}
        self.there = {}
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

    def look(self, target):
        return structs.replace(
            self.looks.get(target.upstream, EngineSnapshot()),
            limited_for_s=self.limited.get(target.upstream, 0.0),
            refused_for_s=self.refused.get(target.upstream, 0.0),
        )

    def in_flight(self, target):
        return self.there.get(target.upstream, 0)

    def fail(self, target):
        self.target_registry.begin(target, routing_request()).end(UpstreamFailed("no"))

    def consider(self, reach="any", **asked):
        wanted = routing_request(**asked)
        wanted.reach = reach
        return asyncio.run(self.planner.consider(wanted))

    def order(self, reach="any", **asked):
        return "".join(target.upstream for target in self.consider(reach, **asked).targets)

    def refusal(self, reach="any", **asked):
        wanted = routing_request(**asked)
        wanted.reach = reach
        with pytest.raises(ProxyError) as caught:
            asyncio.run(self.planner.plan(wanted))
        return caught.value


NEAR, FAR, FARTHER = Target("n", "m", is_local=True), Target("f", "m"), Target("g", "m")


def test_a_local_request_has_local_targets_alone():
    world = World(FAR, NEAR, FARTHER)
    assert world.order("local_only") == "n"
    assert [refused.target for refused in world.consider("local_only").refused] == [FAR, FARTHER]


@pytest.mark.parametrize(("reach", "order"), [("any", "fng"), ("local_first", "nfg"), ("online_first", "fgn")])
def test_the_wider_reaches_put_a_side_in_front(reach, order):
    assert World(FAR, NEAR, FARTHER).order(reach) == order


def test_offline_is_local_only_for_everybody():
    world = World(FAR, NEAR, offline=True)
    assert world.order() == "n"
    refusal = World(FAR, offline=True).refusal()
    assert (refusal.status, refusal.code) == (503, "local_model_unavailable")


def test_nobody_local_is_told_as_such():
    assert isinstance(World(FAR).refusal("local_only"), LocalModelUnavailable)


@pytest.mark.parametrize("target", [NEAR, FAR])
def test_a_target_in_cooldown_is_left_out_until_its_trial(target):
    world = World(target, FARTHER)
    error = UpstreamFailed("no", status=503, retry_after_s=60)
    error.is_told = True
    world.target_registry.begin(target, routing_request()).end(error)
    assert (world.order(), world.consider().refused[0].for_s) == ("g", 60)
    alone = World(target)
    alone.target_registry.begin(target, routing_request()).end(error)
    refusal = alone.refusal()
    assert (type(refusal), refusal.status, refusal.retry_after_s, refusal.should_retry) == (NoTarget, 503, 60, None)
    alone.clock.advance(6)
    assert alone.order() == target.upstream


def test_a_target_over_the_price_ceiling_is_left_out():
    dear, cheap = Target("d", "m", priced(1000)), Target("c", "m", priced(1))
    assert World(dear, cheap, max_price_usd=0.01).order() == "c"
    refusal = World(dear, max_price_usd=0.01).refusal()
    assert isinstance(refusal, NoTarget)
    assert "max_price_usd" in refusal.message


def test_a_request_at_the_price_ceiling_is_not_over_it():
    """3 and 15 dollars a million: 276 tokens cost 0.0039, and a little more where each price is divided first."""
    card = Card(price=Price(input_usd_per_mtok=3, output_usd_per_mtok=15))
    world = World(Target("f", "m", card), max_price_usd=0.0039)
    wanted = routing_request(answer_tokens=256)
    wanted.prompt_tokens = 20
    assert asyncio.run(world.planner.plan(wanted)).placed


# Each: the targets, the model and the reach; whether the SDK is told not to try again, and the pause it is told.
@pytest.mark.parametrize(
    ("targets", "model", "reach", "told"),
    [
        ([FAR], {}, "local_only", (False, None)),
        ([Target("d", "m", priced(1000))], {"max_price_usd": 0.01}, "any", (False, None)),
        ([FAR], {"offline": True}, "any", (False, None)),
    ],
    ids=["it may not leave", "it is too dear", "nothing ever leaves"],
)
def test_what_will_never_work_is_not_to_be_tried_again(targets, model, reach, told):
    refusal = World(*targets, **model).refusal(reach)
    assert (refusal.should_retry, refusal.retry_after_s) == told


def test_what_passes_is_told_when():
    world = World(FAR, max_ejected=1.0)
    world.fail(FAR)
    refusal = world.refusal()
    assert isinstance(refusal, NoTarget)
    assert (refusal.should_retry, refusal.retry_after_s) == (None, 5.0)
    assert refusal.message == "No target may take this request now: it has failed too often."


def test_a_local_request_whose_engine_is_out_is_told_so():
    world = World(NEAR, FAR, max_ejected=1.0)
    world.fail(NEAR)
    refusal = world.refusal("local_only")
    assert isinstance(refusal, LocalModelUnavailable)
    assert (refusal.should_retry, refusal.retry_after_s) == (None, 5.0)
    assert "it has failed too often" in refusal.message


def test_a_line_that_is_down_by_itself_comes_back():
    world = World(FAR)
    for _ in range(3):
        world.offline.unreachable("f")
    refusal = world.refusal()
    assert isinstance(refusal, LocalModelUnavailable)
    assert (refusal.should_retry, refusal.retry_after_s) == (None, 5.0)


@pytest.mark.parametrize(
    ("targets", "pressed", "favoured"),
    [
        ([NEAR, FAR], "", 1),
        ([NEAR, FAR], "n", 0),
        ([NEAR, Target("o", "m", is_local=True)], "o", 1),
        ([NEAR], "", 0),
        ([FAR, FARTHER], "", 0),
    ],
    ids=["room", "pressed", "another one pressed", "nobody behind it", "none of ours"],
)
def test_engines_with_room_in_front_of_others_are_favoured(targets, pressed, favoured):
    world = World(*targets, policy="local_first")
    if pressed:
        world.looks[pressed] = EngineSnapshot(is_ready=False, state="starting")
    assert world.consider().favoured == favoured


def test_a_limit_that_was_told_is_kept():
    world = World(FAR, FARTHER)
    world.limited["f"] = 7.0
    assert world.order() == "g"
    world.limited["g"] = 3.0
    refusal = world.refusal()
    assert isinstance(refusal, UpstreamRateLimited)
    assert refusal.retry_after_s == 3.0


def test_a_host_that_refuses_our_keys_is_left_out_while_there_is_another():
    world = World(FAR, FARTHER)
    world.refused["f"] = 30.0
    assert world.order() == "g"
    world.refused["g"] = 30.0
    assert world.order() == "fg"


def test_who_failed_is_left_out_unless_too_many_have():
    world = World(FAR, FARTHER, NEAR)
    world.fail(FAR)
    assert world.order() == "gn"
    world.fail(FARTHER)
    plan = world.consider()
    assert plan.is_panic
    assert len(plan.placed) == 3


def test_the_only_target_is_never_left_out():
    world = World(FAR)
    world.fail(FAR)
    assert world.order() == "f"


def test_a_target_that_may_be_tried_again_is_no_panic():
    """In a panic everybody tries it; back from its time out, one does."""
    world = World(FAR)
    world.fail(FAR)
    assert world.consider().is_panic
    world.clock.advance(HEALTH.max_ejection_s)
    assert not world.consider().is_panic


def test_a_pressed_engine_overflows_and_takes_back():
    """By what its metrics say now; nobody tells the planner that it is over."""
    world = World(NEAR, FAR, policy="local_first", overflow_ttft_s=2.0)
    told = LoadReport(running=8, waiting=40, ttft_s=5.0, at_s=world.clock.monotonic_s(), our_in_flight=0)
    assert world.order() == "nf"
    world.looks["n"] = EngineSnapshot(is_ready=True, state="ready", told=told)
    assert world.order() == "fn"
    world.looks["n"] = EngineSnapshot(is_ready=True, state="ready")
    assert world.order() == "nf"


@pytest.mark.parametrize("limit_s", [None, 2.0], ids=["without a limit", "however little it has to do"])
@pytest.mark.parametrize("state", ["starting", "sleeping", "draining", "failed"])
def test_an_engine_that_is_not_ready_overflows(state, limit_s):
    world = World(NEAR, FAR, policy="local_first", overflow_ttft_s=limit_s)
    world.looks["n"] = EngineSnapshot(is_ready=False, state=state)
    assert world.order() == "fn"


SESSIONS = [f"session {number}" for number in range(32)]


@pytest.mark.parametrize("policy", ["ordered", "least_cost", "best_quality"])
def test_no_session_changes_an_order_that_the_operator_has_set(policy):
    world = World(FAR, FARTHER, policy=policy)
    assert {world.order(session=session) for session in SESSIONS} == {"fg"}


@pytest.mark.parametrize(("sticky", "orders"), [(True, {"fg", "gf"}), (False, {"fg"})])
def test_under_the_other_policies_a_session_stays_where_it_is(sticky, orders):
    world = World(FAR, FARTHER, policy="local_first", sticky=sticky)
    found = [world.order(session=session) for session in SESSIONS]
    assert set(found) == orders
    assert found == [world.order(session=session) for session in SESSIONS]


def test_a_price_ceiling_forbids_the_overflow():
    world = World(NEAR, Target("f", "m", priced(1000)), policy="local_first", max_price_usd=0.001)
    world.looks["n"] = EngineSnapshot(is_ready=False, state="starting")
    assert world.order() == "n"


@settings(max_examples=150)
@given(
    st.lists(st.booleans(), min_size=1, max_size=5),
    st.sampled_from(sorted(POLICIES)),
    st.sampled_from(REACHES),
    st.booleans(),
    st.data(),
)
def test_whatever_is_so_the_line_holds_and_at_most_half_are_left_out(sides, policy, reach, offline, data):
    targets = [
        Target(chr(97 + number), "m", priced(data.draw(st.sampled_from([1, 1000]))), is_local=is_local)
        for number, is_local in enumerate(sides)
    ]
    world = World(*targets, offline=offline, policy=policy, max_price_usd=data.draw(st.sampled_from([None, 0.01])))
    failed = [target for target in targets if data.draw(st.booleans())]
    for target in failed:
        world.fail(target)
    world.limited = {target.upstream: 5.0 for target in targets if data.draw(st.booleans())}
    world.looks = {
        target.upstream: EngineSnapshot(is_ready=data.draw(st.booleans()), state="x")
        for target in targets
        if target.is_local
    }
    plan = world.consider(reach)
    found = [placed.candidate.target for placed in plan.placed]
    if reach == "local_only" or offline:
        assert all(target.is_local for target in found)
    assert len(found) == len(set(map(id, found)))
    assert len(found) + len(plan.refused) == len(targets)
    assert plan.is_panic == (len(failed) > len(targets) / 2)
    if not plan.is_panic:
        assert not set(map(id, found)) & set(map(id, failed))


TOOLS = [{"type": "function", "function": {"name": "f"}}]


def test_an_engine_that_calls_no_tools_is_left_out_where_they_are_needed():
    world = World(NEAR, FAR)
    world.looks["n"] = EngineSnapshot(calls_tools=False)
    assert world.order() == "nf"
    assert world.order(tools=TOOLS) == "f"
    assert world.order(tools=TOOLS, tool_choice="none") == "nf"
    (refused,) = world.consider(tools=TOOLS).refused
    assert (refused.target, refused.why, refused.is_final) == (NEAR, "it has no tool-call parser", True)


@pytest.mark.parametrize(("targets", "reach"), [((NEAR,), "any"), ((NEAR,), "local_only"), ((NEAR, FAR), "local_only")])
def test_where_no_target_ever_calls_tools_the_request_is_at_fault(targets, reach):
    world = World(*targets)
    world.looks["n"] = EngineSnapshot(calls_tools=False)
    refusal = world.refusal(reach, tools=TOOLS)
    assert (refusal.status, refusal.code, refusal.param) == (400, "unsupported_parameter", "tools")
    assert refusal.message == "Unsupported parameter: 'tools' is not supported with the model 'm'."


def test_a_target_with_tools_that_may_come_back_makes_it_no_fault_of_the_request():
    world = World(NEAR, FAR)
    world.looks["n"] = EngineSnapshot(calls_tools=False)
    world.limited["f"] = 7.0
    assert isinstance(world.refusal(tools=TOOLS), UpstreamRateLimited)


# --- replicas -----------------------------------------------------------------------------------------------------


def replica(number, model="m", **fields):
    return Target(f"{number}", model, is_local=True, group="e", **fields)


ONE, TWO = replica(1), replica(2)
READY, UNLOADED = (
    EngineSnapshot(state="ready"),
    EngineSnapshot(is_ready=False, state="stopped", availability="unloaded"),
)


def busy(world, target, requests):
    for _ in range(requests):
        world.target_registry.begin(target, routing_request())


@pytest.mark.parametrize("policy", POLICIES)
def test_replicas_are_tried_one_after_the_other_whatever_the_policy(policy):
    world = World(FAR, ONE, FARTHER, TWO, policy=policy)
    for number in range(10):
        order = world.order(session=str(number))
        assert sorted(order) == ["1", "2", "f", "g"]
        assert "12" in order or "21" in order


def test_the_one_with_the_least_work_is_first_where_nothing_sticks():
    world = World(ONE, TWO, sticky=False)
    busy(world, ONE, 2)
    assert world.order() == "21"
    busy(world, TWO, 3)
    assert world.order() == "12"


def test_work_is_what_the_engine_has_whatever_it_was_asked_for():
    """Requests for its adapters are at other targets; a request may be several to the engine."""
    world = World(ONE, TWO, sticky=False)
    world.there["1"] = 1
    assert world.order() == "21"
    told = LoadReport(running=9, waiting=1, at_s=world.clock.monotonic_s(), our_in_flight=1)
    world.looks["2"] = structs.replace(READY, told=told)
    assert world.order() == "12"


def test_a_session_stays_at_its_replica_also_where_the_policy_has_an_order():
    world = World(ONE, TWO, FAR)
    homes = {session: world.order(session=session) for session in map(str, range(20))}
    assert set(homes.values()) == {"12f", "21f"}
    assert homes == {session: world.order(session=session) for session in homes}


def test_a_session_of_a_model_that_is_not_configured_stays_too():
    world = World(ONE, TWO)
    world.planner._models = {}
    assert {world.order(session=str(number)) for number in range(20)} == {"12", "21"}
    assert len({world.order(session="s") for _ in range(5)}) == 1


def test_the_weight_of_an_engine_is_that_of_all_its_replicas():
    world = World(ONE, TWO, FAR, policy="weighted", sticky=False)
    firsts = [world.order()[0] for _ in range(2000)]
    assert firsts.count("f") / 2000 == pytest.approx(0.5, abs=0.05)


def test_an_engine_has_room_while_one_of_its_replicas_has():
    world = World(ONE, TWO, FAR, policy="local_first")
    world.looks["1"] = EngineSnapshot(is_ready=False, state="starting", availability="loading")
    assert (world.order(), world.consider().favoured) == ("21f", 1)
    world.looks["2"] = world.looks["1"]
    assert world.order() == "f12"


def test_an_ejected_replica_is_left_out():
    world = World(ONE, TWO)
    world.fail(ONE)
    assert world.order() == "2"
    assert [refused.target for refused in world.consider().refused] == [ONE]


def test_a_replica_is_loaded_when_the_others_have_work():
    world = World(ONE, TWO, replica(3))
    world.looks |= {"2": UNLOADED, "3": UNLOADED}
    plan = world.consider()
    assert ([target.upstream for target in plan.targets], plan.loads) == (["1", "2"], ())
    assert [(refused.target.upstream, refused.why) for refused in plan.refused] == [
        ("3", "a replica that is not loaded, and need not be")
    ]
    busy(world, ONE, 1)
    assert world.consider().loads == (TWO,)
    world.targets = (FAR, *world.targets)
    assert world.consider().loads == ()
