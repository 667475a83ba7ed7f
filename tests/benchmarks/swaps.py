"""Simulates two engines that do not fit on a GPU together: how often they are swapped, and how long requests wait.

    python -m tests.benchmarks.swaps

The simulation (`tests.fakes.swapping`) runs once with Tidegate's decisions, and once with an older rule (`before`). It
uses simulated time, so the results have no noise.
"""

from collections.abc import Mapping, Sequence
from random import Random
from typing import NamedTuple

from msgspec import structs

from tests.fakes.swapping import Arrival, Engine, Machine
from tidegate.config.swap import SwapConfig
from tidegate.engines.gpus.eviction import plan_eviction
from tidegate.engines.gpus.swap import Decision, EngineUse, Move, decide

LAST_S = 1800.0
SEED = 1


class Result(NamedTuple):
    """The result for one load; times in seconds."""

    swaps: int
    p50_s: float
    p99_s: float


def before(claims: Sequence[str], snapshots: Mapping[str, EngineUse], _: SwapConfig) -> Decision:
    """The old rule: an idle engine makes room at once, one with requests never; claims in order, sleepers first."""
    asleep = [name for name in claims if snapshots[name].footprint.state == "asleep"]
    for name in [*asleep, *claims[:1]]:
        footprints = [
            structs.replace(snapshot.footprint, is_busy=_is_busy(snapshot, claims)) for snapshot in snapshots.values()
        ]
        eviction = plan_eviction(name, footprints)
        if eviction.verdict == "go" and not eviction.moves:
            return Decision(load={name})
        if eviction.verdict == "go":
            return Decision(moves={other: Move(state, name) for other, state in eviction.moves.items()})
    return Decision()


def _is_busy(snapshot: EngineUse, claims: Sequence[str]) -> bool:
    is_entered = snapshot.waited_s is not None and snapshot.footprint.state == "loaded"
    return snapshot.in_flight > 0 or not snapshot.is_settled or is_entered or snapshot.footprint.name in claims


def loads() -> dict[str, list[Arrival]]:
    """Requests for the engines `a` and `b`, about one every two seconds, by the name of the load."""
    rng = Random(SEED)
    at_s = [index * 2.0 for index in range(int(LAST_S / 2))]
    return {
        "in turn, 1 s each": [Arrival(arrival_s, "ab"[index % 2], 1.0) for index, arrival_s in enumerate(at_s)],
        "in turn, 5 s each": [Arrival(arrival_s, "ab"[index % 2], 5.0) for index, arrival_s in enumerate(at_s)],
        "at random, 3 s each on average": [
            Arrival(rng.uniform(0, LAST_S), rng.choice("ab"), rng.expovariate(1 / 3)) for _ in at_s
        ],
    }


def played(arrivals: Sequence[Arrival], *, sleeps: bool, is_new: bool) -> Result:
    """Simulate the arrivals; a load takes 20 s and the end of a process 1 s, falling asleep and waking 3 s each."""
    asleep = {0: 0.05} if sleeps else None
    engines = [Engine(name, awake={0: 0.8}, asleep=asleep, load_s=20.0, wake_s=3.0) for name in "ab"]
    machine = Machine(engines, decide if is_new else before, SwapConfig())
    machine.play(arrivals, until_s=LAST_S)
    waits_s = sorted(machine.waits_s)
    return Result(machine.swaps, waits_s[len(waits_s) // 2], waits_s[int(len(waits_s) * 0.99)])


def main() -> None:
    """Print the table of the README."""
    print("| load | an engine makes room by | swaps | wait p50 | wait p99 |\n| --- | --- | --: | --: | --: |")
    for name, arrivals in loads().items():
        for sleeps in (False, True):
            old, new = (played(arrivals, sleeps=sleeps, is_new=is_new) for is_new in (False, True))
            method = "sleeping" if sleeps else "stopping"
            print(
                f"| {name} | {method} | {old.swaps} → {new.swaps} | {old.p50_s:.0f} s → {new.p50_s:.0f} s "
                f"| {old.p99_s:.0f} s → {new.p99_s:.0f} s |"
            )


if __name__ == "__main__":
    main()
