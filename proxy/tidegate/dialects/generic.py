"""A host nobody has described yet: the plainest form of every field, which OpenAI-like servers take.

It may be a router in front of OpenAI, so nothing that OpenAI has is held back.
"""

from tidegate.dialects.base import ENGINE_PARTS, OPENAI_PARTS, Dialect
from tidegate.dialects.messages import Rules

DIALECT = Dialect(
    name="generic",
    rules=Rules(
        reasoning="reasoning_content",
        keeps_reasoning_details=True,
        keeps_extra_content=True,
        keeps_cache_control=True,
    ),
    knows_tool_types=True,
    needs_parameters=True,
    parts=OPENAI_PARTS | ENGINE_PARTS | {"input_video"},
    leaves_template=True,
    may_lack_parser=True,
    leaks_markup=True,
    put_thinking=None,
    stand_in=" ",
    takes_base64=False,
)
