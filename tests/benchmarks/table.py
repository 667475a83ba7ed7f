"""Measures the main table: CPU time of each subject per request, for three kinds of answer, taking turns."""

import json
import statistics
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass

from callers import run_callers
from nginx import HERE
from processes import cpu_s
from subjects import KEY, Bench, Subject, body

KINDS = ("json", "stream", "paced")
_CALLERS = 20
_PACED_CALLERS = 200
_STREAM_S = 1.3  # 61 waits of 20 ms, and the time by which they are late


@dataclass(frozen=True)
class Sample:
    """One run: CPU microseconds per request, requests per second, number of failed requests."""

    cpu_us: float
    per_s: float
    errors: int


@dataclass(frozen=True)
class Row:
    """The medians over all rounds for one subject and one kind; `ratio` is to nginx's CPU time in the same round."""

    subject: str
    kind: str
    cpu_us: float
    ratio: float
    per_s: float
    errors: int


def measure(bench: Bench, *, seconds: float, rounds: int) -> list[Row]:
    """Measure each kind of answer `rounds` times; the subjects take turns, so that a drift affects all alike."""
    return [row for kind in KINDS for row in _rows(bench, kind, seconds, rounds)]


def saturation(bench: Bench, *, seconds: float) -> dict[str, float]:
    """Answers per second of the mock by itself, for the kinds of answer that are not paced."""
    return {kind: _sample(bench.mock, kind, seconds).per_s for kind in ("json", "stream")}


def _rows(bench: Bench, kind: str, seconds: float, rounds: int) -> list[Row]:
    names = [subject.name for subject in bench.subjects]
    samples: dict[str, list[Sample]] = {name: [] for name in names}
    for number in range(rounds):
        for subject in _rotated(bench.subjects, number):
            samples[subject.name].append(_sample(subject, kind, seconds))
    return [_row(name, kind, samples[name], samples["nginx"]) for name in names]


def _rotated(subjects: Sequence[Subject], by: int) -> list[Subject]:
    by %= len(subjects)
    return [*subjects[by:], *subjects[:by]]


def _row(name: str, kind: str, own: list[Sample], nginx: list[Sample]) -> Row:
    return Row(
        subject=name,
        kind=kind,
        cpu_us=statistics.median(sample.cpu_us for sample in own),
        ratio=statistics.median(sample.cpu_us / limit.cpu_us for sample, limit in zip(own, nginx, strict=True)),
        per_s=statistics.median(sample.per_s for sample in own),
        errors=sum(sample.errors for sample in own),
    )


def _sample(subject: Subject, kind: str, seconds: float) -> Sample:
    before_s = cpu_s(subject.pid)
    requests, wall_s, errors = _paced(subject, seconds) if kind == "paced" else _wrk(subject, kind, seconds)
    used_s = cpu_s(subject.pid) - before_s
    return Sample(used_s / max(requests, 1) * 1e6 or 0.01, requests / wall_s, errors)


def _wrk(subject: Subject, kind: str, seconds: float) -> tuple[int, float, int]:
    url = f"http://127.0.0.1:{subject.port}/v1/chat/completions"
    options = ["-t1", f"-c{_CALLERS}", f"-d{round(seconds)}s", "--timeout", "30s", "-s", str(HERE / "wrk.lua")]
    command = ["wrk", *options, url, "--", body(kind), KEY]
    output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds + 60).stdout
    summary = json.loads(output.splitlines()[-1])
    return summary["requests"], summary["wall_us"] / 1e6, summary["errors"]


def _paced(subject: Subject, seconds: float) -> tuple[int, float, int]:
    """Measure whole streams only: at its end, wrk would cut 200 streams that cost CPU but are not counted."""
    streams = max(1, round(seconds / _STREAM_S))
    begun_s = time.perf_counter()
    stats = run_callers(subject.port, body("paced"), KEY, callers=_PACED_CALLERS, streams=streams, spread_s=_STREAM_S)
    return stats.streams, time.perf_counter() - begun_s, stats.failures
