"""A host without a dialect of its own: every field is sent in its simplest form, which OpenAI-like servers accept.

The host may be a router in front of OpenAI, so no field that OpenAI supports is left out.
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
    supports_tool_types=True,
    needs_parameters=True,
    parts=OPENAI_PARTS | ENGINE_PARTS | {"input_video"},
    keeps_template_kwargs=True,
    may_lack_parser=True,
    leaks_markup=True,
    put_thinking=None,
    stand_in=" ",
    takes_base64=False,
)
