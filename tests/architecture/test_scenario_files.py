"""The checks of `scenarios.yaml`: an unknown key, or a file without a scenario, is a problem."""

import pytest

from tests.fakes.scenarios import read_book

REPORT = "report_y: {report: a/b#7, about: It was., stream_outcome: {content: Hi, finish: stop}}"
GOOD = "1_x: {rows: ['1'], about: It is., outcome: {content: Hi, finish: stop}}"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "vllm").mkdir()
    return tmp_path / "vllm"


def read(folder, text):
    (folder / "scenarios.yaml").write_text(text)
    return read_book(folder.parent)


def test_the_files_beside_it_decide_on_the_modes(folder):
    (folder / "1_x.json").write_text("{}")
    (folder / "1_y.sse").write_text("data: [DONE]\n\n")
    (folder / "1_z.503.html").write_text("<html>")
    book = read(folder, "\n".join(GOOD.replace("1_x", name) for name in ("1_x", "1_y", "1_z")))
    assert book.problems == []
    assert [(scenario.name, scenario.modes) for scenario in book.scenarios] == [
        ("vllm/1_x", ("unary",)),
        ("vllm/1_y", ("stream",)),
        ("vllm/1_z", ("unary", "stream")),
    ]
    assert book.scenarios[2].answers["stream"].status == 503


def test_a_report_stands_beside_the_scenarios(folder):
    (folder / "1_x.json").write_text("{}")
    (folder / "report_y.sse").write_text("data: [DONE]\n\n")
    (folder / "reports.yaml").write_text(REPORT)
    book = read(folder, GOOD)
    assert book.problems == []
    assert [(scenario.name, scenario.entry.report) for scenario in book.scenarios] == [
        ("vllm/1_x", ""),
        ("vllm/report_y", "a/b#7"),
    ]


@pytest.mark.parametrize("text", [REPORT.replace("report_y", "1_y"), REPORT.replace("a/b#7", "b#7")])
def test_a_report_has_its_name_and_its_number(folder, text):
    (folder / "reports.yaml").write_text(text)
    assert any("a report" in told for told in read(folder, "").problems)


def test_what_we_refuse_needs_no_bytes(folder):
    book = read(folder, "1_x: {rows: ['1'], about: It is., outcome: {error: {status: 400}}}")
    assert book.problems == []
    assert book.scenarios[0].modes == ("unary", "stream")


def test_a_reason_is_kept_for_a_row_without_a_scenario(folder):
    (folder.parent / "rows.yaml").write_text("58: keep-alive of pooled connections")
    assert read(folder, "").reasons == {"58": "keep-alive of pooled connections"}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (GOOD.replace("about", "abuot"), "unknown field `abuot`"),
        (GOOD.replace("content", "text"), "unknown field `text`"),
        (GOOD.replace("about: It is., ", ""), "missing required field `about`"),
        (GOOD.replace("['1']", "['1', '205']"), "no such rows: ['205']"),
        (GOOD.replace("1_x", "2_x"), "row 2 is in the name"),
        (GOOD.replace("1_x", "x"), "a name is ROW_slug"),
        (GOOD.replace("outcome", "stream_outcome"), "no `outcome`"),
        (GOOD.replace("1_x", "1_none"), "no bytes of the host"),
        (GOOD.replace("outcome:", "card: {thinking: sometimes}, outcome:"), "Invalid enum value 'sometimes'"),
        (GOOD.replace("outcome:", "answer: plain, outcome:"), "`answer` and files at once"),
        (GOOD.replace("finish: stop", "finish: stop}, stream_outcome: {content: Ho"), "no .sse"),
        ("", "1_x: files without a scenario"),
        (GOOD + "\n" + GOOD, "twice"),
        ("[", "scenarios.yaml"),
    ],
)
def test_what_is_not_meant_is_a_problem(folder, text, problem):
    (folder / "1_x.json").write_text("{}")
    assert any(problem in told for told in read(folder, text).problems)


@pytest.mark.parametrize("name", ["1_x.xml", "1_x.html", "README"])
def test_a_file_of_no_known_kind_is_a_problem(folder, name):
    (folder / name).write_text("x")
    assert any("what kind of file" in told for told in read(folder, "").problems)


def test_a_folder_that_is_no_dialect_is_a_problem(folder):
    folder.rename(folder.with_name("vlm"))
    (folder.with_name("vlm") / "scenarios.yaml").write_text(GOOD)
    assert any("no dialect" in told for told in read_book(folder.parent).problems)
