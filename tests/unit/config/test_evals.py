"""The eval file: writing, reading, and files that are none."""

import pytest

from tidegate.config.evals import EvalFile, EvalScore, read_evals, to_json
from tidegate.errors import ConfigError

RESULTS = EvalFile("1", 1_700_000_000.0, (EvalScore("host/m", "json", 20, 17),))


def test_a_written_file_can_be_read(tmp_path):
    path = tmp_path / "evals.json"
    path.write_bytes(to_json(RESULTS))
    assert read_evals(path, "c.yaml: routing.evals") == RESULTS


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"[]",
        b'{"set":"1","taken_at":1,"scores":[{"target":"a/b","task":"sums","asked":1,"right":1}]}',
        b'{"set":"1","taken_at":1,"scores":[{"target":"a/b","task":"json","asked":1,"right":2}]}',
        b'{"set":"1","taken_at":1,"scores":[],"more":1}',
        b"[" * 100_000,
    ],
)
def test_a_file_that_is_no_eval_file_is_refused_in_one_line(tmp_path, body):
    path = tmp_path / "evals.json"
    path.write_bytes(body)
    with pytest.raises(ConfigError) as caught:
        read_evals(path, "c.yaml: routing.evals")
    assert caught.value.message.startswith(f"c.yaml: routing.evals: {path}")
    assert "\n" not in caught.value.message


def test_a_missing_file_is_refused_with_its_path(tmp_path):
    with pytest.raises(ConfigError, match=r"routing\.evals: .*gone cannot be read: No such file"):
        read_evals(tmp_path / "gone", "c.yaml: routing.evals")
