"""Token counts of all hosts are read into one set of names (contract B.17)."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.protocol.usage import counts_anything, parse_usage


def read(raw, **options):
    return msgspec.to_builtins(parse_usage(raw, **options))


def counts(prompt, completion, total):
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total}


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ({}, counts(0, 0, 0)),
        ({"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}, counts(3, 2, 5)),
        ({"prompt_tokens": 3, "completion_tokens": 2}, counts(3, 2, 5)),
        ({"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": None}, counts(3, 2, 5)),
        ({"prompt_tokens": None, "completion_tokens": None, "total_tokens": None}, counts(0, 0, 0)),
        ({"input_tokens": 3, "output_tokens": 2}, counts(3, 2, 5)),
        ({"prompt_eval_count": 3, "eval_count": 2}, counts(3, 2, 5)),
        ({"num_prompt_tokens": 3, "num_completion_tokens": 2}, counts(3, 2, 5)),
        ({"prompt_token_count": 3, "generation_token_count": 2}, counts(3, 2, 5)),
        ({"prompt_tokens": 3.0, "completion_tokens": 2.0}, counts(3, 2, 5)),
        ({"prompt_tokens": "3", "completion_tokens": " 2 "}, counts(3, 2, 5)),
        ({"prompt_tokens": "3.0", "completion_tokens": "2.5"}, counts(3, 0, 3)),
        ({"prompt_tokens": "three", "completion_tokens": [2]}, counts(0, 0, 0)),
        ({"prompt_tokens": True, "completion_tokens": 2}, counts(0, 2, 2)),
        ({"prompt_tokens": 3, "total_tokens": 5}, counts(3, 2, 5)),
        ({"completion_tokens": 2, "total_tokens": 5}, counts(3, 2, 5)),
        ({"total_tokens": 5}, counts(5, 0, 5)),
        ({"prompt_tokens": 3, "queue_time": 0.1, "cost": 1}, counts(3, 0, 3)),
        ({"prompt_tokens": None, "input_tokens": 4}, counts(4, 0, 4)),
    ],
)
def test_the_three_counts_are_read_under_every_name(raw, expected):
    assert read(raw) == expected


@pytest.mark.parametrize(
    ("raw", "details"),
    [
        ({"prompt_tokens_details": {"cached_tokens": 1}}, {"cached_tokens": 1}),
        ({"prompt_tokens_details": {"cached_tokens": 0}}, {"cached_tokens": 0}),
        ({"input_tokens_details": {"cached_tokens": 1}}, {"cached_tokens": 1}),
        ({"cached_tokens": 1}, {"cached_tokens": 1}),
        ({"cache_read_input_tokens": 1}, {"cached_tokens": 1}),
        ({"cache_write_tokens": 2}, {"cache_write_tokens": 2}),
        ({"prompt_tokens_details": {"created_cache_tokens": 2}}, {"cache_write_tokens": 2}),
        ({"cache_creation_input_tokens": 2}, {"cache_write_tokens": 2}),
        ({"prompt_tokens_details": {"cache_creation_tokens": 2}}, {"cache_write_tokens": 2}),
        ({"num_cached_tokens": 1}, {"cached_tokens": 1}),
        ({"prompt_tokens_details": {"cached_tokens": "1"}}, {"cached_tokens": 1}),
        ({"prompt_tokens_details": {"audio_tokens": 3, "multimodal_tokens": 9}}, {"audio_tokens": 3}),
        ({"prompt_tokens_details": {"cached_tokens": 1}, "cached_tokens": 7}, {"cached_tokens": 1}),
        ({"prompt_tokens_details": None}, None),
        ({"prompt_tokens_details": {}}, None),
        ({"prompt_tokens_details": {"cached_tokens": None}}, None),
        ({"prompt_tokens_details": "odd"}, None),
    ],
)
def test_details_of_the_prompt_are_read_under_every_name(raw, details):
    """Details that the host did not send are left out."""
    assert read(raw).get("prompt_tokens_details") == details


@pytest.mark.parametrize(
    ("raw", "details"),
    [
        ({"completion_tokens_details": {"reasoning_tokens": 1}}, {"reasoning_tokens": 1}),
        ({"output_tokens_details": {"reasoning_tokens": 1}}, {"reasoning_tokens": 1}),
        ({"reasoning_tokens": 1}, {"reasoning_tokens": 1}),
        (
            {
                "completion_tokens_details": {
                    "audio_tokens": 1,
                    "accepted_prediction_tokens": 2,
                    "rejected_prediction_tokens": 3,
                }
            },
            {"audio_tokens": 1, "accepted_prediction_tokens": 2, "rejected_prediction_tokens": 3},
        ),
        ({"completion_tokens_details": None}, None),
    ],
)
def test_details_of_the_completion_are_read_under_every_name(raw, details):
    assert read(raw).get("completion_tokens_details") == details


def test_reasoning_that_is_counted_separately_is_added():
    """At xAI `total_tokens` includes the reasoning and `completion_tokens` does not; at OpenAI both do."""
    details = {"completion_tokens_details": {"reasoning_tokens": 60}}
    separate = {"prompt_tokens": 21, "completion_tokens": 2, "total_tokens": 83} | details
    included = {"prompt_tokens": 21, "completion_tokens": 62, "total_tokens": 83} | details
    assert read(separate) == read(included) == included


def test_deepseeks_two_counts_are_kept_and_read():
    """DeepSeek's own clients read them; other clients read `cached_tokens`."""
    usage = read({"prompt_tokens": 9, "prompt_cache_hit_tokens": 4, "prompt_cache_miss_tokens": 5})
    assert usage["prompt_cache_hit_tokens"] == 4
    assert usage["prompt_cache_miss_tokens"] == 5
    assert usage["prompt_tokens_details"] == {"cached_tokens": 4}


@pytest.mark.parametrize(
    ("tokens", "has_reasoned", "expected"),
    [(0, False, {"reasoning_tokens": 0}), (0, True, None), (7, True, {"reasoning_tokens": 7})],
)
def test_a_reasoning_count_of_0_is_left_out_if_there_is_reasoning(tokens, has_reasoned, expected):
    """The count is wrong: vLLM sends 0 although there was reasoning (contract 76k)."""
    usage = read({"completion_tokens_details": {"reasoning_tokens": tokens}}, has_reasoned=has_reasoned)
    assert usage.get("completion_tokens_details") == expected


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), float("-inf"), 1e300, 2**70])
def test_a_number_that_cannot_be_a_count_is_ignored(odd):
    assert read({"prompt_tokens": odd, "completion_tokens": 1}) == counts(0, 1, 1)


def test_a_negative_count_is_0():
    """Some hosts send -1 for "not known", and metrics counters must not decrease."""
    assert read({"prompt_tokens": -1, "completion_tokens": 2}) == counts(0, 2, 2)


values = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.just([])
names = st.sampled_from(
    [
        *("prompt_tokens", "completion_tokens", "total_tokens", "input_tokens", "cached_tokens", "reasoning_tokens"),
        *("eval_count", "prompt_tokens_details", "completion_tokens_details", "prompt_cache_hit_tokens", "x"),
    ]
)


@given(st.dictionaries(names, values | st.dictionaries(names, values)))
def test_any_object_is_a_usage(raw):
    """The three counts are always integers."""
    usage = read(raw)
    assert all(isinstance(usage[name], int) for name in ("prompt_tokens", "completion_tokens", "total_tokens"))


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ({}, False),
        ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, False),
        ({"prompt_tokens": None, "cost": 0.1}, False),
        ({"output_tokens": 2}, True),
        ({"total_tokens": "5"}, True),
    ],
)
def test_a_usage_without_a_count_is_recognised(raw, expected):
    """Azure and others send an empty usage after the real one."""
    assert counts_anything(raw) is expected
