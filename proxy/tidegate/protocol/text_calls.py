"""`TextCalls`: how tool calls are read from text, if the prompt tells the model to write its calls as JSON text."""

from msgspec import Struct


class TextCalls(Struct, frozen=True, kw_only=True):
    """Settings for reading an answer that holds only objects `{"name": …, "arguments": {…}}` as tool calls.

    Attributes:
        names: the names of the offered tools.
        is_forced: a schema restricts the answer to one such object, so its arguments are passed on as they arrive;
            otherwise text is held back as long as it may be a call.
        one_call: only the first call is passed on, further calls are dropped.
        field: the request field that offered the tools, `tools` or `functions`.
    """

    names: frozenset[str]
    is_forced: bool = False
    one_call: bool = False
    field: str = "tools"
