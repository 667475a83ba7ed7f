"""The targets of the fuzzer: each takes any bytes, and returns nothing if all is well.

Any exception that a target raises is a bug of Tidegate, `AssertionError` included. The code may raise only
`ProxyError`, which the targets catch. Inputs have the form of the wire, so that a corpus can be read: `framing` and
`stream` take the bytes of a host's event stream (or of its unary answer), `errors` takes a status, headers and a body
as HTTP writes them, `request` takes the body of a caller.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from itertools import product

from msgspec import Raw

from tests.fakes import canonical
from tests.unit import chunks
from tidegate.config.cards import UNKNOWN, Card
from tidegate.dialects import events, failures, history
from tidegate.dialects.registry import DIALECTS
from tidegate.errors import ProxyError
from tidegate.protocol import chat, completions, embeddings
from tidegate.protocol.chat import Chunk, HostAnswerFormat
from tidegate.protocol.errors import to_headers, to_json
from tidegate.protocol.reasoning import ReasoningFormat, reasoning_names, take_format
from tidegate.protocol.request import ModelRequest
from tidegate.protocol.sse import EventParser, frame, objects_in
from tidegate.streaming.chat import ChatAssembler, ChatWriter
from tidegate.streaming.choices import ChoiceStream
from tidegate.streaming.completions import CompletionAssembler, CompletionWriter
from tidegate.streaming.filters import FunctionCallFilter, ReasoningRecorder, in_format
from tidegate.streaming.sinks import Envelope, Sink

Parse = Callable[[bytes], Chunk]

_DONE = b"[DONE]"
_MODEL = "public-name"
_LEGACY = Envelope("cmpl-own", 1_700_000_000, _MODEL)
_OTHER_PARSES = {dialect.parse for dialect in DIALECTS.values()} - {events.parse}
_TOOLS = Raw(b'[{"type":"function","function":{"name":"f"}},{"type":"function","function":{"name":"get_weather"}}]')
_READINGS: tuple[tuple[HostAnswerFormat, ReasoningFormat], ...] = (
    (HostAnswerFormat(), "reasoning_content"),
    (HostAnswerFormat(thought_tags=("think", "reasoning"), leaks_markup=True, tools=_TOOLS), "reasoning_content"),
    (
        HostAnswerFormat(
            thought_tags=("think",), begins_in_reasoning=True, leaks_markup=True, tools=_TOOLS, one_call=True
        ),
        "both",
    ),
    (
        HostAnswerFormat(thought_tags=("think",), leaks_markup=True, may_call=False, reasoning_may_be_answer=True),
        "think_tags",
    ),
    (
        HostAnswerFormat(leaks_markup=True, tools=_TOOLS, reasoning_may_be_answer=True, has_positional_call_ids=True),
        "hidden",
    ),
)
_FUNCTIONS = HostAnswerFormat(
    thought_tags=("think",), leaks_markup=True, tools=_TOOLS, one_call=True
)  # for callers that send `functions`
_CARDS = (
    UNKNOWN,
    Card(thinking="always", reasoning_history="required", max_output_tokens=10, context_window=20, vision=False),
    Card(
        thinking="on",
        structured_output="none",
        named_tool_choice=False,
        tools_while_thinking=False,
        refused_while_thinking=("temperature",),
    ),
)


def framing(stream: bytes) -> None:
    """The events are the same however the stream is cut, and events that are framed again are read back unchanged."""
    whole = _read([stream])
    for size in (1, 2, 3, 7):
        assert _read(stream[at : at + size] for at in range(0, len(stream), size)) == whole
    for at in range(len(stream)) if len(stream) < 128 else (8, 64, len(stream) // 2):
        assert _read([stream[:at], b"", stream[at:]]) == whole
    lines = [event for event in whole if b"\n" not in event]
    assert _read([frame(lines)] if lines else []) == lines


def stream(body: bytes) -> None:
    """Read an answer of a host with every reading, and write it in every form that a caller may request."""
    for answer_format, form in (*_READINGS, (_FUNCTIONS, "think_tags")):
        _as_chat(body, events.parse, answer_format, form)
    for parse in _OTHER_PARSES:
        _as_chat(body, parse, *_READINGS[1])
    _as_completions(body)


def errors(answer: bytes) -> None:
    """Read an error answer, and the same body in a 200 answer."""
    head, _, body = answer.partition(b"\n\n")
    status, *lines = head.decode("latin-1").split("\n")
    headers = dict(line.lower().split(": ", 1) for line in lines if ": " in line)
    number = int(status) if re.fullmatch(r"[1-9][0-9]{2}", status) else 500
    for error in (failures.parse_error(number, headers, body), failures.parse_embedded(body)):
        assert 400 <= error.status <= 599
        canonical.read_error(to_json(error, "request-id"))
        for name, value in to_headers(error):
            assert name == b"retry-after"
            assert 1 <= int(value) <= 120


def request(body: bytes) -> None:
    """Read a caller's body at every endpoint, and build the request of every dialect from it."""
    for parse in (chat.parse_request, completions.parse_request, embeddings.parse_request):
        try:
            parsed = parse(body)
            take_format(parsed.fields)
        except ProxyError as error:
            canonical.read_error(to_json(error, "request-id"))
            continue
        for card, drops_params in product(_CARDS, (False, True)):
            _build(parsed, card, drops_params=drops_params)


TARGETS: Mapping[str, Callable[[bytes], None]] = {
    target.__name__: target for target in (framing, stream, errors, request)
}


def _read(blocks: Iterable[bytes]) -> list[bytes]:
    parser = EventParser()
    found = [event for block in blocks for event in parser.feed(block)]
    return found + parser.close()


def _as_chat(body: bytes, parse: Parse, answer_format: HostAnswerFormat, form: ReasoningFormat) -> None:
    names, outcomes = reasoning_names(form), []
    for wants_usage in (False, True):
        writer = ChatWriter(chunks.ENVELOPE, wants_usage=wants_usage, form=form)
        error = _send(_formatted(writer, answer_format, form), body, parse, answer_format)
        payloads = writer.take()
        if form != "both":
            chunks.check(payloads, wants_usage=wants_usage, is_whole=error is None)
        outcomes.append(canonical.read_stream(_framed(payloads, error), "chat", _MODEL, names, wants_usage=wants_usage))
    assembler = ChatAssembler(chunks.ENVELOPE, form=form)
    also = _send(_formatted(assembler, answer_format, form), body, parse, answer_format)
    assert type(also) is type(error)
    if error is None:
        assert _comparable(canonical.read_answer(assembler.to_json(), "chat", _MODEL, names)) == _comparable(
            outcomes[1]
        )
        replayed = ChatWriter(chunks.ENVELOPE, wants_usage=True, form=form)
        assembler.replay(replayed)
        canonical.read_stream(_framed(replayed.take(), None), "chat", _MODEL, names, wants_usage=True)


def _formatted(sink: Sink, answer_format: HostAnswerFormat, form: ReasoningFormat) -> Sink:
    return in_format(FunctionCallFilter(sink) if answer_format is _FUNCTIONS else sink, form)


def _as_completions(body: bytes) -> None:
    answer_format = HostAnswerFormat(may_call=False)
    writer, assembler = CompletionWriter(_LEGACY, wants_usage=True), CompletionAssembler(_LEGACY)
    error = _send(writer, body, events.parse, answer_format)
    canonical.read_stream(_framed(writer.take(), error), "completions", _MODEL, (), wants_usage=True)
    if _send(assembler, body, events.parse, answer_format) is None:
        canonical.read_answer(assembler.to_json(), "completions", _MODEL, ())


def _send(sink: Sink, body: bytes, parse: Parse, answer_format: HostAnswerFormat) -> ProxyError | None:
    """Send a host's answer to `sink` as an attempt does; return the error that ended it, or None."""
    remembering = ReasoningRecorder(sink)
    answer = ChoiceStream(remembering, answer_format)
    is_unary = has_end_marker = body.lstrip().startswith(b"{")
    try:
        for event in [body] if is_unary else _read([body[at : at + 50] for at in range(0, len(body), 50)]):
            found = [event] if is_unary else objects_in(event)
            if found is None:
                has_end_marker = True
                break
            for each in found:
                answer.accept(parse(each))
        answer.close(has_end_marker=has_end_marker)
    except ProxyError as error:
        return error
    finally:
        json.dumps([turn.reasoning for turn in remembering.take()])
    return None


def _framed(payloads: list[bytes], error: ProxyError | None) -> bytes:
    """Return the body that a caller receives."""
    sent = payloads if error is None else [*payloads, to_json(error, "request-id")]
    return frame([*sent, _DONE])


def _comparable(outcome: dict) -> dict:
    """Return an outcome without the values that may differ between a stream and a unary answer."""
    return outcome | {"choices": [_comparable_choice(choice) for choice in outcome["choices"]]}


def _comparable_choice(choice: dict) -> dict:
    """Remove generated ids, which are random, and empty texts, which equal missing ones."""
    calls = [{name: value for name, value in call.items() if name != "id"} for call in choice.get("tool_calls", ())]
    return {name: value for name, value in choice.items() if value not in ("", [])} | {"tool_calls": calls}


def _build(parsed: ModelRequest, card: Card, *, drops_params: bool) -> None:
    past_reasoning = dict.fromkeys(history.call_ids(parsed.fields), "Hm.") if parsed.endpoint == "chat" else {}
    for dialect in DIALECTS.values():
        try:
            built = dialect.build_request(
                parsed,
                model="host-name",
                is_stream=parsed.is_stream,
                card=card,
                drops_params=drops_params,
                past_reasoning=past_reasoning,
            )
        except ProxyError as error:
            canonical.read_error(to_json(error, "request-id"))
            continue
        # JSON allows any number of digits; only Python has a limit
        sent = json.loads(built.body, parse_constant=canonical.refuse, parse_int=len)
        assert built.path.startswith("/")
        assert sent["messages" if parsed.endpoint == "chat" else "model"]
        for item in built.adjusted:
            item.encode("ascii")
