"""Azure OpenAI and AI Foundry (contract B.13): OpenAI's API at other URLs.

With `api_version`, the older URLs are used: `/openai/deployments/NAME/…?api-version=…` below the resource's address.
Without it, the newer `/openai/v1` is used, which has to be part of the base URL.
"""

from tidegate.dialects.base import OPENAI_PARTS, Dialect
from tidegate.dialects.messages import Rules
from tidegate.dialects.request_draft import RequestDraft

_RENAMED = "2024-09"  # `max_completion_tokens` exists since 2024-09-01-preview


def _adjust(draft: RequestDraft) -> None:
    """Send `max_tokens` to older API versions, which support no other name and whose models all accept it."""
    if draft.api_version is not None and draft.api_version < _RENAMED:
        limit = draft.fields.pop("max_completion_tokens", None)
        if limit is not None:
            draft.fields["max_tokens"] = limit


DIALECT = Dialect(
    name="azure",
    rules=Rules(is_reference=True),
    max_tokens="max_completion_tokens",  # reasoning models refuse `max_tokens`
    supports_tool_types=True,
    parts=OPENAI_PARTS,
    thought_tags=(),
    top_level=frozenset({"system_fingerprint"}),
    first_byte_timeout_s=60.0,
    keepalive_s=30.0,
    key_header="api-key",  # row 180
    adjust=_adjust,
)
