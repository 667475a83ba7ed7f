"""Which text of an answer is a tool call, if the model was asked to write its calls as JSON text."""

from msgspec import Struct


class TextCalls(Struct, frozen=True, kw_only=True):
    """Text of the form `{"name": …, "arguments": {…}}`, and nothing else, is read as calls.

    Attributes:
        names: the names of the offered tools.
        is_forced: a schema holds the answer to one such object, so that its arguments are passed on as they arrive;
            otherwise text is held back as long as it may be a call.
        one_call: only the first call is wanted.
        field: the request field that offered the tools, `tools` or `functions`.
    """

    names: frozenset[str]
    is_forced: bool = False
    one_call: bool = False
    field: str = "tools"
