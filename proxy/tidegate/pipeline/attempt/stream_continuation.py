"""`StreamContinuation`: what the parts of one answer have in common, where it may go on at another target after a break."""

import msgspec
from msgspec import Raw

from tidegate.pipeline.attempt.writers import after_preface, writer_for
from tidegate.pipeline.context import RequestContext
from tidegate.protocol.request import Fields, ModelRequest, json_type
from tidegate.streaming.filters import in_format
from tidegate.streaming.splice import StreamSplice

_LIMITS = ("max_tokens", "max_completion_tokens")


class StreamContinuation:
    """A writer, and the splice before it; one for each try at the first part.

    Attributes:
        targets: those that gave the parts, by name; the last one may only be about to.
    """

    def __init__(self, request: ModelRequest, context: RequestContext, target: str) -> None:
        self.targets = [target]
        self.writer = writer_for(request, context)
        is_chat = request.endpoint == "chat"
        sink = in_format(self.writer, context.reasoning_format) if is_chat else self.writer
        self.splice = StreamSplice(after_preface(sink, self.writer, context))

    def join(self, request: ModelRequest) -> ModelRequest:
        """What to ask for the rest of the answer to `request`; what is told from now on is that rest."""
        self.splice.join()
        fields: Fields = dict(request.fields)
        for name in _LIMITS:
            limit = fields.get(name)
            if limit is not None and json_type(limit) == "number":
                fields[name] = Raw(b"%d" % max(1, int(bytes(limit)) - self.splice.tokens))
        return msgspec.structs.replace(request, fields=fields, prefix=self.splice.text)

    def hand_on(self, target: str) -> None:
        """What comes next is from there; the last chunk will say so, which may come with the first."""
        self.targets.append(target)
        told = {"continued": len(self.targets) - 1, "targets": self.targets}
        self.writer.mark = b'"x_tidegate":' + msgspec.json.encode(told)
