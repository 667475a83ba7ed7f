"""api.fireworks.ai (contract B.10)."""

from tidegate.dialects.base import ONLY_OPENAI, Dialect
from tidegate.dialects.messages import Rules
from tidegate.dialects.request_draft import RequestDraft
from tidegate.dialects.thinking import put_effort
from tidegate.dialects.tools import ALL_CHOICES
from tidegate.protocol.raw import as_text


def _adjust(draft: RequestDraft) -> None:
    """Row 157: request an error if the context is exceeded; Fireworks would shorten the answer without notice."""
    if as_text(draft.fields.get("context_length_exceeded_behavior")) not in {None, "error"}:
        draft.note("context_length_exceeded_behavior", "error")
    draft.put("context_length_exceeded_behavior", "error")


DIALECT = Dialect(
    name="fireworks",
    rules=Rules(reasoning="reasoning_content"),
    unsupported_fields=ONLY_OPENAI | {"chat_template_kwargs"},  # row 158
    max_tokens="max_tokens",  # row 159
    tool_choices=ALL_CHOICES - {"named"},
    required="any",  # row 163
    structured_with_tools=False,
    put_thinking=put_effort({"minimal": "low", "xhigh": "high", "max": "high"}, on="medium"),
    model_prefix="accounts/fireworks/models/",  # row 160
    first_byte_timeout_s=60.0,
    keepalive_s=30.0,
    adjust=_adjust,
)
