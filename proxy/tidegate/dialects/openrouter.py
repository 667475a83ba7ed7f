"""openrouter.ai (contract B.12): a router to many providers, which supports most of OpenAI's fields."""

from tidegate.dialects.base import OPENAI_PARTS, Dialect
from tidegate.dialects.messages import Rules
from tidegate.dialects.request_draft import RequestDraft
from tidegate.dialects.thinking import Thinking, translate_effort

_EFFORTS = {"max": "xhigh"}


def _put_thinking(draft: RequestDraft, thinking: Thinking) -> None:
    settings: dict[str, object] = dict(thinking.rest)
    if thinking.is_on is False:
        settings["enabled"] = False
    elif thinking.effort is not None:
        settings["effort"] = translate_effort(draft, thinking.effort, _EFFORTS)
    elif thinking.budget is not None:
        settings["max_tokens"], thinking.budget = thinking.budget, None
    elif thinking.is_on:
        settings["enabled"] = True
    thinking.rest = {}
    if settings:
        draft.put("reasoning", settings)


DIALECT = Dialect(
    name="openrouter",
    rules=Rules(
        reasoning="reasoning",  # rows 174, 179
        keeps_reasoning_details=True,
        keeps_extra_content=True,
        keeps_cache_control=True,  # without `cache_control`, Anthropic's models cache nothing
    ),
    unsupported_fields=frozenset({"chat_template_kwargs"}),
    supports_tool_types=True,
    parts=OPENAI_PARTS | {"video_url", "input_video"},
    put_thinking=_put_thinking,
    stand_in=" ",
    first_byte_timeout_s=60.0,
    keepalive_s=30.0,
    id_header="x-generation-id",  # row 178
)
