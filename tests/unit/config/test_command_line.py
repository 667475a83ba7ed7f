"""A command in the config."""

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.config.command_line import fault, split


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("serve --port ${PORT}", ["serve", "--port", "${PORT}"]),
        ("serve 'a b' \"c d\" e\\ f", ["serve", "a b", "c d", "e f"]),
        ("serve \\\n  --port 1\n  --host h\n", ["serve", "--port", "1", "--host", "h"]),
        (("serve", "a b", ""), ["serve", "a b", ""]),
        ((), []),
    ],
)
def test_a_text_is_split_as_a_shell_would_and_a_list_is_not(command, words):
    assert split(command) == words


@given(st.lists(st.text()))
def test_words_that_are_quoted_for_a_shell_are_split_unchanged(words):
    line = shlex.join(words)
    assert split(line) == [word.replace("\\\n", " ") for word in words]


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("echo 'a", "a quotation mark is not closed; close it, or write a list of words"),
        ("  ", "empty; write the program and its arguments"),
        ((" ", "a"), "empty; write the program and its arguments"),
        ((), "empty; write the program and its arguments"),
        ("echo a", None),
    ],
)
def test_a_command_that_has_no_program_is_a_fault(command, reason):
    assert fault(command) == reason
