"""The other budgets of DESIGN 9: time to first token, switching, held streams, memory, the start."""

import asyncio
import statistics
import time
from collections.abc import Sequence

import uvloop
from callers import Heard, crowd, hear, latencies_s
from processes import cpu_s, resident_mb
from subjects import KEY, RefusalCooldown, Subject, body, tidegate

_CALLERS = 100
_SHORT_TEXTS = 16
_SHORT_STREAM_S = 0.34
_SWITCHES = 300
_STARTS = 5
_STALL_S = 1.0
_CHUNKS_PER_S = 50


def first_token_ms(bench: RefusalCooldown, *, seconds: float) -> dict[str, tuple[float, float]]:
    """Milliseconds to the first chunk at 100 callers of paced streams, p50 and p99, by whom was asked."""
    found = {}
    for subject in (bench.mock, *bench.subjects):
        heard = crowd(
            subject.port,
            body("paced", texts=_SHORT_TEXTS),
            KEY,
            callers=_CALLERS,
            streams=max(2, round(seconds / _SHORT_STREAM_S)),
            spread_s=_SHORT_STREAM_S,
        )
        _want_all(heard)
        found[subject.name] = (_percentile(heard.first_s, 50) * 1000, _percentile(heard.first_s, 99) * 1000)
    return found


def switch_ms(subject: Subject) -> tuple[float, float]:
    """Milliseconds that a first target which refuses the connection adds to a usual answer: p50 and p99."""
    alone, second = latencies_s(subject.port, [body("json"), body("failover")], KEY, _SWITCHES)
    usual_s = statistics.median(alone)
    return (_percentile(second, 50) - usual_s) * 1000, (_percentile(second, 99) - usual_s) * 1000


def start_s(bench: RefusalCooldown) -> float:
    """Seconds from the start of `tidegate serve` to its first chat answer, the best of 5."""
    taken = []
    for _ in range(_STARTS):
        begun_s = time.perf_counter()
        with tidegate(bench.directory, bench.mock.port):
            taken.append(time.perf_counter() - begun_s)
    return min(taken)


def idle_mb(bench: RefusalCooldown) -> float:
    """Resident MB of a Tidegate that has given one answer."""
    with tidegate(bench.directory, bench.mock.port) as subject:
        return resident_mb(subject.pid)


def hold(subject: Subject, count: int, *, seconds: float) -> dict[str, float]:
    """Hold `count` streams at 50 chunks a second for `seconds`, all of them at once.

    Returns: streams with a silence over one second, the worst silence in ms, the share of one core that the subject
    took, its resident MB in the middle.
    """
    return uvloop.run(_hold(subject, count, seconds))


async def _hold(subject: Subject, count: int, seconds: float) -> dict[str, float]:
    asked = body("paced", texts=round(seconds * _CHUNKS_PER_S))
    spread_s = count / 1000
    hearing = asyncio.create_task(hear(subject.port, asked, KEY, callers=count, streams=1, spread_s=spread_s))
    await asyncio.sleep(spread_s + 0.5)
    begun_s, begun_cpu_s = time.perf_counter(), cpu_s(subject.pid)
    await asyncio.sleep(max(0.5, seconds - spread_s - 1))
    used_s, wall_s, resident = cpu_s(subject.pid) - begun_cpu_s, time.perf_counter() - begun_s, resident_mb(subject.pid)
    heard = await hearing
    return {
        "streams": count,
        "stalled": sum(gap_s > _STALL_S for gap_s in heard.gaps_s) + heard.failures,
        "worst_ms": max(heard.gaps_s, default=0.0) * 1000,
        "core": used_s / wall_s,
        "resident_mb": resident,
    }


def _want_all(heard: Heard) -> None:
    if heard.failures:
        raise RuntimeError(f"{heard.failures} answers were missing or not whole")


def _percentile(values: Sequence[float], percent: int) -> float:
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, len(ranked) * percent // 100)]
