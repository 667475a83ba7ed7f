"""Every row of the contract's section B has a scenario, or a reason in `tests/data/rows.yaml` why it has none."""

from tests.fakes.scenarios import ROWS, read_book


def test_the_scenarios_are_well_made():
    """They have only known keys, bytes for each scenario, rows that exist, and no files without a scenario."""
    assert "\n".join(read_book().problems) == ""


def test_every_row_has_a_scenario_or_a_reason():
    book = read_book()
    assert len(ROWS) == 225
    assert " ".join(row for row in ROWS if row not in book.rows and row not in book.reasons) == ""
    assert " ".join(row for row in ROWS if row in book.rows and row in book.reasons) == ""
    assert set(book.reasons) <= set(ROWS)
