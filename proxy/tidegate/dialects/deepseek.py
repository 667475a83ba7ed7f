"""api.deepseek.com (contract B.1)."""

import hashlib

from tidegate.dialects import structured, tools
from tidegate.dialects.base import ONLY_OPENAI, Dialect
from tidegate.dialects.messages import Rules
from tidegate.dialects.request_draft import RequestDraft
from tidegate.dialects.thinking import Thinking, translate_effort
from tidegate.protocol.raw import as_text

_EFFORTS = {"minimal": "low", "medium": "high", "xhigh": "high", "ultra": "max"}  # row 2


def _put_thinking(draft: RequestDraft, thinking: Thinking) -> None:
    """Rows 1 and 2: send the switch for thinking in the body, and the effort on DeepSeek's scale of three values."""
    if thinking.is_on is not None:
        draft.put("thinking", {"type": "enabled" if thinking.is_on else "disabled"})
    if thinking.effort is not None and thinking.is_on is not False:
        draft.put("reasoning_effort", translate_effort(draft, thinking.effort, _EFFORTS))


def _adjust(draft: RequestDraft) -> None:
    _put_user_id(draft)
    tools.strip_strict(draft)
    structured.mention_json(draft)


def _put_user_id(draft: RequestDraft) -> None:
    """Row 16: send a hash of the user as `user_id`, by which DeepSeek separates its cache.

    `user_id` allows few characters, and the names of users are often e-mail addresses.
    """
    older, newer = (as_text(draft.fields.pop(name, None)) for name in ("user", "safety_identifier"))
    if (user := newer or older) and "user_id" not in draft.fields:
        draft.put("user_id", hashlib.sha256(user.encode()).hexdigest())


DIALECT = Dialect(
    name="deepseek",
    paths={"chat": "/chat/completions", "completions": "/beta/completions"},
    rules=Rules(reasoning="reasoning_content"),  # row 10
    unsupported_fields=(ONLY_OPENAI - {"safety_identifier"})
    | {"n", "seed", "logit_bias", "parallel_tool_calls", "chat_template_kwargs"},  # row 14
    max_tokens="max_tokens",  # row 3
    needs_parameters=True,
    forces_tools_while_thinking=False,  # row 9
    structured="json_object",  # row 7
    put_thinking=_put_thinking,
    answer_prefix="deepseek_beta",  # row 15
    thinks_by_default=True,
    needs_past_reasoning=True,
    stand_in=" ",
    leaks_markup=True,  # row 32
    first_byte_timeout_s=60.0,
    keepalive_s=30.0,
    adjust=_adjust,
    adjust_completion=_put_user_id,
)
