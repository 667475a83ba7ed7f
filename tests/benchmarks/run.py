"""Measures the cost of Tidegate beside nginx and a bare relay: `uv run python tests/benchmarks/run.py`.

Prints Markdown tables. All processes run on loopback, for a bounded time, and are ended on every exit.
"""

import argparse
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import budgets
import micro
import nginx
import table
from subjects import CHUNKS, Bench, bench

_HELD = (200, 500, 1000)


def main() -> None:
    """Measure and print; exits with status 2 if nginx or wrk is missing."""
    options = _options()
    if install_hint := nginx.missing_tools():
        sys.stderr.write(install_hint)
        raise SystemExit(2)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory(prefix="tidegate-bench-") as directory, bench(Path(directory)) as running:
        for line in _report(running, options):
            print(line, flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="length of one run (default: 5)")
    parser.add_argument("--rounds", type=int, default=3, help="number of runs for each subject (default: 3)")
    parser.add_argument("--only", choices=("table", "budgets", "micro"), help="only this part")
    return parser.parse_args()


def _report(running: Bench, options: argparse.Namespace) -> Iterator[str]:
    parts = {"table": _table, "budgets": _budgets, "micro": _micro}
    for name, part in parts.items():
        if options.only in (None, name):
            yield from part(running, options)
            yield ""


def _table(running: Bench, options: argparse.Namespace) -> Iterator[str]:
    limits = table.saturation(running, seconds=options.seconds)
    yield f"The mock by itself: {limits['json']:,.0f} JSON answers/s, {limits['stream']:,.0f} streams/s."
    yield ""
    yield "| subject | answer | CPU µs/request | to nginx | requests/s | errors |"
    yield "| --- | --- | --: | --: | --: | --: |"
    rows = table.measure(running, seconds=options.seconds, rounds=options.rounds)
    for row in rows:
        yield (
            f"| {row.subject} | {row.kind} | {row.cpu_us:,.0f} | {row.ratio:.2f} | {row.per_s:,.0f} | {row.errors} |"
        )
    paced = next(row for row in rows if (row.subject, row.kind) == ("tidegate", "paced"))
    yield ""
    yield f"A paced chunk through Tidegate: {paced.cpu_us / CHUNKS:.1f} µs of CPU."


def _budgets(running: Bench, options: argparse.Namespace) -> Iterator[str]:
    yield "| budget | measured |"
    yield "| --- | --: |"
    first = budgets.first_token_ms(running, seconds=options.seconds)
    for name, (median, p99) in first.items():
        yield f"| first token, 100 callers, {name}: p50, p99 | {median:.2f}, {p99:.2f} ms |"
    added = [own - direct for own, direct in zip(first["tidegate"], first["mock"], strict=True)]
    yield f"| first token, added by Tidegate: p50, p99 | {added[0]:.2f}, {added[1]:.2f} ms |"
    median, p99 = budgets.switch_ms(running.tidegate)
    yield f"| switch after a refused connection: p50, p99 | {median:.2f}, {p99:.2f} ms |"
    yield f"| start until the first chat answer, best of 5 | {budgets.start_s(running):.2f} s |"
    yield f"| resident memory, idle | {budgets.idle_mb(running):.0f} MB |"
    yield ""
    yield "| held streams at 50 chunks/s | through | stalled over 1 s | worst silence | cores | resident |"
    yield "| --: | --- | --: | --: | --: | --: |"
    yield _held(running, _HELD[-1], options, is_direct=True)
    for count in _HELD:
        yield _held(running, count, options)


def _held(running: Bench, count: int, options: argparse.Namespace, *, is_direct: bool = False) -> str:
    subject = running.mock if is_direct else running.tidegate
    results = budgets.hold(subject, count, seconds=options.seconds + 2)
    # the mock consists of several processes, and only the id of the first is known here
    own = "not counted | not counted" if is_direct else f"{results['core']:.2f} | {results['resident_mb']:.0f} MB"
    return f"| {count} | {subject.name} | {results['stalled']:.0f} | {results['worst_ms']:.0f} ms | {own} |"


def _micro(_running: Bench, _options: argparse.Namespace) -> Iterator[str]:
    yield from micro.lines()


if __name__ == "__main__":
    main()
