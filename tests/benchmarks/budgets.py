"""Measures the budgets that `table.py` does not: time to first token, failover, held streams, memory, start-up time."""

import asyncio
import statistics
import time
from collections.abc import Sequence

import uvloop
from callers import StreamStats, latencies_s, measure_streams, run_callers
from processes import cpu_s, resident_mb
from subjects import KEY, Bench, Subject, body, tidegate

_CALLERS = 100
_SHORT_TEXTS = 16
_SHORT_STREAM_S = 0.34
_SWITCHES = 300
_STARTS = 5
_STALL_S = 1.0
_CHUNKS_PER_S = 50


def first_token_ms(bench: Bench, *, seconds: float) -> dict[str, tuple[float, float]]:
    """Milliseconds to the first chunk for 100 callers of paced streams, p50 and p99, by the name of the subject."""
    latencies = {}
    for subject in (bench.mock, *bench.subjects):
        stats = run_callers(
            subject.port,
            body("paced", texts=_SHORT_TEXTS),
            KEY,
            callers=_CALLERS,
            streams=max(2, round(seconds / _SHORT_STREAM_S)),
            spread_s=_SHORT_STREAM_S,
        )
        _require_all(stats)
        latencies[subject.name] = (_percentile(stats.first_s, 50) * 1000, _percentile(stats.first_s, 99) * 1000)
    return latencies


def switch_ms(subject: Subject) -> tuple[float, float]:
    """Milliseconds that a first target which refuses connections adds to an answer: p50 and p99."""
    alone, second = latencies_s(subject.port, [body("json"), body("failover")], KEY, _SWITCHES)
    usual_s = statistics.median(alone)
    return (_percentile(second, 50) - usual_s) * 1000, (_percentile(second, 99) - usual_s) * 1000


def start_s(bench: Bench) -> float:
    """Seconds from the start of `tidegate serve` to its first chat answer: the best of 5 starts."""
    times_s = []
    for _ in range(_STARTS):
        begun_s = time.perf_counter()
        with tidegate(bench.directory, bench.mock.port):
            times_s.append(time.perf_counter() - begun_s)
    return min(times_s)


def idle_mb(bench: Bench) -> float:
    """Resident memory, in MB, of a Tidegate that has given one answer."""
    with tidegate(bench.directory, bench.mock.port) as subject:
        return resident_mb(subject.pid)


def hold(subject: Subject, count: int, *, seconds: float) -> dict[str, float]:
    """Keep `count` concurrent streams running, each at 50 chunks a second, for `seconds`.

    Returns: `stalled`, the number of streams with a gap of more than one second; `worst_ms`, the longest gap; `core`,
    the CPU time of the subject as a share of one core; `resident_mb`, its memory in the middle.
    """
    return uvloop.run(_hold(subject, count, seconds))


async def _hold(subject: Subject, count: int, seconds: float) -> dict[str, float]:
    request = body("paced", texts=round(seconds * _CHUNKS_PER_S))
    spread_s = count / 1000
    measuring = asyncio.create_task(
        measure_streams(subject.port, request, KEY, callers=count, streams=1, spread_s=spread_s)
    )
    await asyncio.sleep(spread_s + 0.5)
    begun_s, begun_cpu_s = time.perf_counter(), cpu_s(subject.pid)
    await asyncio.sleep(max(0.5, seconds - spread_s - 1))
    used_s, wall_s, resident = cpu_s(subject.pid) - begun_cpu_s, time.perf_counter() - begun_s, resident_mb(subject.pid)
    stats = await measuring
    return {
        "streams": count,
        "stalled": sum(gap_s > _STALL_S for gap_s in stats.gaps_s) + stats.failures,
        "worst_ms": max(stats.gaps_s, default=0.0) * 1000,
        "core": used_s / wall_s,
        "resident_mb": resident,
    }


def _require_all(stats: StreamStats) -> None:
    if stats.failures:
        raise RuntimeError(f"{stats.failures} answers were missing or not whole")


def _percentile(values: Sequence[float], percent: int) -> float:
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, len(ranked) * percent // 100)]
