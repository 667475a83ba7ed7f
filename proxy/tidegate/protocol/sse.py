r"""Server-sent events (WHATWG HTML, section 9.2), as far as OpenAI-like hosts use them.

The parser accepts all that the standard allows, and some deviations of hosts: CR, LF and CRLF line ends, comments,
`event:`, `id:` and `retry:` fields, no space after the colon, data over several lines, a missing last blank line
(contract R-SSE). Events are written in one form only, `data: {…}\n\n`: openai-python crashes on events without data
(contract A.3).
"""

import json
import re
from collections.abc import Sequence
from typing import Any

from tidegate.errors import UpstreamFailed
from tidegate.protocol.lenient import describe

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"
MAX_EVENT_BYTES = 8 * 1024 * 1024
BOM = b"\xef\xbb\xbf"

_BRACE = ord("{")
_FIELD_NAMES = re.compile(rb"(?:data:\s*){1,16}")  # at the beginning of data, from hosts that send `data:` twice
_DONE_PATTERN = re.compile(rb"\[?done\]?", re.IGNORECASE)
# The line break between a line that ends with an object and a data line that begins one, without a blank line between.
_MISSING_BLANK_LINE = re.compile(rb"(?<=\})\n(?=(?:event:[^\n]{0,99}\n)?data: ?[{\[])")
_MAX_OVERLAP = len(b"}\ndata: {")  # bytes at the end of the previous read that the pattern may need
_MAX_LINES = 250_000
_MAX_OBJECTS = 50_000  # in an array, nested ones included
_NEXT_OBJECT = re.compile(rb"\n(?=[ \t]{0,16}(?:\{|data:))")
_KEEP_ALIVE_PATTERN = re.compile(r"[\[(<:]?[\w .:/-]{0,64}[\])>]?")  # `ping`, `[HEARTBEAT]`, `: keep-alive`
_ERROR_PATTERN = re.compile(r"error|fail|exception|abort|denied|overload|unavailable|timeout", re.IGNORECASE)


def frame(payloads: Sequence[bytes]) -> bytes:
    r"""Return `data: {…}\n\n` for each payload, joined for a single write; payloads must not hold a newline."""
    return b"data: " + b"\n\ndata: ".join(payloads) + b"\n\n"


def objects_in(data: bytes) -> list[bytes] | None:
    """Return the JSON objects in the data of an event; None at the end of the stream.

    Usually there is one object, and none in a keep-alive. Hosts and gateways send `null`, `[]`, `"ping"` or
    `[HEARTBEAT]` as keep-alives, `[done]` as the end, an object inside an array or a string, and `data:` twice.

    Raises:
        UpstreamFailed: the data are other text, or hold too many objects.
    """
    if data[0] == _BRACE:
        return [data]
    data = data.strip()
    if (named := _FIELD_NAMES.match(data)) is not None:
        data = data[named.end() :]
    if data.startswith(b"{"):
        return [data]
    if _DONE_PATTERN.fullmatch(data.strip(b"\"' ")) or data.startswith(b"[DONE]"):
        return None
    return _decode_objects(data)


def split_objects(data: bytes) -> list[bytes]:
    """Return the objects in data that hold several, one on each line or in a list; empty if there is at most one.

    Raises:
        UpstreamFailed: the data hold other text.
    """
    data = data.strip()
    if not data.startswith((b"{", b"[")) or data.count(b"\n") > _MAX_LINES:
        return []
    found = [each for piece in _NEXT_OBJECT.split(data) for each in objects_in(piece) or ()]
    return found if found != [data] else []


def _decode_objects(data: bytes) -> list[bytes]:
    if data.count(b"{") > _MAX_OBJECTS:
        raise UpstreamFailed(f"The upstream sent more than {_MAX_OBJECTS} objects in one event.")
    text = data.decode("utf-8", "replace")
    try:
        value: Any = json.loads(text)
    except (ValueError, RecursionError):
        value = text
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return [json.dumps(item).encode() for item in value if isinstance(item, dict)]
    if not isinstance(value, str):
        return []
    if value.startswith("{"):
        return [value.encode("utf-8", "replace")]
    if _KEEP_ALIVE_PATTERN.fullmatch(value) is None or _ERROR_PATTERN.search(value):
        raise UpstreamFailed(describe(value.encode("utf-8", "replace")), is_quoted=True)
    return []


class EventParser:
    """Parses a byte stream into the data of its events; keeps the bytes of an incomplete event.

    The results do not depend on how the bytes are split over the calls of `feed`.
    """

    __slots__ = ("_has_started", "_kept", "_skip_lf")

    def __init__(self) -> None:
        self._kept = bytearray()  # not a list of fragments, as each small bytes object would take ten times its size
        self._has_started = False
        self._skip_lf = False

    def feed(self, data: bytes) -> list[bytes]:
        """Return the data of each event that `data` completes, in order; events without data are left out.

        Raises:
            UpstreamFailed: an event grew over `MAX_EVENT_BYTES`.
        """
        if (
            data.startswith(b"data: ")
            and data.endswith(b"\n\n")
            and data.count(b"\n") == 2
            and self._is_single_plain_event(data)
        ):
            return [data[6:-2]]  # fast path: most reads hold one plain event
        if not data:
            return []
        if b"\r" in data or self._skip_lf:
            data = self._unify_line_ends(data)
        is_blank_line_split = data.startswith(b"\n") and self._kept.endswith(b"\n")
        if not is_blank_line_split and b"\n\n" not in data:
            return self._feed_without_blank_line(data)
        block = self._take(data)
        end = block.rfind(b"\n\n")
        self._keep(block[end + 2 :])
        return _events(block[:end])

    def close(self) -> list[bytes]:
        """Return the data of the last event if the stream ended without its blank line."""
        return _events(self._take(b""))

    @property
    def pending(self) -> int:
        """The number of bytes kept of an unfinished event."""
        return len(self._kept)

    def _is_single_plain_event(self, data: bytes) -> bool:
        """Whether no bytes are left over from earlier reads, and `data` is one event that needs no further parsing."""
        if self._kept or self._skip_lf or len(data) == 8 or b"\r" in data:
            return False
        self._has_started = True
        return True

    def _feed_without_blank_line(self, data: bytes) -> list[bytes]:
        """Return the events that `data` completes if the host sends no blank line between two objects."""
        tail = self._kept[-_MAX_OVERLAP:]
        if (b"}" not in tail and b"}\ndata:" not in data) or _MISSING_BLANK_LINE.search(tail + data) is None:
            self._keep(data)
            return []
        block = self._take(data)
        *_, last = _MISSING_BLANK_LINE.finditer(block)
        self._keep(block[last.end() :])
        return _events(block[: last.start()])

    def _keep(self, piece: bytes) -> None:
        self._kept += piece
        if len(self._kept) > MAX_EVENT_BYTES:
            raise UpstreamFailed(f"The upstream sent an event of more than {MAX_EVENT_BYTES} bytes.")

    def _take(self, data: bytes) -> bytes:
        block = b"".join((self._kept, data)) if self._kept else data
        self._kept = bytearray()
        if not self._has_started:
            self._has_started = True
            block = block.removeprefix(BOM)
        return block

    def _unify_line_ends(self, data: bytes) -> bytes:
        # A CR at the end of a read may be the first half of a CRLF. It is read as a line end at once, and an LF at the
        # beginning of the next read is skipped.
        if self._skip_lf and data.startswith(b"\n"):
            data = data[1:]
            if not data:
                self._skip_lf = False
                return data
        self._skip_lf = data.endswith(b"\r")
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def _events(block: bytes) -> list[bytes]:
    events = []
    for event in filter(None, block.split(b"\n\n")):
        if event.startswith(b"data: ") and b"\n" not in event and len(event) > 6:
            events.append(event[6:])
        else:
            events += filter(None, map(_data_of, _MISSING_BLANK_LINE.split(event)))
    return events


def _data_of(event: bytes) -> bytes:
    lines = event.split(b"\n")
    data = b"\n".join(_value(line) for line in lines if line == b"data" or line.startswith(b"data:"))
    is_error = any(line.startswith(b"event:") and line[6:].strip() == b"error" for line in lines)
    if not data:  # llama.cpp sends errors in a field `error:`
        data = b"\n".join(line[6:] for line in lines if line.startswith(b"error:")).strip()
        is_error = is_error or bool(data)
    if is_error and not data.lstrip().startswith(b"{"):  # only the name of the event shows that it is an error
        text = data.decode("utf-8", "replace") or "The upstream sent an error event without a message."
        return b'{"error":%b}' % json.dumps(text).encode()
    return data


def _value(line: bytes) -> bytes:
    return line[5:].removeprefix(b" ")
