"""Metrics of engines, recorded from vLLM 0.32 and llama.cpp, are read and passed on with the engine's name."""

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
    """Return the value of every sample by its name and labels."""
    return {
        (one.name, frozenset(one.labels.items())): one.value
        for family in text_string_to_metric_families(body.decode())
        for one in family.samples
    }


def test_the_load_of_vllm_is_read():
    assert read_load(VLLM) == Load(
        running=0, waiting=0, kv_used=0, prefix_hit_rate=0, ttft_s=7.788905143737793 / 46, steps=260
    )


def test_the_load_of_llamacpp_is_read():
    assert read_load(LLAMACPP) == Load(running=0, waiting=0, steps=6880)


def test_the_load_of_tensorrt_is_read_without_steps():
    """Its counters change only when a request ends, so none of them counts as steps."""
    body = b"""# TYPE trtllm_num_requests_running gauge
trtllm_num_requests_running{engine_type="trtllm",model_name="m"} 3.0
trtllm_num_requests_waiting{engine_type="trtllm",model_name="m"} 2.0
trtllm_kv_cache_utilization{engine_type="trtllm",model_name="m"} 0.62
trtllm_generation_tokens_total{engine_type="trtllm",model_name="m"} 4711.0
"""
    assert read_load(body) == Load(running=3, waiting=2, kv_used=0.62)


def test_counts_of_data_parallel_ranks_are_added_and_shares_averaged():
    """Each rank has its own value of the label `engine`."""
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
def test_a_missing_sample_or_a_value_that_is_no_number_is_unknown(body):
    assert read_load(body) == Load()


@given(st.binary(max_size=200))
def test_any_bytes_can_be_read_and_passed_on(body):
    read_load(b"vllm:num_requests_running " + body)
    relabelled({"a": body})


def test_all_samples_are_passed_on_under_their_engines_names():
    passed_on = samples(relabelled({"r1": VLLM, "mine": LLAMACPP}))
    assert len(passed_on) == len(samples(VLLM)) + len(samples(LLAMACPP))
    assert (
        passed_on[
            "vllm:iteration_tokens_total_count",
            frozenset({("engine", "r1"), ("exported_engine", "0"), ("model_name", "smollm2")}),
        ]
        == 260
    )
    assert passed_on["llamacpp:n_decode_total", frozenset({("engine", "mine")})] == 6880


def test_two_engines_of_a_kind_do_not_collide():
    """Each metric family is described once, and its samples follow one another."""
    body = relabelled({"a": VLLM, "b": VLLM})
    assert len(samples(body)) == 2 * len(samples(VLLM))
    heads = [line for line in body.decode().splitlines() if line.startswith("# TYPE ")]
    assert len(heads) == len(set(heads)) == VLLM.count(b"# TYPE ")
    names = [family.name for family in text_string_to_metric_families(body.decode())]
    assert len(names) == len(set(names))


def test_no_metrics_give_an_empty_text():
    assert relabelled({}) == b""
    assert relabelled({"a": b""}) == b""


@pytest.mark.parametrize(
    "body", [b'[{"iter": 1, "cpuMemUsage": 0}]', b"<html>\n<p>no</p>\n</html>", b"not found", b"x{"]
)
def test_lines_that_are_no_metrics_are_not_passed_on(body):
    """Such lines would make Tidegate's metrics unreadable; for example, TensorRT-LLM's /metrics is JSON."""
    assert relabelled({"a": body + b"\nx 1\n"}) == b'x{engine="a"} 1\n'


def test_the_end_mark_of_openmetrics_is_left_out():
    """The mark would end the whole text, before the metrics of the next engine."""
    assert relabelled({"a": b"x 1\n# EOF\n", "b": b"# a remark\nx 2\n"}) == b'x{engine="a"} 1\nx{engine="b"} 2\n'
