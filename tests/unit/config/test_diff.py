"""The differences of two configs, and which of them take effect only at the next start."""

from hypothesis import given
from hypothesis import strategies as st

from tidegate.config.diff import differences, reloaded
from tidegate.config.load import parse
from tidegate.config.root import Config

BASE = """
upstreams: {far: {base_url: "https://far/v1", api_keys: ["env:A"]}}
models: {m: {targets: [{upstream: far, model: a}]}}
"""


def lines(old, new):
    return list(differences(parse(old, "old"), parse(new, "new")))


def test_equal_configs_have_no_differences():
    assert lines(BASE, BASE) == []
    assert list(differences(Config(), Config())) == []


def test_each_key_with_another_value_is_listed():
    assert lines(BASE, BASE.replace("model: a}]", "model: a}], policy: weighted")) == [
        'models.m.policy: "ordered" -> "weighted"'
    ]


def test_secrets_are_shown_as_references():
    assert lines(BASE, BASE.replace("env:A", "env:B")) == ['upstreams.far.api_keys: ["env:A"] -> ["env:B"]']


def test_values_that_may_hold_a_secret_are_not_shown():
    """The report is written to the log."""
    engine = 'engines: {r1: {kind: vllm, model: m, environment: {HF_TOKEN: "hf_1"}, args: {hf_token: hf_1, seed: 1}}}'
    assert lines(engine, engine.replace("hf_1", "hf_2")) == [
        "engines.r1.args.hf_token: changed",
        "engines.r1.environment.HF_TOKEN: changed",
    ]


def test_the_commands_of_hooks_are_not_shown():
    engine = "engines: {a: {kind: llamacpp, model: x, hooks: {before_load: [curl, key-1], timeout_s: 5}}}"
    assert lines(engine, engine.replace("key-1", "key-2").replace("5", "6")) == [
        "engines.a.hooks.before_load: changed",
        "engines.a.hooks.timeout_s: 5.0 -> 6.0",
    ]


def test_an_added_or_removed_entry_is_one_line():
    more = BASE.replace("upstreams: {", 'upstreams: {near: {base_url: "https://near/v1"}, ')
    assert lines(BASE, more) == ["upstreams.near: added"]
    assert lines(more, BASE) == ["upstreams.near: removed"]


def test_changes_that_need_a_restart_are_listed_separately():
    found = lines(BASE, BASE + "server: {port: 9, body_timeout_s: 5}\ntelemetry: {log_level: error}\n")
    assert found == [
        "server.port: 8000 -> 9",
        "server.body_timeout_s: 60.0 -> 5.0",
        'telemetry.log_level: "info" -> "error"',
    ]
    new = parse(BASE + "server: {port: 9, body_timeout_s: 5}\ntelemetry: {log_level: error}\n", "new")
    base = parse(BASE, "base")
    assert reloaded(base, base, new) == ([found[1], found[0], found[2]], [found[0], found[2]])


def test_changes_that_need_a_restart_are_listed_until_the_config_of_the_start_is_back():
    """They are compared with the config of the start, as those in a file read between never took effect."""
    start, other = parse(BASE, "start"), parse(BASE + "server: {port: 9}", "other")
    pending = ["server.port: 8000 -> 9"]
    assert reloaded(start, start, other) == (pending, pending)
    assert reloaded(start, other, other) == (pending, pending)
    assert reloaded(start, other, start) == ([], [])


def test_each_of_a_models_targets_has_its_own_lines():
    two = BASE.replace("model: a}]", "model: a, weight: 2}, {upstream: far, model: b}]")
    assert lines(BASE, two) == ["models.m.targets[0].weight: 1.0 -> 2.0", "models.m.targets[1]: added"]
    assert lines(two, BASE) == ["models.m.targets[0].weight: 2.0 -> 1.0", "models.m.targets[1]: removed"]


NAMES = st.sampled_from(["a", "b", "c"])
CONFIGS = st.dictionaries(NAMES, st.sampled_from([1.0, 2.0]), min_size=1).map(
    lambda found: parse(
        "upstreams: {"
        + ", ".join(f'{name}: {{base_url: "https://{name}/v1", connect_timeout_s: {s}}}' for name, s in found.items())
        + "}",
        "f",
    )
)


@given(CONFIGS, CONFIGS)
def test_the_differences_name_the_same_keys_in_both_directions(old, new):
    forward, backward = differences(old, new), differences(new, old)
    assert sorted(line.partition(":")[0] for line in forward) == sorted(line.partition(":")[0] for line in backward)
    assert (forward == []) == (old == new)
