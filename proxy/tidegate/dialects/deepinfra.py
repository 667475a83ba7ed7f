"""api.deepinfra.com (contract B.14)."""

from tidegate.dialects.base import ONLY_OPENAI, Dialect
from tidegate.dialects.messages import Rules

DIALECT = Dialect(
    name="deepinfra",
    rules=Rules(reasoning="reasoning_content"),
    unsupported_fields=ONLY_OPENAI,
    max_tokens="max_tokens",
    tool_choices=frozenset({"auto", "none"}),  # row 185
    structured="json_object",
    keeps_template_kwargs=True,
    first_byte_timeout_s=60.0,
    keepalive_s=30.0,
)
