"""api.openai.com: the reference, so almost nothing is changed (contract rows 193-196)."""

from tidegate.dialects.base import OPENAI_PARTS, Dialect
from tidegate.dialects.messages import Rules

DIALECT = Dialect(
    name="openai",
    rules=Rules(is_reference=True),
    max_tokens="max_completion_tokens",  # row 193: reasoning models refuse the old name
    supports_tool_types=True,
    parts=OPENAI_PARTS,
    thought_tags=(),
    top_level=frozenset({"system_fingerprint"}),
    first_byte_timeout_s=60.0,
    keepalive_s=30.0,
)
