"""A pytest plugin: writes the scenarios' results for each row of the contract to a page, and prints a summary."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.fakes.scenarios import Book

_WIDTH = 118


class ContractPage:
    """Collects the tests that recorded a `scenario` property: its name, its mode, its rows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._results: dict[str, dict[str, dict[str, str]]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        scenario = dict(report.user_properties).get("scenario")
        if scenario is not None and (report.when == "call" or report.failed):
            name, mode, rows = scenario
            for row in rows:
                self._results.setdefault(row, {}).setdefault(name, {})[mode] = report.outcome

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self._results:
            return
        from tests.fakes.scenarios import ROWS, read_book  # noqa: PLC0415 - imports the app, so not in every session

        book = read_book()
        lines = [f"| {row} | {self._result(row, book)} |" for row in ROWS]
        self._path.parent.mkdir(exist_ok=True)
        page = ["# Rows of the contract's section B", "", "| row | scenarios |", "|---|---|", *lines, ""]
        self._path.write_text("\n".join(page), encoding="utf-8")
        terminalreporter.section("rows of the contract")
        for line in self._summary(book, ROWS):
            terminalreporter.write_line(line)

    def _result(self, row: str, book: "Book") -> str:
        if row in self._results:
            return "; ".join(f"{name}: {_outcomes(modes)}" for name, modes in self._results[row].items())
        if row in book.reasons:
            return f"no scenario: {book.reasons[row]}"
        return "not run" if row in book.rows else "nothing"

    def _summary(self, book: "Book", every: Sequence[str]) -> Iterator[str]:
        failed = [row for row in every if not all(map(_has_passed, self._results.get(row, {}).values()))]
        passed = len(self._results) - len(failed)
        yield f"{len(book.rows)} of {len(every)} rows have a scenario, {passed} passed; see {self._path}"
        if failed:
            yield from textwrap.wrap(f"failed: {' '.join(failed)}", _WIDTH)
        if bare := [row for row in every if row not in book.rows and row not in book.reasons]:
            yield from textwrap.wrap(f"neither scenario nor reason: {' '.join(bare)}", _WIDTH)
        rows_by_reason: dict[str, list[str]] = {}
        for row, reason in book.reasons.items():
            rows_by_reason.setdefault(reason, []).append(row)
        for reason, rows in rows_by_reason.items():
            yield textwrap.shorten(f"{' '.join(rows)}: {reason}", _WIDTH, placeholder=" …")


def _has_passed(modes: Mapping[str, str]) -> bool:
    return set(modes.values()) == {"passed"}


def _outcomes(modes: Mapping[str, str]) -> str:
    return ", ".join(f"{mode} {outcome}" for mode, outcome in modes.items())
