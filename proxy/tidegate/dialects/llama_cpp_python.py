"""llama-cpp-python's server (contract B.5)."""

from msgspec import Raw

from tidegate.dialects.base import ONLY_OPENAI, Dialect
from tidegate.dialects.messages import Rules
from tidegate.dialects.thinking import put_no_switch

DIALECT = Dialect(
    name="llama_cpp_python",
    rules=Rules(merges_system=True, takes_null_content=False),
    unsupported_fields=ONLY_OPENAI | {"n", "best_of", "chat_template_kwargs"},  # row 110: are ignored
    max_tokens="max_tokens",
    default_max_tokens=4096,  # row 109: without a limit it generates up to the end of its context window
    defaults={"repeat_penalty": Raw(b"1.0")},  # row 110: its default is 1.1, a penalty that the caller did not request
    fetches_urls=False,
    structured="json_object",
    may_lack_parser=True,
    leaks_markup=True,
    put_thinking=put_no_switch,
    takes_stream_options=False,
)
