"""`ReasoningPreface`: text that a stream shows as reasoning before the answer, such as the progress of loading a model.

The answer follows in the same stream.
"""

from tidegate.protocol.reasoning import ReasoningFormat
from tidegate.streaming.chat import ChatWriter
from tidegate.streaming.filters import Filter, in_format
from tidegate.streaming.sinks import Envelope, Sink, Writer


class ReasoningPreface:
    """Writes reasoning in the first choice of a stream, before the answer. Owned by one request, sans-I/O.

    Attributes:
        envelope: the envelope of the stream, which the answer must use too.
        text: all text so far.
        take: returns the payloads since the last call, in a list that is not used again.
        heartbeat: returns a chunk without content.
    """

    __slots__ = ("_sink", "_writer", "envelope", "heartbeat", "take", "text")

    def __init__(self, envelope: Envelope, *, wants_usage: bool, form: ReasoningFormat) -> None:
        self.envelope = envelope
        self.text = ""
        self._writer = ChatWriter(envelope, wants_usage=wants_usage, form=form)
        self._sink = in_format(self._writer, form)
        self.take = self._writer.take
        self.heartbeat = self._writer.heartbeat

    def add(self, text: str) -> None:
        """Add text to the reasoning; `take` returns its payloads."""
        if not self.text:
            self._sink.open(0)
        self.text += text
        self._sink.reasoning(0, text)

    def sink_after(self, sink: Sink, writer: Writer) -> Sink:
        """Return the sink for the answer after the preface: `sink` with a filter in front.

        Args:
            sink: the sink for an answer without a preface.
            writer: the writer behind `sink`.
        """
        return _AfterPreface(sink, writer, self)


class _AfterPreface(Filter):
    """Brings the sinks of an answer into the state after the preface.

    When the first choice opens, the text of the preface is sent to the sinks once more, and the resulting payloads are
    deleted, because the caller already has them. So the role is sent once, and if reasoning is shown between tags, the
    answer's reasoning continues within the tags that the preface has opened.
    """

    __slots__ = ("_preface", "_writer")

    def __init__(self, sink: Sink, writer: Writer, preface: ReasoningPreface) -> None:
        super().__init__(sink)
        self._writer = writer
        self._preface = preface

    def open(self, index: int) -> None:
        earlier = len(self._writer.payloads)
        self._sink.open(index)
        if index == 0 and self._preface.text:
            self._sink.reasoning(0, self._preface.text)
            del self._writer.payloads[earlier:]
