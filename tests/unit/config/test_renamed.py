"""Old names of keys, accepted until 0.3."""

import msgspec
import pytest
import yaml

from tidegate.app.advice import advise
from tidegate.config.concurrency import ConcurrencyConfig
from tidegate.config.load import parse
from tidegate.config.reference import dump, schema
from tidegate.errors import ConfigError

HOST = "base_url: http://127.0.0.1:9"
OLD = f"""
upstreams:
  a: {{{HOST}, admission: {{concurrency: 4, queue: 7}}}}
  b: {{{HOST}, admission: {{concurrency: adaptive}}}}
engines: {{e: {{kind: external, {HOST}/v1, admission: {{queue_timeout_s: 3}}}}}}
"""


def test_the_old_name_means_what_the_new_one_means():
    config = parse(OLD, "test")
    assert config.upstreams["a"].concurrency == ConcurrencyConfig(limit=4, queue=7)
    assert config.upstreams["b"].concurrency == ConcurrencyConfig(limit="adaptive")
    assert config.engines["e"].concurrency == ConcurrencyConfig(queue_timeout_s=3)


def test_each_use_of_the_old_name_is_noted():
    """The notes are shown at the start, at a reload and by `tidegate check`."""
    notes = [line.partition(": is called ") for line in advise(parse(OLD, "test")) if "admission" in line]
    assert [note[0] for note in notes] == ["upstreams.a.admission", "upstreams.b.admission", "engines.e.admission"]
    assert {note[2] for note in notes} == {
        (
            "concurrency now, and its concurrency is limit: write concurrency: {limit: …}; "
            "the old name is accepted until 0.3"
        )
    }
    assert advise(parse(f"upstreams: {{a: {{{HOST}, concurrency: {{limit: 4}}}}}}", "test")) == []


@pytest.mark.parametrize("section", ["upstreams: {a: {", "engines: {a: {kind: external, "])
def test_both_names_at_once_are_refused(section):
    with pytest.raises(ConfigError) as refused:
        parse(f"{section}{HOST}, concurrency: {{limit: 4}}, admission: {{concurrency: 5}}}}}}", "test")
    path = section.partition(":")[0]
    message = "this is the old name of concurrency, which is there too; keep concurrency alone"
    assert str(refused.value) == f"test: {path}.a.admission: {message}"


def test_a_dumped_config_has_the_new_name_only():
    dumped = yaml.safe_load(dump(parse(OLD, "test")))
    assert dumped["upstreams"]["a"]["concurrency"] == {"limit": 4, "queue": 7, "queue_timeout_s": 10.0}
    assert "admission" not in dumped["upstreams"]["a"]
    assert "admission" not in dumped["engines"]["e"]


def test_the_schema_marks_the_old_name_as_deprecated():
    definitions = msgspec.json.decode(schema())["$defs"]
    assert definitions["UpstreamConfig"]["properties"]["admission"]["deprecated"] is True
    assert definitions["ExternalConfig"]["properties"]["admission"]["deprecated"] is True
