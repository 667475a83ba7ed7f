"""Ollama's OpenAI endpoint (contract B.6)."""

from tidegate.dialects.base import ONLY_OPENAI, Dialect
from tidegate.dialects.messages import Rules
from tidegate.dialects.thinking import put_effort

DIALECT = Dialect(
    name="ollama",
    rules=Rules(reasoning="reasoning", merges_system=True, takes_null_content=False),  # rows 118, 122
    unsupported_fields=ONLY_OPENAI
    | {"n", "logit_bias", "parallel_tool_calls", "user", "chat_template_kwargs"}  # row 115
    | {"best_of", "echo"},  # fields of legacy completions
    max_tokens="max_tokens",  # row 114
    tool_choices=frozenset({"auto"}),
    fetches_urls=False,  # row 117
    put_thinking=put_effort({"minimal": "low", "xhigh": "max", "ultra": "max"}, on="medium"),  # row 121
    leaks_markup=True,
)
