"""The policies against modelled targets: a seeded simulation with its own clock; hundreds of thousands of requests.

By itself: `uv run python tests/benchmarks/simulation.py [--requests N] [--seed N]`; N requests for each row.

Policies, `Latency`, `Pressure` and `Health` are the real ones; what the board, the planner and failover do around them
is written here in a few lines. What is modelled, and how the tables read: README.md.
"""

import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).parents[2]))

from tidegate.config.models import BalanceConfig, ModelConfig, TargetConfig
from tidegate.config.routing import HealthConfig
from tidegate.routing.candidate import Candidate, Placed, Policy
from tidegate.routing.health import Health, available
from tidegate.routing.latency import Latency
from tidegate.routing.policies import registry
from tidegate.routing.pressure import LoadReport, Pressure
from tidegate.routing.targets import Target

from tests.benchmarks.modelled import Job, Modelled, Wish, World, arrivals, bursts, flaps

FIRST_TOKEN_S = 10.0  # then a try has failed
TRIES = 4
SCRAPE_EVERY_S = 5.0


class Place:
    """What is known of one target, and the model of it."""

    def __init__(self, world: World, server: Modelled) -> None:
        self.server = server
        self.latency = Latency(world)
        self.pressure = Pressure(world)
        self.health = Health(world, HealthConfig())
        self.told: LoadReport | None = None
        self.in_flight = 0

    def candidate(self, wish: Wish, overflow_s: float) -> Candidate:
        server, is_local = self.server, self.server.target.is_local
        predict = self.pressure.predict_s if is_local else None
        ttft_s = predict(wish.prompt_tokens, self.told) if predict else self.latency.ttft_s(wish.prompt_tokens)
        return Candidate(
            target=server.target,
            in_flight=self.in_flight,
            ttft_s=ttft_s,
            per_token_s=self.latency.per_token_s,
            failure_rate=self.latency.failure_rate,
            price_usd=server.price_usd(wish.prompt_tokens, wish.answer_tokens),
            quality=server.quality,
            share=self.health.share,
            is_pressed=is_local and ttft_s > overflow_s,
        )


class Simulation:
    """One row: a world of servers, one policy, so many requests; owner of what is counted."""

    def __init__(
        self,
        servers: Callable[[World], Sequence[Modelled]],
        policy: Policy,
        *,
        seed: int,
        overflow_s: float = float("inf"),
        has_breaker: bool = True,
    ) -> None:
        self.world = World()
        self.places = [Place(self.world, server) for server in servers(self.world)]
        self.ttfts: list[float] = []
        self.asked = self.errors = self.online = 0
        self.cost_usd = 0.0
        self._by_name = {place.server.target.name: place for place in self.places}
        self._policy = policy
        self._rng = rng(seed)
        self._overflow_s = overflow_s
        self._has_breaker = has_breaker
        self._open = True

    def run(self, requests: Iterator[tuple[float, Wish]]) -> "Simulation":
        self._next(requests)
        self.world.after(1.0, self._tick)
        self.world.run()
        return self

    def percentile_s(self, percent: float) -> float:
        return sorted(self.ttfts)[int(len(self.ttfts) * percent / 100)]

    def _next(self, requests: Iterator[tuple[float, Wish]]) -> None:
        told = next(requests, None)
        if told is None:
            self._open = False
        else:
            self.world.after(told[0] - self.world.monotonic_s(), self._arrive, requests, told[1])

    def _arrive(self, requests: Iterator[tuple[float, Wish]], wish: Wish) -> None:
        self.asked += 1
        candidates = [place.candidate(wish, self._overflow_s) for place in self._allowed()]
        placed = self._policy.place(candidates, wish, self._rng)
        Trip(self, wish, [self._by_name[one.candidate.target.name] for one in placed]).go_on()
        self._next(requests)

    def _allowed(self) -> Sequence[Place]:
        if not self._has_breaker:
            return self.places
        may_take = available([place.health for place in self.places], 0.5).may_take
        return [place for place, may in zip(self.places, may_take, strict=True) if may]

    def _tick(self) -> None:
        now_s = self.world.monotonic_s()
        for place in self.places:
            server = place.server
            if place.health.needs_probe():
                place.health.probed(ok=server.generates())
            if server.target.is_local and now_s % SCRAPE_EVERY_S < 1:
                running, waiting = server.busy, len(server.queue)
                place.told = LoadReport(running=running, waiting=waiting, at_s=now_s, our_in_flight=place.in_flight)
        if self._open:
            self.world.after(1.0, self._tick)


class Trip:
    """One request on its way through its targets, until the first token or the last try."""

    def __init__(self, simulation: Simulation, wish: Wish, places: Sequence[Place]) -> None:
        self._simulation = simulation
        self._world = simulation.world
        self._wish = wish
        self._places = iter(places)
        self._tries = 0
        self._arrived_s = self._sent_s = self._began_s = simulation.world.monotonic_s()

    def go_on(self) -> None:
        for place in self._places:
            turn = place.health.enter(in_panic=True)
            if self._tries < TRIES and turn is not None:
                self._try(place, turn)
                return
        self._simulation.errors += 1

    def _try(self, place: Place, turn: int) -> None:
        self._tries += 1
        self._sent_s = self._world.monotonic_s()
        place.in_flight += 1
        place.pressure.sent(self._wish.prompt_tokens)
        job = Job(
            self._wish.prompt_tokens,
            self._wish.answer_tokens,
            began=lambda: self._begin(place, turn),
            ended=lambda: self._end(place),
            failed=lambda: self._fail(place, turn),
        )
        place.server.send(job)
        self._world.after(FIRST_TOKEN_S, self._time_out, place, turn, job, self._tries)

    def _begin(self, place: Place, turn: int) -> None:
        self._began_s = self._world.monotonic_s()
        place.latency.began(self._wish.prompt_tokens, self._began_s - self._sent_s)
        place.pressure.began(self._wish.prompt_tokens)
        place.health.succeeded(turn)
        self._simulation.ttfts.append(self._began_s - self._arrived_s)
        self._simulation.online += not place.server.target.is_local
        self._simulation.cost_usd += place.server.price_usd(self._wish.prompt_tokens, self._wish.answer_tokens)

    def _end(self, place: Place) -> None:
        place.in_flight -= 1
        place.latency.ended(self._wish.answer_tokens, self._world.monotonic_s() - self._began_s)

    def _fail(self, place: Place, turn: int) -> None:
        place.in_flight -= 1
        place.pressure.left(self._wish.prompt_tokens)
        place.latency.failed(self._world.monotonic_s() - self._sent_s)
        place.health.failed(turn)
        self.go_on()

    def _time_out(self, place: Place, turn: int, job: Job, number: int) -> None:
        if number == self._tries and not job.has_begun and not job.is_left:
            place.server.leave(job)
            self._fail(place, turn)


class RoundRobin:
    """What most balancers do when nothing else is said."""

    def __init__(self) -> None:
        self._turn = count()

    def place(self, candidates, ask, rng):
        first = next(self._turn) % len(candidates)
        return [Placed(candidate) for candidate in [*candidates[first:], *candidates[:first]]]


class Split:
    """A fixed share of the requests to our own engine, the rest elsewhere."""

    def __init__(self, local: float) -> None:
        self._local = local

    def place(self, candidates, ask, rng):
        local_first = rng.random() < self._local
        ordered = sorted(candidates, key=lambda candidate: candidate.target.is_local != local_first)
        return [Placed(candidate) for candidate in ordered]


class Spill:
    """Elsewhere when our own engine has so many in flight."""

    def __init__(self, most: int) -> None:
        self._most = most

    def place(self, candidates, ask, rng):
        def is_full(candidate):
            return candidate.target.is_local and candidate.in_flight >= self._most

        ordered = sorted(candidates, key=lambda candidate: (is_full(candidate), not candidate.target.is_local))
        return [Placed(candidate) for candidate in ordered]


def hosts(world: World) -> list[Modelled]:
    """Six hosts elsewhere; each of the first four could take the whole load or nearly so."""

    def host(name, slots, base_s, per_token_s, price, quality, weight, **mood):
        target = Target(name, "model", weight=weight)
        prices = {"usd_per_m_in": price, "usd_per_m_out": 4 * price}
        return Modelled(world, target, slots, base_s, 20_000, per_token_s, quality=quality, **prices, **mood)

    return [
        host("fast", 24, 0.25, 0.010, 0.60, 0.6, 10),
        host("medium", 48, 0.60, 0.020, 0.30, 0.7, 10),
        host("slow", 128, 2.00, 0.040, 0.15, 0.9, 10),
        host("flapping", 48, 0.40, 0.015, 0.20, 0.8, 10, mood=flaps(40, 20)),
        host("dead", 48, 0.40, 0.015, 0.10, 0.8, 10, mood=lambda _: "refuses"),
        host("hanging", 48, 0.40, 0.015, 0.10, 0.8, 10, mood=lambda _: "hangs"),
    ]


def running_app(world: World) -> list[Modelled]:
    """An engine of ours on one GPU, and one host elsewhere with all the room in the world."""
    return [
        Modelled(world, Target("engine", "model", is_local=True), 48, 0.02, 6_000, 0.02, reads_in_turn=True),
        Modelled(world, Target("host", "model"), 10_000, 0.6, 20_000, 0.015, 0.30, 1.20),
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
        yield f"| {name} | {times(row)} | {row.errors / row.asked:.2%} | {row.cost_usd / row.asked * 1000:.3f} |"


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
        row = Simulation(running_app, chosen, seed=seed, overflow_s=overflow_s)
        row.run(arrivals(rng(seed), requests, rate))
        yield f"| {name} | {times(row)} | {row.online / row.asked:.1%} | {row.cost_usd / row.asked * 1000:.3f} |"


def rng(seed: int) -> Random:
    return Random(seed)


def times(row: Simulation) -> str:
    return f"{row.percentile_s(50):.2f} | {row.percentile_s(99):.2f}"


def main() -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=30_000, help="for each row")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    began_s = time.perf_counter()
    for table in (policies_table, overflow_table):
        for line in table(asked.requests, asked.seed):
            print(line, flush=True)
        print()
    print(f"{time.perf_counter() - began_s:.0f} s")


if __name__ == "__main__":
    main()
