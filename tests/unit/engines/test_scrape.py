"""Engines' metrics, as vLLM 0.32 and llama.cpp gave them: read, and passed on under the engine's name."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from tidegate.engines.base import Load
from tidegate.engines.scrape import read_load, relabelled

RECORDED = Path(__file__).parents[2] / "data" / "engines"
VLLM = (RECORDED / "vllm_metrics.txt").read_bytes()
LLAMACPP = (RECORDED / "llamacpp_metrics.txt").read_bytes()


def samples(body):
    """Every sample: name and labels to value."""
    return {
        (one.name, frozenset(one.labels.items())): one.value
        for family in text_string_to_metric_families(body.decode())
        for one in family.samples
    }


def test_vllms_load():
    assert read_load(VLLM) == Load(
        running=0, waiting=0, kv_used=0, prefix_hit_rate=0, ttft_s=7.788905143737793 / 46, steps=260
    )


def test_llamacpps_load():
    assert read_load(LLAMACPP) == Load(running=0, waiting=0, steps=6880)


def test_tensorrts_load():
    """Its counters move when a request ends, so that none of them counts as steps."""
    body = b"""# TYPE trtllm_num_requests_running gauge
trtllm_num_requests_running{engine_type="trtllm",model_name="m"} 3.0
trtllm_num_requests_waiting{engine_type="trtllm",model_name="m"} 2.0
trtllm_kv_cache_utilization{engine_type="trtllm",model_name="m"} 0.62
trtllm_generation_tokens_total{engine_type="trtllm",model_name="m"} 4711.0
"""
    assert read_load(body) == Load(running=3, waiting=2, kv_used=0.62)


def test_the_parts_of_an_engine_are_added_up():
    """Data parallel: each part has a label of its own; shares are averaged."""
    body = b"""# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 2.0
vllm:num_requests_running{engine="1",model_name="m"} 3.0
vllm:num_requests_waiting{engine="0"} 1e2
vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 77.0
vllm:kv_cache_usage_perc{engine="0"} 0.2
vllm:kv_cache_usage_perc{engine="1"} 0.6
vllm:iteration_tokens_total_count{engine="0"} 10
vllm:iteration_tokens_total_count{engine="1"} 20
vllm:prefix_cache_queries_total{engine="0"} 8
vllm:prefix_cache_hits_total{engine="0"} 2
"""
    assert read_load(body) == Load(running=5, waiting=100, kv_used=0.4, prefix_hit_rate=0.25, steps=30)


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>no</html>", b"\xff\xfe", b"vllm:num_requests_running NaN\n", b"vllm:num_requests_running e\n"],
)
def test_what_is_not_there_or_not_a_number_is_not_known(body):
    assert read_load(body) == Load()


@given(st.binary(max_size=200))
def test_any_bytes_can_be_read_and_passed_on(body):
    read_load(b"vllm:num_requests_running " + body)
    relabelled({"a": body})


def test_all_samples_are_passed_on_under_their_engines_names():
    told = samples(relabelled({"r1": VLLM, "mine": LLAMACPP}))
    assert len(told) == len(samples(VLLM)) + len(samples(LLAMACPP))
    assert (
        told[
            "vllm:iteration_tokens_total_count",
            frozenset({("engine", "r1"), ("exported_engine", "0"), ("model_name", "smollm2")}),
        ]
        == 260
    )
    assert told["llamacpp:n_decode_total", frozenset({("engine", "mine")})] == 6880


def test_two_engines_of_a_kind_do_not_collide():
    """Each family is described once, and its samples stand together."""
    body = relabelled({"a": VLLM, "b": VLLM})
    assert len(samples(body)) == 2 * len(samples(VLLM))
    heads = [line for line in body.decode().splitlines() if line.startswith("# TYPE ")]
    assert len(heads) == len(set(heads)) == VLLM.count(b"# TYPE ")
    names = [family.name for family in text_string_to_metric_families(body.decode())]
    assert len(names) == len(set(names))


def test_nothing_of_nobody():
    assert relabelled({}) == b""
    assert relabelled({"a": b""}) == b""


@pytest.mark.parametrize(
    "body", [b'[{"iter": 1, "cpuMemUsage": 0}]', b"<html>\n<p>no</p>\n</html>", b"not found", b"x{"]
)
def test_what_is_no_metric_is_not_passed_on(body):
    """It would spoil ours: TensorRT-LLM's /metrics is JSON."""
    assert relabelled({"a": body + b"\nx 1\n"}) == b'x{engine="a"} 1\n'


def test_the_end_mark_of_openmetrics_is_left_out():
    """It would end everything that follows."""
    assert relabelled({"a": b"x 1\n# EOF\n", "b": b"# a remark\nx 2\n"}) == b'x{engine="a"} 1\nx{engine="b"} 2\n'
