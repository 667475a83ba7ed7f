"""api.groq.com (contract B.9)."""

from tidegate.dialects.base import ONLY_OPENAI, Dialect
from tidegate.dialects.messages import Rules
from tidegate.dialects.thinking import put_effort

DIALECT = Dialect(
    name="groq",
    rules=Rules(reasoning="reasoning", takes_names=False),  # rows 146, 150
    unsupported_fields=ONLY_OPENAI | {"logprobs", "top_logprobs", "logit_bias", "n", "chat_template_kwargs"},  # row 146
    max_tokens="max_completion_tokens",
    put_thinking=put_effort({"minimal": "low", "xhigh": "high", "max": "high"}, on="default"),  # row 149
    first_byte_timeout_s=60.0,
    keepalive_s=30.0,
)
