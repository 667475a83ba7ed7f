"""Log probabilities are converted to OpenAI's forms (contract A.2, R-LP)."""

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tidegate.streaming.logprobs import canonical_logprobs, legacy_logprobs
from tidegate.streaming.sinks import joined_logprobs


def entry(text="a", logprob=-0.5, given_bytes=(97,), tops=()):
    own = {"token": text, "logprob": logprob, "bytes": list(given_bytes)}
    return own | {"top_logprobs": list(tops)}


def top(text="a", logprob=-0.5, given_bytes=(97,)):
    return {"token": text, "logprob": logprob, "bytes": list(given_bytes)}


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ({"content": None, "refusal": None}, {"content": None, "refusal": None}),
        ({}, {"content": None, "refusal": None}),
        ({"content": []}, {"content": [], "refusal": None}),
        ({"content": [entry()]}, {"content": [entry()], "refusal": None}),
        ({"refusal": [entry()]}, {"content": None, "refusal": [entry()]}),
        # llama.cpp adds ids, other hosts leave out bytes and top_logprobs
        (
            {"content": [{"id": 5, "token": "a", "logprob": -0.5, "top_logprobs": [{"id": 5} | top()]}]},
            {"content": [entry(tops=[top()])], "refusal": None},
        ),
        ({"content": [{"token": "é", "logprob": -1}]}, {"content": [entry("é", -1.0, "é".encode())], "refusal": None}),
        ({"content": [{"token": "a", "logprob": None}]}, {"content": [entry(logprob=-9999.0)], "refusal": None}),
        ({"content": [{"token": "a"}]}, {"content": [entry(logprob=-9999.0)], "refusal": None}),
        # DeepSeek also sends a list for its reasoning
        ({"content": [entry()], "reasoning_content": [entry()]}, {"content": [entry()], "refusal": None}),
    ],
)
def test_openais_form_is_cleaned(raw, expected):
    assert canonical_logprobs(raw) == expected


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (
            {"tokens": ["a", "b"], "token_logprobs": [-0.5, -1], "top_logprobs": [{"a": -0.5, "c": -2}, None]},
            [entry(tops=[top(), top("c", -2.0, b"c")]), entry("b", -1.0, b"b")],
        ),
        ({"tokens": ["a"], "token_logprobs": [None], "text_offset": [0]}, [entry(logprob=-9999.0)]),
        ({"tokens": ["a", "b"], "token_logprobs": [-0.5]}, [entry(), entry("b", -9999.0, b"b")]),
        ({"tokens": [], "token_logprobs": []}, []),
        ({"tokens": ["a"], "token_logprobs": None, "top_logprobs": None}, [entry(logprob=-9999.0)]),
    ],
)
def test_the_legacy_form_is_translated(raw, expected):
    """llama-cpp-python sends the legacy form in chat answers."""
    assert canonical_logprobs(raw) == {"content": expected, "refusal": None}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["token", "logprob", "bytes", "top_logprobs", "x"]), inner, max_size=4)
    ),
    max_leaves=12,
)
names = ["content", "refusal", "tokens", "token_logprobs", "top_logprobs", "text_offset"]


@given(st.dictionaries(st.sampled_from(names), json_values))
@example({"tokens": ["a"], "token_logprobs": 5})
@example({"tokens": ["a"], "token_logprobs": {"a": 1}})
@example({"tokens": ["a"], "top_logprobs": 5})
@example({"content": [{"token": "a", "logprob": 10**400}]})
@example({"content": [{"token": "a", "logprob": float("inf")}]})
@example({"content": [{"token": "a", "logprob": -1, "bytes": ["x", None]}]})
def test_any_object_gives_openais_form(raw):
    """Whatever a host sends, the fields that clients read have the right types."""
    canonical = canonical_logprobs(raw)
    assert set(canonical) == {"content", "refusal"}
    for entries in canonical.values():
        for item in entries or []:
            assert set(item) == {"token", "logprob", "bytes", "top_logprobs"}
            for token in [item, *item["top_logprobs"]]:
                assert isinstance(token["token"], str)
                assert isinstance(token["logprob"], float)
                assert all(isinstance(byte, int) and 0 <= byte <= 255 for byte in token["bytes"] or [])
    assert b"null" not in msgspec.json.encode([item["logprob"] for item in canonical["content"] or []])


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([], None),
        ([{"content": [1], "refusal": None}], {"content": [1], "refusal": None}),
        ([{"content": [1]}, {"content": [2, 3]}], {"content": [1, 2, 3]}),
        ([{"content": None}, {"content": [2]}], {"content": [2]}),
        ([{"content": [1]}, {"content": None}], {"content": [1]}),
        ([{"content": [1]}, {"content": []}], {"content": [1]}),
        ([{"content": [1]}, {"content": []}, {"content": [2]}], {"content": [1, 2]}),
        (
            [{"tokens": ["a"], "text_offset": [0]}, {"tokens": ["b"], "text_offset": [1]}],
            {"tokens": ["a", "b"], "text_offset": [0, 1]},
        ),
    ],
)
def test_lists_are_concatenated(entries, expected):
    """An entry without a list does not remove the lists of the others."""
    assert joined_logprobs(entries) == expected


@given(st.lists(st.dictionaries(st.sampled_from(names), json_values), max_size=4))
@example([{"tokens": ["a"]}, {"tokens": {"x": 1}}])
def test_any_objects_can_be_joined(entries):
    joined_logprobs(entries)


def test_the_legacy_form_is_checked_too():
    """A value of a wrong type is replaced; fields that the form does not have are dropped."""
    given = {
        "tokens": ["a", 5],
        "token_logprobs": [None, "x"],
        "top_logprobs": [None, {"b": "x"}, []],
        "text_offset": [0, "1", True],
        "vendor": {"a": [[]]},
    }
    assert legacy_logprobs(given) == {
        "tokens": ["a", ""],
        "token_logprobs": [None, -9999.0],
        "top_logprobs": [None, {"b": -9999.0}, None],
        "text_offset": [0],
    }
    assert legacy_logprobs({"tokens": ["a"], "top_logprobs": None})["top_logprobs"] is None
