"""Server-sent events are parsed as the standard says, and written in one form."""

import codecs
import random
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tidegate.errors import UpstreamFailed
from tidegate.protocol import sse
from tidegate.protocol.sse import EventParser


def read(*pieces: bytes) -> list[bytes]:
    parser = EventParser()
    events = [event for piece in pieces for event in parser.feed(piece)]
    return events + parser.close()


NEXT_OBJECT = re.compile(rb"(?<=\})\n(?=(event:[^\n]{0,99}\n)?data: ?[{\[])")


def standard(stream: bytes) -> list[bytes]:
    """Parse a stream line by line, as in WHATWG HTML 9.2.6, with three deviations.

    The last event needs no blank line (R-SSE), empty events are left out, and a blank line is inserted between a line
    that ends with an object and a data line that begins the next one.
    """
    text = stream.removeprefix(codecs.BOM_UTF8).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    text = NEXT_OBJECT.sub(b"\n\n", text)
    events, values = [], []
    for line in [*text.split(b"\n"), b""]:
        field, _, value = line.partition(b":")
        if not line:
            events += [b"\n".join(values)] if values else []
            values = []
        elif field == b"data":
            values.append(value.removeprefix(b" "))
    return [event for event in events if event]


def cut(stream: bytes, cuts: list[int]) -> list[bytes]:
    """Split `stream` into pieces, of which some may be empty."""
    ends = sorted(place % (len(stream) + 1) for place in cuts)
    return [stream[start:end] for start, end in zip([0, *ends], [*ends, len(stream)], strict=True)]


lines = st.sampled_from(
    [
        b"data: one",
        b"data:two",
        b"data:  three ",
        b"data",
        b"data:",
        b'data: {"text":"a\\nb"}',
        "data: é – 漢字 🦊".encode(),  # noqa: RUF001 - characters of several bytes
        b": comment",
        b":",
        b"event: ping",
        b"id: 1",
        b"retry: 3000",
        b"database: no",
        b" data: no",
        b"data : no",
        b"[DONE]",
        b"data: [DONE]",
        b"",
        b"",
        b"",
    ]
)
ends = st.sampled_from([b"\n", b"\r\n", b"\r"])
streams = st.builds(
    lambda bom, parts, tail: bom + b"".join(line + end for line, end in parts) + tail,
    st.sampled_from([b"", codecs.BOM_UTF8, codecs.BOM_UTF8 * 2, codecs.BOM_UTF8[:2]]),
    st.lists(st.tuples(lines, ends), max_size=12),
    st.sampled_from([b"", b"data: last", b"data: last\n", b"da", b"\r"]),
)


@given(streams)
def test_events_are_parsed_as_the_standard_says(stream):
    """Events, comments, fields and line ends have the meaning that WHATWG specifies."""
    assert read(stream) == standard(stream)


@given(streams, st.lists(st.integers(0, 10**6), max_size=8))
@example(b"data: a\r\ndata: b\r\n\r\n", [8, 8])
def test_any_split_gives_the_same_events(stream, cuts):
    """A read may end anywhere: within a character, a CRLF or the byte-order mark."""
    assert read(*cut(stream, cuts)) == read(stream)


@given(streams)
def test_a_stream_in_single_bytes_gives_the_same_events(stream):
    assert read(*(stream[at : at + 1] for at in range(len(stream)))) == read(stream)


@given(streams)
def test_reads_that_end_with_an_event_give_the_same_events(stream):
    """Most reads end with an event, and the parser has a fast path for them."""
    pieces = re.split(rb"(?<=\n\n)", stream)
    assert b"".join(pieces) == stream
    assert read(*pieces) == read(stream)


@given(st.binary(max_size=200), st.lists(st.integers(0, 10**6), max_size=8))
def test_any_split_of_any_bytes_gives_the_same_events(stream, cuts):
    assert read(*cut(stream, cuts)) == read(stream) == standard(stream)


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: a\n\ndata: b\n\n", [b"a", b"b"]),
        (b"data: a\r\n\r\ndata: b\r\n\r\n", [b"a", b"b"]),
        (b"data: a\r\rdata: b\r\r", [b"a", b"b"]),
        (b"data: a\n\r\ndata: b\r\n\n", [b"a", b"b"]),
        (b"data:a\n\n", [b"a"]),
        (b"data:  a\n\n", [b" a"]),
        (b"data: a\ndata: b\n\n", [b"a\nb"]),
        (b"data: a\ndata\ndata: b\n\n", [b"a\n\nb"]),
        (b": keep-alive\n\n:\n\ndata: a\n\n", [b"a"]),
        (b"event: ping\n\nid: 1\nretry: 3\n\ndata: a\n\n", [b"a"]),
        (b"event: x\ndata: a\nid: 7\n\n", [b"a"]),
        (b"\n\n\n\ndata: a\n\n\n\n\ndata: b\n\n", [b"a", b"b"]),
        (b"data: a", [b"a"]),
        # a blank line is missing (DeepSeek through a gateway)
        (b'data: {"a":1}\ndata: {"b":2}\ndata: [DONE]\n', [b'{"a":1}', b'{"b":2}', b"[DONE]"]),
        (b'data: {"a":1}\nevent: x\ndata: {"b":2}\n\n', [b'{"a":1}', b'{"b":2}']),
        (b'data: {"a":{}\ndata: ,"b":2}\n\n', [b'{"a":{}\n,"b":2}']),
        # the field is named `error`, not `data` (llama.cpp)
        (b'error: {"code":500}\n\n', [b'{"code":500}']),
        (b"data: a\n", [b"a"]),
        (codecs.BOM_UTF8 + b"data: a\n\n", [b"a"]),
        (b"data:\n\ndata\n\ndata: a\n\n", [b"a"]),
        (b"", []),
    ],
)
def test_what_hosts_send_is_read(stream, events):
    """These are the forms that hosts are known to send (contract R-SSE)."""
    assert read(stream) == events


def test_an_event_is_returned_with_the_bytes_that_complete_it():
    """No complete event is held back until the next read."""
    parser = EventParser()
    assert parser.feed(b"data: a") == []
    assert parser.feed(b"\n") == []
    assert parser.feed(b"\ndata: b\n\ndata: c") == [b"a", b"b"]
    assert parser.close() == [b"c"]
    assert parser.close() == []


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_a_blank_line_in_a_read_of_its_own_completes_the_event(end):
    """Hosts that flush each line send events in this way."""
    parser = EventParser()
    for number in (b"1", b"2"):
        assert parser.feed(b"data: " + number + end) == []
        assert parser.feed(end) == [number]


@pytest.mark.parametrize("stream", [b"data: \n\n", b"data:\n\n", b"data\n\n", b"data: \r\n\r\n", b"\n\n"])
def test_an_event_without_data_is_dropped(stream):
    """openai-python crashes on it."""
    assert EventParser().feed(stream) == []
    assert read(b"data: a\n\n", stream, b"data: b\n\n") == [b"a", b"b"]


def test_a_carriage_return_ends_a_line_at_once():
    """An LF may follow in the next read; the event is not held back until then."""
    parser = EventParser()
    assert parser.feed(b"data: a\r\r") == [b"a"]
    assert parser.feed(b"\ndata: b\r\r") == [b"b"]


def test_an_event_that_is_too_large_is_a_failure():
    """So an upstream cannot make the parser use unlimited memory."""
    parser = EventParser()
    piece = b"data: " + b"x" * (sse.MAX_EVENT_BYTES // 2)
    assert parser.feed(piece) == []
    with pytest.raises(UpstreamFailed, match="event of more than"):
        parser.feed(piece)


def test_many_payloads_are_framed_together():
    assert sse.frame([b'{"a":1}']) == b'data: {"a":1}\n\n'
    assert sse.frame([b"1", b"2", b"3"]) == b"data: 1\n\ndata: 2\n\ndata: 3\n\n"


@given(st.lists(st.binary(min_size=1).filter(lambda data: not {10, 13} & set(data)), min_size=1), st.randoms())
def test_what_is_framed_is_read_back(payloads, rng: random.Random):
    """Framed payloads are parsed to the same payloads, wherever reads begin and end."""
    stream = sse.frame(payloads) + sse.KEEP_ALIVE + sse.DONE
    assert read(*cut(stream, [rng.randrange(10**6) for _ in range(3)])) == [*payloads, b"[DONE]"]


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b'{"a":1}', [b'{"a":1}']),
        (b'  {"a":1}', [b'{"a":1}']),
        (b'data: {"a":1}', [b'{"a":1}']),
        (b'data: data:{"a":1}', [b'{"a":1}']),
        (b'[{"a":1},null,{"b":2}]', [b'{"a": 1}', b'{"b": 2}']),
        (b'"{\\"a\\":1}"', [b'{"a":1}']),
        *(
            (keep_alive, [])
            for keep_alive in (b"null", b"[]", b'"ping"', b"ping", b"[HEARTBEAT]", b": ping", b"5", b"true", b" ")
        ),
        *(
            (end, None)
            for end in (b"[DONE]", b"[done]", b" [DONE] ", b'"[DONE]"', b"[DONE] ", b"DONE", b"data: [DONE]")
        ),
    ],
)
def test_the_objects_in_an_event_are_found(data, found):
    """Keep-alives of any form hold no object; `[DONE]` in upper or lower case is the end."""
    assert sse.objects_in(data) == found


def test_odd_data_do_not_take_quadratic_time():
    """The first one once blocked the event loop for ten minutes, the second one for seven seconds."""
    with pytest.raises(UpstreamFailed, match="text in place of JSON"):
        sse.objects_in(b"data:" * 1_600_000)
    with pytest.raises(UpstreamFailed, match="more than 50000 objects"):
        sse.objects_in(b"[" + b"{}," * 2_600_000 + b"{}]")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"Internal Server Error", "text in place of JSON: Internal Server Error"),
        (b"[ERROR]", "text in place of JSON"),
        (b"upstream request timeout", "text in place of JSON"),
        (b"<html>502</html>", "a page of HTML"),
        (b"x" * 100, "text in place of JSON: x"),
        (b"\x1f\x8b\x08\x00\x01", "bytes that are no JSON"),
    ],
)
def test_other_text_is_a_failure(data, message):
    with pytest.raises(UpstreamFailed, match=message):
        sse.objects_in(data)


@pytest.mark.parametrize(
    ("event", "data"),
    [
        (b"event: error\ndata: overloaded\n\n", b'{"error":"overloaded"}'),
        (b'event:error\ndata: {"message":"no"}\n\n', b'{"message":"no"}'),
        (b"event: error\n\n", b'{"error":"The upstream sent an error event without a message."}'),
        (b"event: message\ndata: ping\n\n", b"ping"),
    ],
)
def test_an_event_named_error_is_an_error(event, data):
    """Other event names have no meaning here."""
    assert read(event) == [data]


def test_pending_counts_the_bytes_of_an_unfinished_event():
    parser = EventParser()
    parser.feed(b"data: a\n\ndata: bc")
    assert parser.pending == len(b"data: bc")


def test_an_object_is_returned_before_the_next_one_is_complete():
    """This holds if there are no blank lines between events."""
    parser = EventParser()
    assert parser.feed(b'data: {"a":1}\n') == []
    assert parser.feed(b"da") == []
    assert parser.feed(b'ta: {"b"') == [b'{"a":1}']
    assert parser.feed(b":2}\n\n") == [b'{"b":2}']


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b'{"a":1}\n{"b":2}\n', [b'{"a":1}', b'{"b":2}\n'.strip()]),
        (b'{"a":1}\n\ndata: [DONE]\n', [b'{"a":1}\n']),
        (b'{"a":"hal\n{"error":"gone"}', [b'{"a":"hal', b'{"error":"gone"}']),
        (b'[{"a": 1}, {"b": 2}]', [b'{"a": 1}', b'{"b": 2}']),
        (b'{"a":1}', []),
        (b"<html>\n{}", []),
        (b"{" + b"\n{" * 300_000, []),
    ],
)
def test_lines_of_objects_are_split(data, found):
    assert sse.split_objects(data) == found


@pytest.mark.parametrize("line", [b"id:}\n", b"}\ndata: }\n", b"}   \n", b"}\ndata: x\n", b"error: {\n", b"data: {}\n"])
def test_missing_blank_lines_are_found_in_large_and_small_reads_alike(line):
    """Each line is searched at most twice. If every read searched them all again, this test would take minutes."""
    stream = line * (4 * 1024 * 1024 // len(line))
    parser, whole = EventParser(), EventParser()
    events = [event for at in range(0, len(stream), 65536) for event in parser.feed(stream[at : at + 65536])]
    assert events + list(parser.close()) == list(whole.feed(stream)) + list(whole.close())
