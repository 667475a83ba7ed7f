"""The finish reasons of all hosts are mapped to OpenAI's five (contract B.15)."""

import pytest

from tidegate.errors import ToolCallUnparsable, UpstreamFailed
from tidegate.streaming.finish import canonical, failure_of


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("stop", "stop"),
        ("function_call", "function_call"),
        ("FunctionCall", "function_call"),
        ("ToolUse", "tool_calls"),
        ("TOOL_CALLS", "tool_calls"),
        ("max-tokens", "length"),
        ("MAX_OUTPUT_TOKENS", "length"),
        ("Content Filter", "content_filter"),
        ("content_filter: violence", "content_filter"),
        ("IMAGE_PROHIBITED_CONTENT", "content_filter"),
        ("MODEL_ARMOR", "content_filter"),
        ("content_policy_violation", "content_filter"),
        ("context_window_exceeded", "length"),
        ("", "stop"),
        ("OTHER", "stop"),
    ],
)
def test_finish_reasons_are_recognised_in_any_spelling(reason, expected):
    assert canonical(reason) == expected


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("Error", UpstreamFailed),
        ("network-error", UpstreamFailed),
        ("error: overloaded", UpstreamFailed),
        ("MALFORMED_FUNCTION_CALL", ToolCallUnparsable),
        ("function_call_filter: MALFORMED_FUNCTION_CALL", ToolCallUnparsable),
        ("TOO_MANY_TOOL_CALLS", ToolCallUnparsable),
        ("stop", None),
        ("errors were found", None),
    ],
)
def test_some_finish_reasons_are_errors(reason, kind):
    failure = failure_of(reason)
    assert (None if failure is None else type(failure)) is kind


def test_a_long_reason_is_not_repeated_whole():
    assert len(failure_of("Error" + " " * 500).message) < 120
