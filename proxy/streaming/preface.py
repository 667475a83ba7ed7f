"""`Preface`: what a stream tells as thinking before its answer comes, and the answer told behind it as one stream."""

from proxy.protocol.reasoning import ReasoningFormat
from proxy.streaming.chat import ChatWriter
from proxy.streaming.filters import Filter, in_format
from proxy.streaming.sinks import Envelope, Sink, Writer


class Preface:
    """Reasoning in the first choice of a stream, ahead of the answer. Owned by one request, sans-I/O.

    Attributes:
        envelope: that of the answer too.
        text: everything that was told; empty while nothing was.
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
        """Add to the reasoning; the payloads are there for `take`."""
        if not self.text:
            self._sink.open(0)
        self.text += text
        self._sink.reasoning(0, text)

    def sink_after(self, sink: Sink, writer: Writer) -> Sink:
        """What an answer is to be told to: `sink`, which leads to `writer`, behind what is told until then."""
        return _AfterPreface(sink, writer, self)


class _AfterPreface(Filter):
    """Takes the sinks of an answer to where the preface has ended: its payloads have left, and are not made again.

    So the role is told once, and thinking that the preface has begun in tags goes on in the same ones.
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
