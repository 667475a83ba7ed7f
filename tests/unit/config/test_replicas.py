"""Replicas of an engine: their names, the settings that each gets, and settings that they cannot share."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.config.engines import ExternalConfig, LlamaCppConfig, VllmConfig
from tidegate.config.load import parse
from tidegate.config.replicas import engine_of, expand, groups, members, number_of, replicas_of
from tidegate.errors import ConfigError

TINY = LlamaCppConfig(model="package:x")
EXTERNAL = ExternalConfig(base_url="http://127.0.0.1:1/v1")


def vllm(**keys):
    return VllmConfig(model="m", **keys)


def test_one_replica_keeps_the_engines_own_name():
    engines = {"gpu": vllm(gpus=(1, 0)), "tiny": TINY, "external": EXTERNAL}
    assert expand(engines) == engines


def test_replicas_are_engines_with_a_number_and_their_part_of_the_gpus():
    expanded = expand({"tiny": TINY, "gpu": vllm(replicas=2, gpus=(3, 1, 0, 2), tensor_parallel_size=2)})
    assert expanded == {
        "tiny": TINY,
        "gpu:1": vllm(gpus=(3, 1), tensor_parallel_size=2),
        "gpu:2": vllm(gpus=(0, 2), tensor_parallel_size=2),
    }


def test_a_changed_number_of_replicas_does_not_change_the_existing_ones():
    few, many = expand({"gpu": vllm(replicas=2)}), expand({"gpu": vllm(replicas=3)})
    assert few.items() <= many.items()


@given(
    st.dictionaries(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,8}", fullmatch=True), st.integers(1, 64), max_size=4)
)
def test_every_name_leads_back_to_its_engine_and_number(counts):
    names = list(expand({name: vllm(replicas=count) for name, count in counts.items()}))
    assert len(set(names)) == len(names) == sum(counts.values())
    for engine, count in counts.items():
        own = members(engine, names)
        assert [(engine_of(name), number_of(name)) for name in own] == [(engine, n + 1) for n in range(count)]
        assert all(members(name, names) == [name] for name in own if name != engine)
        assert groups(names).get(engine, [engine]) == own


def test_only_some_kinds_of_engine_have_replicas():
    assert [replicas_of(config) for config in (vllm(replicas=3), vllm(), TINY, EXTERNAL, None)] == [3, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("replicas: 0", r"engines\.gpu\.replicas: must be a whole number, at least 1"),
        ("replicas: 65", r"engines\.gpu\.replicas: must be a whole number, at most 64"),
        ("replicas: 2, gpus: [0, 1, 2]", r"engines\.gpu\.gpus: 3 cannot be divided evenly among 2 replicas"),
        ("replicas: 2, args: {--nnodes: 2}", r"engines\.gpu\.args\.--nnodes: 2 replicas cannot share it"),
        ("replicas: 2, args: {master_port: 1}", r"engines\.gpu\.args\.master_port: 2 replicas cannot share it"),
        ("replicas: 2, args: {kv_events_config.x: 1}", r"engines\.gpu\.args\.kv_events_config\.x: 2 replicas cannot"),
        (
            "replicas: 2, environment: {CUDA_VISIBLE_DEVICES: '0'}",
            r"engines\.gpu\.environment\.CUDA_VISIBLE_DEVICES: .* name all GPUs under gpus",
        ),
    ],
)
def test_settings_that_replicas_cannot_share_are_refused_with_a_cure(keys, message):
    with pytest.raises(ConfigError, match=rf"^f: {message}"):
        parse(f"engines: {{gpu: {{kind: vllm, model: m, {keys}}}}}", "f")


@pytest.mark.parametrize("kind", ["llamacpp, model: 'package:x'", "external, base_url: 'http://127.0.0.1:1/v1'"])
def test_other_kinds_have_no_replicas(kind):
    with pytest.raises(ConfigError, match=r"engines\.e\.replicas: unknown key"):
        parse(f"engines: {{e: {{kind: {kind}, replicas: 2}}}}", "f")


def test_no_name_of_the_config_looks_like_a_replica():
    with pytest.raises(ConfigError, match=r"engines\.gpu:1: not a usable name"):
        parse("engines: {'gpu:1': {kind: vllm, model: m}}", "f")
