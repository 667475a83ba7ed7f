"""api.together.xyz (contract B.8)."""

from msgspec import Raw

from tidegate.dialects.base import ENGINE_PARTS, ONLY_OPENAI, Dialect
from tidegate.dialects.messages import Rules
from tidegate.dialects.request_draft import RequestDraft
from tidegate.dialects.thinking import Thinking, translate_effort

_EFFORTS = {"minimal": "low", "xhigh": "high", "max": "high"}


def _put_thinking(draft: RequestDraft, thinking: Thinking) -> None:
    if thinking.is_on is not None:
        draft.put("reasoning", {"enabled": thinking.is_on})
    if thinking.effort is not None and thinking.is_on is not False:
        draft.put("reasoning_effort", translate_effort(draft, thinking.effort, _EFFORTS))


def _adjust(draft: RequestDraft) -> None:
    """Row 140: send the number of log probabilities as `logprobs`, which Together expects in place of a boolean."""
    top = draft.fields.pop("top_logprobs", Raw(b"1"))
    if (given := draft.fields.pop("logprobs", None)) is not None and bytes(given) == b"true":
        draft.fields["logprobs"] = top if bytes(top) != b"0" else Raw(b"1")


DIALECT = Dialect(
    name="together",
    rules=Rules(reasoning="reasoning"),
    unsupported_fields=ONLY_OPENAI,
    max_tokens="max_tokens",  # row 142
    parts=ENGINE_PARTS,
    keeps_template_kwargs=True,
    put_thinking=_put_thinking,
    first_byte_timeout_s=60.0,
    keepalive_s=30.0,
    adjust=_adjust,
)
