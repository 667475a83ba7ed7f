"""`StreamContinuation`: what the parts of one answer share, if other targets may continue it after a break."""

import msgspec
from msgspec import Raw

from tidegate.pipeline.attempt.writers import after_preface, writer_for
from tidegate.pipeline.context import RequestContext
from tidegate.protocol.request import Fields, ModelRequest, json_type
from tidegate.streaming.filters import in_format
from tidegate.streaming.splice import StreamSplice

_LIMITS = ("max_tokens", "max_completion_tokens")


class StreamContinuation:
    """The writer of the answer, and the splice that joins its parts; each attempt at the first part makes a new one.

    Attributes:
        targets: the names of the targets that gave the parts; the last one may not have answered yet.
        writer: writes all parts as one stream.
        splice: the sink before the writer; records the text so far and drops what a part repeats of it.
    """

    def __init__(self, request: ModelRequest, context: RequestContext, target: str) -> None:
        self.targets = [target]
        self.writer = writer_for(request, context)
        is_chat = request.endpoint == "chat"
        sink = in_format(self.writer, context.reasoning_format) if is_chat else self.writer
        self.splice = StreamSplice(after_preface(sink, self.writer, context))

    def begin_rest(self, request: ModelRequest) -> ModelRequest:
        """Return the request for the rest of the answer to `request`; the splice takes what follows as that rest.

        Token limits are lowered by what the parts so far have used, but not below 1.
        """
        self.splice.begin_rest()
        fields: Fields = dict(request.fields)
        for name in _LIMITS:
            limit = fields.get(name)
            if limit is not None and json_type(limit) == "number":
                fields[name] = Raw(b"%d" % max(1, int(bytes(limit)) - self.splice.tokens))
        return msgspec.structs.replace(request, fields=fields, prefix=self.splice.text)

    def add_target(self, target: str) -> None:
        """Add the target of the next part, and name it in the field `x_tidegate` of the answer's last chunk.

        The field is set before the part begins, as its first read may hold the last chunk too.
        """
        self.targets.append(target)
        mark = {"continued": len(self.targets) - 1, "targets": self.targets}
        self.writer.finish_field = b'"x_tidegate":' + msgspec.json.encode(mark)
