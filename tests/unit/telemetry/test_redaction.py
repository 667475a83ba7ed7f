"""Masking of secrets in texts from outside Tidegate."""

import json
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.telemetry.redaction import mask

KEY = "sk-Ab/9+z==_x.Y"


def test_every_secret_is_masked():
    assert mask(f"{KEY}, {KEY} and other-key", [KEY, "other-key"]) == "***, *** and ***"


def test_a_text_without_secrets_is_unchanged():
    assert mask(r"100 % of C:\temp is sk-free", [KEY]) == r"100 % of C:\temp is sk-free"
    assert mask("", [KEY]) == ""


def test_a_secret_inside_another_one_leaves_no_rest_of_it():
    assert mask("key-one-and-two", ["key-one", "key-one-and-two"]) == "***"


@pytest.mark.parametrize(
    "written",
    [
        quote(KEY, safe=""),
        quote(KEY, safe="").lower().replace("sk-ab", "sk-Ab").replace(".y", ".Y"),
        quote(quote(KEY, safe=""), safe=""),
        KEY.replace("/", r"\/"),
        KEY.replace("/", r"\\\/"),
        KEY.replace("+", r"\u002b"),
        KEY.replace("+", r"\u002B").replace("=", r"\\u003d"),
        "".join(f"\\u{ord(character):04x}" for character in KEY),
        "".join(f"%{ord(character):02X}" for character in KEY),
        KEY.replace("/", "%2f").replace("+", r"\u002b"),
    ],
)
def test_encoded_and_partly_escaped_secrets_are_masked(written):
    assert mask(f"[{written}]", [KEY]) == "[***]"


@pytest.mark.parametrize("kept", [8, 9, len(KEY) - 1])
def test_the_beginning_of_a_secret_at_the_end_of_a_truncated_text_is_masked(kept):
    assert mask(f"the key {KEY[:kept]}", [KEY]) == "the key ***"


def test_the_first_half_of_a_secret_is_masked_anywhere():
    key = KEY + "0123"
    assert mask(f"{key[:8]} begins them all", [key]) == f"{key[:8]} begins them all"
    assert mask(f"{key[:-1]} and {key[:9]}, none", [key]) == "*** and ***, none"


@pytest.mark.parametrize("gap", ["\n", " ", "\r\n\t", r"\n", r"\\n"])
def test_a_secret_split_over_lines_is_masked(gap):
    key = KEY + "0123"
    for place in (1, 8, len(key) - 1):
        assert mask(f"[{key[:place]}{gap}{key[place:]}]", [key]) == "[***]"
    assert mask("pass word", ["password"]) == "pass word"


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=8), st.text(), st.text())
def test_no_secret_is_left_in_any_encoding(secret, before, after):
    for written in (secret, quote(secret, safe=""), json.dumps(secret)[1:-1]):
        masked = mask(f"{before} {written} {after}", [secret])
        assert written not in masked.replace("***", " ")
