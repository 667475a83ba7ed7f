"""Maps the finish reasons of hosts to OpenAI's five (contract B.15), and some of them to errors."""

import functools
import re
from collections.abc import Mapping
from typing import Literal, get_args

from tidegate.errors import ProxyError, ToolCallUnparsable, UpstreamFailed

FinishReason = Literal["stop", "length", "tool_calls", "content_filter", "function_call"]

_OPENAI: Mapping[str, FinishReason] = {reason: reason for reason in get_args(FinishReason)}
# The sets below hold reasons in lower case, without underscores, hyphens and spaces: hosts spell a reason in many ways.
_LENGTH = frozenset(
    {
        "length",
        "maxtokens",
        "maxoutputtokens",
        "maxnewtokens",
        "maxlength",
        "modellength",
        "tokenlimit",
        "lengthlimit",
        "outputlimit",
        "modelcontextwindowexceeded",
        "contextwindowexceeded",
        "contextlengthexceeded",
        "truncated",
        "incomplete",
        "repetition",
    }
)
_CALLS = frozenset({"tooluse", "toolcall", "toolcalls", "functioncalls"})
_FILTERED = frozenset(
    {
        "safety",
        "recitation",
        "prohibitedcontent",
        "blocklist",
        "spii",
        "sensitive",
        "refusal",
        "blocked",
        "contentblocked",
        "flagged",
        "jailbreak",
        "modelarmor",
        "policyviolation",
        "contentpolicyviolation",
        "moderation",
        "moderated",
        "censored",
        "risk",
        "guardrailintervened",
        "guardrail",
    }
)
_FILTERED_BEGIN = ("contentfilter", "image", "safety")  # `content_filter: hate`, Gemini's IMAGE_SAFETY and others
_FAILED = frozenset(
    {
        "error",
        "errored",
        "failed",
        "failure",
        "abort",
        "aborted",
        "insufficientsystemresource",
        "load",
        "unload",
        "networkerror",
        "servererror",
        "internalerror",
        "internalservererror",
        "engineerror",
        "modelerror",
        "upstreamerror",
        "providererror",
        "exception",
        "timelimit",
        "timeout",
        "cancel",
        "cancelled",
        "canceled",
    }
)
# Gemini's reasons for a malformed tool call of its model; a reason may have the prefix `function_call_filter: `
_UNPARSABLE = frozenset(
    {
        "malformedfunctioncall",
        "malformedtoolcall",
        "malformedresponse",
        "unexpectedtoolcall",
        "toomanytoolcalls",
        "missingthoughtsignature",
        "functioncallfilter",
    }
)
_SEPARATORS = re.compile(r"[\s_\-]+")


def failure_of(reason: str) -> ProxyError | None:
    """Return the error that a finish reason means; None if it is not an error."""
    plain = _plain(reason)
    if not _UNPARSABLE.isdisjoint(plain.split(":")):
        return ToolCallUnparsable(f"The model's tool call could not be read: {reason[:64]}.")
    has_failed = plain.partition(":")[0] in _FAILED
    return UpstreamFailed(f"The upstream failed: {reason[:64]}.", status=503) if has_failed else None


@functools.lru_cache(maxsize=256)  # bounded, as a host may send any text
def canonical(reason: str) -> FinishReason:
    """Return OpenAI's finish reason for a host's; `stop` for an unknown one."""
    if (openai := _OPENAI.get(reason)) is not None:
        return openai
    plain = _plain(reason)
    if plain in _LENGTH:
        return "length"
    if plain in _CALLS:
        return "tool_calls"
    if plain in _FILTERED or plain.startswith(_FILTERED_BEGIN):
        return "content_filter"
    return "function_call" if plain == "functioncall" else "stop"


@functools.lru_cache(maxsize=256)
def _plain(reason: str) -> str:
    return _SEPARATORS.sub("", reason.lower())
