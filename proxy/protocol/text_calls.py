"""Which text of an answer is a tool call, where the model was asked to write its calls as JSON text."""

from msgspec import Struct


class TextCalls(Struct, frozen=True, kw_only=True):
    """What a text must be to be read as calls: `{"name": …, "arguments": {…}}` and nothing else.

    Attributes:
        names: of the tools that were offered.
        is_forced: the host holds the text to one such object, so that it can be passed on as it comes; else the text is
            held back as long as it may be one.
        one_call: only the first call is wanted.
        field: how the caller offered the tools, `tools` or `functions`.
    """

    names: frozenset[str]
    is_forced: bool = False
    one_call: bool = False
    field: str = "tools"
