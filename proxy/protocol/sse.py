r"""Server-sent events (WHATWG HTML, section 9.2), as far as OpenAI-like hosts use them.

Reading accepts everything the standard allows and some hosts do: CR, LF and CRLF line ends, comments, `event:`, `id:`
and `retry:` fields, no space after the colon, data over several lines, a missing last blank line (contract R-SSE).
Writing knows one form only, `data: {…}\n\n`: openai-python crashes on events without data (contract A.3).
"""

from collections.abc import Sequence

from proxy.errors import UpstreamFailed

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"
MAX_EVENT_BYTES = 8 * 1024 * 1024

_BOM = b"\xef\xbb\xbf"


def frame(payloads: Sequence[bytes]) -> bytes:
    r"""`data: {…}\n\n` for each payload, as one piece of bytes to be written at once; payloads hold no newline."""
    return b"data: " + b"\n\ndata: ".join(payloads) + b"\n\n"


class EventParser:
    """Cuts a byte stream into the data of its events; owns the bytes of an unfinished event.

    However the bytes are split over `feed` calls, the sequence of results is the same.
    """

    __slots__ = ("_has_started", "_skip_lf", "_tail")

    def __init__(self) -> None:
        self._tail = b""
        self._has_started = False
        self._skip_lf = False

    def feed(self, data: bytes) -> list[bytes]:
        """The data of each event that `data` completes, in order; events without data are left out.

        Raises:
            UpstreamFailed: an event grew over `MAX_EVENT_BYTES`.
        """
        if not data:
            return []
        if b"\r" in data or self._skip_lf:
            data = self._unify_line_ends(data)
        if self._tail:
            data = self._tail + data
        if not self._has_started:
            data = self._strip_bom(data)
        end = data.rfind(b"\n\n")
        if end < 0:
            self._keep(data)
            return []
        self._keep(data[end + 2 :])
        return _events(data[:end])

    def close(self) -> list[bytes]:
        """The data of a last event whose blank line never came."""
        tail, self._tail = self._tail, b""
        return _events(tail)

    def _keep(self, tail: bytes) -> None:
        if len(tail) > MAX_EVENT_BYTES:
            raise UpstreamFailed(f"the upstream sent an event of more than {MAX_EVENT_BYTES} bytes")
        self._tail = tail

    def _unify_line_ends(self, data: bytes) -> bytes:
        # A CR at the end of one read may be the first half of a CRLF: it counts at once, its LF is skipped later.
        if self._skip_lf and data.startswith(b"\n"):
            data = data[1:]
            if not data:
                self._skip_lf = False
                return data
        self._skip_lf = data.endswith(b"\r")
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _strip_bom(self, data: bytes) -> bytes:
        if len(data) < len(_BOM) and _BOM.startswith(data):
            return data
        self._has_started = True
        return data.removeprefix(_BOM)


def _events(block: bytes) -> list[bytes]:
    events = []
    for event in block.split(b"\n\n"):
        is_plain = event.startswith(b"data: ") and b"\n" not in event
        data = event[6:] if is_plain else _data_of(event)
        if data:
            events.append(data)
    return events


def _data_of(event: bytes) -> bytes:
    return b"\n".join(_value(line) for line in event.split(b"\n") if line == b"data" or line.startswith(b"data:"))


def _value(line: bytes) -> bytes:
    return line[5:].removeprefix(b" ")
