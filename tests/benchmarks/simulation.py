"""Compares the policies on simulated servers: a seeded simulation of hundreds of thousands of requests.

Run it with `uv run python tests/benchmarks/simulation.py [--requests N] [--seed N]`; N requests for each row.

The policies, `Latency`, `Pressure` and `Health` are the real ones; the work of the target registry, the planner and
failover is rewritten here in a few lines. README.md explains the model and the tables.
"""

import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.benchmarks.modelled import (
    Job,
    ModelledRequest,
    ModelledServer,
    SimulatedLoop,
    arrivals,
    bursts,
    fails_periodically,
)
from tidegate.config.models import BalanceConfig, ModelConfig, TargetConfig
from tidegate.config.routing import HealthConfig
from tidegate.routing.candidate import Candidate, Policy, RankedCandidate
from tidegate.routing.health import Health, available
from tidegate.routing.latency import Latency
from tidegate.routing.policies import registry
from tidegate.routing.pressure import LoadReport, Pressure
from tidegate.routing.targets import Target

FIRST_TOKEN_S = 10.0  # an attempt without a first token after this time has failed
TRIES = 4
SCRAPE_EVERY_S = 5.0


class TargetState:
    """The simulated server of one target, and what Tidegate would know of it."""

    def __init__(self, loop: SimulatedLoop, server: ModelledServer) -> None:
        self.server = server
        self.latency = Latency(loop)
        self.pressure = Pressure(loop)
        self.health = Health(loop, HealthConfig())
        self.load_report: LoadReport | None = None
        self.in_flight = 0

    def candidate(self, request: ModelledRequest, overflow_s: float) -> Candidate:
        server, is_local = self.server, self.server.target.is_local
        predict = self.pressure.predict_s if is_local else None
        ttft_s = (
            predict(request.prompt_tokens, self.load_report) if predict else self.latency.ttft_s(request.prompt_tokens)
        )
        return Candidate(
            target=server.target,
            in_flight=self.in_flight,
            ttft_s=ttft_s,
            per_token_s=self.latency.per_token_s,
            failure_rate=self.latency.failure_rate,
            price_usd=server.price_usd(request.prompt_tokens, request.answer_tokens),
            quality=server.quality,
            share=self.health.share,
            is_overloaded=is_local and ttft_s > overflow_s,
        )


class Simulation:
    """The simulation for one row of a table: a set of servers and one policy; owns the counts."""

    def __init__(
        self,
        servers: Callable[[SimulatedLoop], Sequence[ModelledServer]],
        policy: Policy,
        *,
        seed: int,
        overflow_s: float = float("inf"),
        has_breaker: bool = True,
    ) -> None:
        self.loop = SimulatedLoop()
        self.targets = [TargetState(self.loop, server) for server in servers(self.loop)]
        self.ttfts: list[float] = []
        self.sent = self.errors = self.online = 0
        self.cost_usd = 0.0
        self._by_name = {state.server.target.name: state for state in self.targets}
        self._policy = policy
        self._rng = rng(seed)
        self._overflow_s = overflow_s
        self._has_breaker = has_breaker
        self._has_arrivals = True

    def run(self, requests: Iterator[tuple[float, ModelledRequest]]) -> "Simulation":
        self._next(requests)
        self.loop.after(1.0, self._tick)
        self.loop.run()
        return self

    def percentile_s(self, percent: float) -> float:
        return sorted(self.ttfts)[int(len(self.ttfts) * percent / 100)]

    def _next(self, requests: Iterator[tuple[float, ModelledRequest]]) -> None:
        arrival = next(requests, None)
        if arrival is None:
            self._has_arrivals = False
        else:
            self.loop.after(arrival[0] - self.loop.monotonic_s(), self._arrive, requests, arrival[1])

    def _arrive(self, requests: Iterator[tuple[float, ModelledRequest]], request: ModelledRequest) -> None:
        self.sent += 1
        candidates = [state.candidate(request, self._overflow_s) for state in self._allowed()]
        ranked = self._policy.rank(candidates, request, self._rng)
        RequestRun(self, request, [self._by_name[each.candidate.target.name] for each in ranked]).try_next()
        self._next(requests)

    def _allowed(self) -> Sequence[TargetState]:
        if not self._has_breaker:
            return self.targets
        may_take = available([state.health for state in self.targets], 0.5).may_take
        return [state for state, may_take_one in zip(self.targets, may_take, strict=True) if may_take_one]

    def _tick(self) -> None:
        now_s = self.loop.monotonic_s()
        for state in self.targets:
            server = state.server
            if state.health.needs_probe():
                state.health.probed(ok=server.generates())
            if server.target.is_local and now_s % SCRAPE_EVERY_S < 1:
                running, waiting = server.busy, len(server.queue)
                state.load_report = LoadReport(
                    running=running, waiting=waiting, at_s=now_s, tidegate_in_flight=state.in_flight
                )
        if self._has_arrivals:
            self.loop.after(1.0, self._tick)


class RequestRun:
    """One request: tries its targets in order until the first token or the last attempt."""

    def __init__(self, simulation: Simulation, request: ModelledRequest, targets: Sequence[TargetState]) -> None:
        self._simulation = simulation
        self._loop = simulation.loop
        self._request = request
        self._targets = iter(targets)
        self._tries = 0
        self._arrived_s = self._sent_s = self._began_s = simulation.loop.monotonic_s()

    def try_next(self) -> None:
        for state in self._targets:
            health_turn = state.health.enter(in_panic=True)
            if self._tries < TRIES and health_turn is not None:
                self._try(state, health_turn)
                return
        self._simulation.errors += 1

    def _try(self, state: TargetState, health_turn: int) -> None:
        self._tries += 1
        self._sent_s = self._loop.monotonic_s()
        state.in_flight += 1
        state.pressure.sent(self._request.prompt_tokens)
        job = Job(
            self._request.prompt_tokens,
            self._request.answer_tokens,
            began=lambda: self._begin(state, health_turn),
            ended=lambda: self._end(state),
            failed=lambda: self._fail(state, health_turn),
        )
        state.server.send(job)
        self._loop.after(FIRST_TOKEN_S, self._time_out, state, health_turn, job, self._tries)

    def _begin(self, state: TargetState, health_turn: int) -> None:
        self._began_s = self._loop.monotonic_s()
        state.latency.began(self._request.prompt_tokens, self._began_s - self._sent_s)
        state.pressure.began(self._request.prompt_tokens)
        state.health.succeeded(health_turn)
        self._simulation.ttfts.append(self._began_s - self._arrived_s)
        self._simulation.online += not state.server.target.is_local
        self._simulation.cost_usd += state.server.price_usd(self._request.prompt_tokens, self._request.answer_tokens)

    def _end(self, state: TargetState) -> None:
        state.in_flight -= 1
        state.latency.ended(self._request.answer_tokens, self._loop.monotonic_s() - self._began_s)

    def _fail(self, state: TargetState, health_turn: int) -> None:
        state.in_flight -= 1
        state.pressure.ended_without_token(self._request.prompt_tokens)
        state.latency.failed(self._loop.monotonic_s() - self._sent_s)
        state.health.failed(health_turn)
        self.try_next()

    def _time_out(self, state: TargetState, health_turn: int, job: Job, number: int) -> None:
        if number == self._tries and not job.has_begun and not job.is_abandoned:
            state.server.abandon(job)
            self._fail(state, health_turn)


class RoundRobin:
    """The default of most load balancers: each request starts with the next target."""

    def __init__(self) -> None:
        self._turn = count()

    def place(self, candidates, request, rng):
        first = next(self._turn) % len(candidates)
        return [RankedCandidate(candidate) for candidate in [*candidates[first:], *candidates[:first]]]


class Split:
    """Sends a fixed share of the requests to the local engine, and the rest to the host."""

    def __init__(self, local: float) -> None:
        self._local = local

    def place(self, candidates, request, rng):
        local_first = rng.random() < self._local
        ordered = sorted(candidates, key=lambda candidate: candidate.target.is_local != local_first)
        return [RankedCandidate(candidate) for candidate in ordered]


class Spill:
    """Sends a request to the host if the local engine has at least `most` requests in flight."""

    def __init__(self, most: int) -> None:
        self._most = most

    def place(self, candidates, request, rng):
        def is_full(candidate):
            return candidate.target.is_local and candidate.in_flight >= self._most

        ordered = sorted(candidates, key=lambda candidate: (is_full(candidate), not candidate.target.is_local))
        return [RankedCandidate(candidate) for candidate in ordered]


def hosts(loop: SimulatedLoop) -> list[ModelledServer]:
    """Six hosted upstreams; each of the first four could take all or nearly all of the load."""

    def host(name, slots, base_s, per_token_s, price, quality, weight, **behaviour):
        target = Target(name, "model", weight=weight)
        prices = {"usd_per_m_in": price, "usd_per_m_out": 4 * price}
        return ModelledServer(loop, target, slots, base_s, 20_000, per_token_s, quality=quality, **prices, **behaviour)

    return [
        host("fast", 24, 0.25, 0.010, 0.60, 0.6, 10),
        host("medium", 48, 0.60, 0.020, 0.30, 0.7, 10),
        host("slow", 128, 2.00, 0.040, 0.15, 0.9, 10),
        host("flapping", 48, 0.40, 0.015, 0.20, 0.8, 10, behaviour=fails_periodically(40, 20)),
        host("dead", 48, 0.40, 0.015, 0.10, 0.8, 10, behaviour=lambda _: "refuses"),
        host("hanging", 48, 0.40, 0.015, 0.10, 0.8, 10, behaviour=lambda _: "hangs"),
    ]


def engine_and_host(loop: SimulatedLoop) -> list[ModelledServer]:
    """A local engine on one GPU, and a hosted upstream with practically unlimited capacity."""
    return [
        ModelledServer(loop, Target("engine", "model", is_local=True), 48, 0.02, 6_000, 0.02, reads_in_turn=True),
        ModelledServer(loop, Target("host", "model"), 10_000, 0.6, 20_000, 0.015, 0.30, 1.20),
    ]


def policy(name: str, **weights: float) -> Policy:
    model = ModelConfig(targets=(TargetConfig(upstream="x"),), policy=name, balance=BalanceConfig(**weights))
    return registry.make(model)


def policies_table(requests: int, seed: int) -> Iterator[str]:
    yield "| policy | p50 s | p99 s | errors | $ per 1,000 |"
    yield "| --- | --: | --: | --: | --: |"
    rows = [("round robin, no breaker", RoundRobin(), False), ("round robin", RoundRobin(), True)]
    rows += [(name, policy(name), True) for name in registry.POLICIES if name != "local_first"]
    rows.append(("balanced, latency: 3", policy("balanced", latency=3.0), True))
    for name, chosen, has_breaker in rows:
        row = Simulation(hosts, chosen, seed=seed, has_breaker=has_breaker)
        row.run(arrivals(rng(seed), requests, lambda _: 8.0))
        yield f"| {name} | {times(row)} | {row.errors / row.sent:.2%} | {row.cost_usd / row.sent * 1000:.3f} |"


def overflow_table(requests: int, seed: int) -> Iterator[str]:
    yield "| rule | p50 s | p99 s | online | $ per 1,000 |"
    yield "| --- | --: | --: | --: | --: |"
    never = float("inf")
    rows = [
        ("engine, elsewhere on failure", Split(1.0), never),
        ("split 90/10", Split(0.9), never),
        ("split 70/30", Split(0.7), never),
        ("split 50/50", Split(0.5), never),
        ("spill over 24 in flight", Spill(24), never),
        ("spill over 16 in flight", Spill(16), never),
        ("spill over 8 in flight", Spill(8), never),
        ("local_first, overflow at 3 s", policy("local_first"), 3.0),
        ("local_first, overflow at 2 s", policy("local_first"), 2.0),
        ("local_first, overflow at 1 s", policy("local_first"), 1.0),
    ]
    rate = bursts(1.5, 4.5, calm_s=120, busy_s=60)
    for name, chosen, overflow_s in rows:
        row = Simulation(engine_and_host, chosen, seed=seed, overflow_s=overflow_s)
        row.run(arrivals(rng(seed), requests, rate))
        yield f"| {name} | {times(row)} | {row.online / row.sent:.1%} | {row.cost_usd / row.sent * 1000:.3f} |"


def rng(seed: int) -> Random:
    return Random(seed)


def times(row: Simulation) -> str:
    return f"{row.percentile_s(50):.2f} | {row.percentile_s(99):.2f}"


def main() -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=30_000, help="for each row")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    began_s = time.perf_counter()
    for table in (policies_table, overflow_table):
        for line in table(options.requests, options.seed):
            print(line, flush=True)
        print()
    print(f"{time.perf_counter() - began_s:.0f} s")


if __name__ == "__main__":
    main()
