"""Endless streams of a broken or hostile host: `python -m tests.fuzz.floods` sends 100 MB of each.

Prints a line of JSON for each flood: its name, how it ended, and the peak growth of this process's memory in MB.
"""

import json
import re
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path

from msgspec import Raw

from tidegate.dialects import events
from tidegate.errors import ProxyError
from tidegate.protocol.chat import HostAnswerFormat
from tidegate.protocol.sse import EventParser
from tidegate.streaming.chat import ChatWriter
from tidegate.streaming.choices import ChoiceStream
from tidegate.streaming.filters import ReasoningRecorder
from tidegate.streaming.sinks import Envelope

_SIZE = 100 * 1024 * 1024
_READ = 64 * 1024
_TOOLS = Raw(b'[{"type":"function","function":{"name":"f"}}]')
_READING = HostAnswerFormat(thought_tags=("think",), leaks_markup=True, tools=_TOOLS, reasoning_may_be_answer=True)
_BEGIN = "<｜tool▁calls▁begin｜>"


def _event(delta: dict) -> bytes:
    return b"data: %b\n\n" % json.dumps({"choices": [{"index": 0, "delta": delta}]}).encode()


def _call(arguments: str) -> dict:
    return {"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": arguments}}]}


_TEXT = "x" * 1000
FLOODS = {  # the first bytes, and the bytes that are then repeated without end
    "an event without an end": (b"data: ", b"x" * 1000),
    "a line of no field": (b"", b"x" * 1000),
    "lines without a blank one": (b"", b"data: x\n" * 100),
    "blank lines": (b"", b"\n" * 1000),
    "comments": (b"", b": %b\n\n" % (b"-" * 200)),
    "comments without a blank line": (b"", b": keep-alive\n" * 100),
    "small events": (b"", _event({"content": "a"}) + b": %b\n\n" % (b"-" * 400)),
    "thinking": (b"", _event({"reasoning": _TEXT})),
    "thinking between tags": (_event({"content": "<think>"}), _event({"content": _TEXT})),
    "white space where a tag may begin": (b"", _event({"content": " " * 1000})),
    "a call in markup": (_event({"content": _BEGIN}), _event({"content": _TEXT})),
    "a call in markup, in small pieces": (_event({"content": _BEGIN}), _event({"content": "xy"})),
    "arguments of a call": (b"", _event(_call(_TEXT))),
    "arguments of a call, in small pieces": (b"", _event(_call("x" * 100))),
    "a name that does not come": (b"", _event({"tool_calls": [{"index": 0, "function": {"arguments": _TEXT}}]})),
    "small values": (b'data: {"choices":[', b"{}," * 1000),
    "annotations": (_event({"content": "a"}), _event({"annotations": [{"text": _TEXT}]})),
}


def _reads(first: bytes, repeated: bytes) -> Iterator[bytes]:
    yield first
    block = repeated * (_READ // len(repeated) + 1)
    yield from repeat(block, _SIZE // len(block) + 1)


def _end_of(first: bytes, repeated: bytes) -> str:
    """Return the error in which the flood ends; written output is removed at once, as by a caller that reads it."""
    writer = ChatWriter(Envelope("chatcmpl-own", 1_700_000_000, "model"), wants_usage=True)
    parser, answer = EventParser(), ChoiceStream(ReasoningRecorder(writer), _READING)
    try:
        for data in _reads(first, repeated):
            for event in parser.feed(data):
                answer.accept(events.parse(event))
            writer.take()
        answer.close()
    except ProxyError as error:
        return f"{error.code}: {error.message}"
    return "whole"


def _peak_mb() -> float:
    """Return the peak memory of this program alone; the peak of `resource` includes that of the parent process."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024


def main() -> None:
    before_mb = _peak_mb()
    for name, (first, repeated) in FLOODS.items():
        print(json.dumps([name, _end_of(first, repeated), _peak_mb() - before_mb]), flush=True)


if __name__ == "__main__":
    main()
