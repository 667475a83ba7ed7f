"""SGLang's OpenAI server (contract B.3)."""

from tidegate.dialects.base import ENGINE_PARTS, ONLY_OPENAI, Dialect
from tidegate.dialects.messages import Rules
from tidegate.dialects.request_draft import RequestDraft
from tidegate.dialects.thinking import Thinking, put_effort, put_template_switch

_put_effort = put_effort(off=None)


def _put_thinking(draft: RequestDraft, thinking: Thinking) -> None:
    _put_effort(draft, thinking)
    if thinking.is_on is not None:
        put_template_switch(draft, ("thinking", "enable_thinking"), is_on=thinking.is_on)


DIALECT = Dialect(
    name="sglang",
    rules=Rules(reasoning="reasoning_content", merges_system=True),
    unsupported_fields=ONLY_OPENAI,
    parts=ENGINE_PARTS,
    fetches_urls=False,
    structured_with_forced_tool=False,  # row 86
    keeps_template_kwargs=True,
    may_lack_parser=True,
    leaks_markup=True,
    put_thinking=_put_thinking,
    answer_prefix="vllm",
    reasoning_may_be_answer=True,
)
