"""`Preface`: text that a stream shows as reasoning before its answer, and the answer after it in the same stream."""

from tidegate.protocol.reasoning import ReasoningFormat
from tidegate.streaming.chat import ChatWriter
from tidegate.streaming.filters import Filter, in_format
from tidegate.streaming.sinks import Envelope, Sink, Writer


class Preface:
    """Reasoning in the first choice of a stream, ahead of the answer. Owned by one request, sans-I/O.

    Attributes:
        envelope: also that of the answer.
        text: all text so far.
    """

    __slots__ = ("_sink", "_writer", "envelope", "heartbeat", "take", "text")

    def __init__(self, envelope: Envelope, *, wants_usage: bool, form: ReasoningFormat) -> None:
        self.envelope = envelope
        self.text = ""
        self._writer = ChatWriter(envelope, wants_usage=wants_usage, form=form)
        self._sink = in_format(self._writer, form)
        self.take = self._writer.take
        self.heartbeat = self._writer.heartbeat

    def tell(self, text: str) -> None:
        """Add text to the reasoning; `take` returns its payloads."""
        if not self.text:
            self._sink.open(0)
        self.text += text
        self._sink.reasoning(0, text)

    def sink_after(self, sink: Sink, writer: Writer) -> Sink:
        """The sink for the answer: `sink`, which leads to `writer`, continued after the preface."""
        return _AfterPreface(sink, writer, self)


class _AfterPreface(Filter):
    """Brings the sinks of an answer to the state after the preface, whose payloads have left and are not sent twice.

    So the role is sent once, and reasoning that the preface has begun in tags goes on within the same tags.
    """

    __slots__ = ("_preface", "_writer")

    def __init__(self, sink: Sink, writer: Writer, preface: Preface) -> None:
        super().__init__(sink)
        self._writer = writer
        self._preface = preface

    def open(self, index: int) -> None:
        earlier = len(self._writer.payloads)
        self._sink.open(index)
        if index == 0 and self._preface.text:
            self._sink.reasoning(0, self._preface.text)
            del self._writer.payloads[earlier:]
