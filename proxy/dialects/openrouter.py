"""openrouter.ai (contract B.12): a router in front of many, which knows most of what OpenAI knows."""

from proxy.dialects.base import OPENAI_PARTS, Dialect
from proxy.dialects.draft import Draft
from proxy.dialects.messages import Rules
from proxy.dialects.thinking import Thinking, word

_EFFORTS = {"max": "xhigh"}


def _put_thinking(draft: Draft, thinking: Thinking) -> None:
    if thinking.is_on is False:
        draft.put("reasoning", {"enabled": False})
    elif thinking.effort is not None:
        draft.put("reasoning", {"effort": word(draft, thinking.effort, _EFFORTS)})
    elif thinking.budget is not None:
        draft.put("reasoning", {"max_tokens": thinking.budget})
    elif thinking.is_on:
        draft.put("reasoning", {"enabled": True})


DIALECT = Dialect(
    name="openrouter",
    rules=Rules(reasoning="reasoning", keeps_reasoning_details=True),  # rows 174, 179
    lacks=frozenset({"chat_template_kwargs"}),
    knows_tool_types=True,
    parts=OPENAI_PARTS,
    put_thinking=_put_thinking,
    stand_in=" ",
    first_byte_timeout_s=60.0,
    keepalive_s=30.0,
    id_header="x-generation-id",  # row 178
)
