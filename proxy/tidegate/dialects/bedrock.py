"""Amazon Bedrock's OpenAI endpoint (contract B.14, rows 188-192); the base URL contains the region."""

from tidegate.dialects.base import ONLY_OPENAI, Dialect
from tidegate.dialects.messages import Rules

DIALECT = Dialect(
    name="bedrock",
    rules=Rules(reasoning="reasoning_content"),
    unsupported_fields=ONLY_OPENAI | {"logit_bias", "chat_template_kwargs"},  # row 192
    max_tokens="max_tokens",
    thought_tags=("think", "reasoning"),  # row 190
    has_positional_call_ids=True,  # row 191
    first_byte_timeout_s=60.0,
    keepalive_s=30.0,
    id_header="x-amzn-requestid",
)
