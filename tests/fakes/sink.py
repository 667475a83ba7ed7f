"""`RecordingSink`: a sink that records its calls."""


class RecordingSink:
    """A `tidegate.streaming.sinks.Sink`; `calls` holds the name and the arguments of each call, in order."""

    def __init__(self) -> None:
        self.calls = []

    def top_level(self, name, value) -> None:
        self.calls.append(("top_level", name, bytes(value)))

    def open(self, index) -> None:
        self.calls.append(("open", index))

    def content(self, index, text, logprobs) -> None:
        self.calls.append(("content", index, text) if logprobs is None else ("content", index, text, logprobs))

    def reasoning(self, index, text) -> None:
        self.calls.append(("reasoning", index, text))

    def refusal(self, index, text) -> None:
        self.calls.append(("refusal", index, text))

    def tool(self, index, piece) -> None:
        self.calls.append(("tool", index, piece))

    def extra(self, index, name, value) -> None:
        self.calls.append(("extra", index, name, bytes(value)))

    def finish(self, index, reason) -> None:
        self.calls.append(("finish", index, reason))

    def usage(self, usage) -> None:
        self.calls.append(("usage", usage))
