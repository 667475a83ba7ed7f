"""What the pure code costs by itself, in µs a call; no I/O, no event loop.

By itself: `uv run python tests/benchmarks/micro.py`.
"""

import time
from collections.abc import Callable

from proxy.dialects import events
from proxy.dialects.registry import DIALECTS
from proxy.protocol import chat, sse
from proxy.protocol.chat import Reading
from proxy.streaming.chat import ChatAssembler, ChatWriter
from proxy.streaming.choices import ChoiceStream
from proxy.streaming.sinks import Envelope

_ENVELOPE = Envelope("chatcmpl-0123456789abcdef01234567", 1_700_000_000, "model")
_CHUNK = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,"model":"mock","choices":'
    b'[{"index":0,"delta":{"content":" token"},"logprobs":null,"finish_reason":null,"token_ids":null}]}\n\n'
)
_ANSWER = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1700000000,"model":"mock","choices":[{"index":0,"message":'
    b'{"role":"assistant","content":"Hello! How can I help you today?","refusal":null,"tool_calls":[]},"logprobs":null,'
    b'"finish_reason":"stop","stop_reason":null}],"usage":{"prompt_tokens":12,"total_tokens":22,'
    b'"completion_tokens":10,"prompt_tokens_details":null}}'
)
_REQUEST = (
    b'{"model":"model","messages":[{"role":"system","content":"You are helpful."},'
    b'{"role":"user","content":"Say hello."}],"temperature":0.7,"stream":true,"stream_options":{"include_usage":true}}'
)
_CALLS = 1_000
_ROUNDS = 100


def best_us(call: Callable[[], object], calls: int = _CALLS) -> float:
    """Microseconds for one `call`: the best of many short rounds, as whatever else runs only adds."""
    taken = []
    for _ in range(_ROUNDS):
        begun_s = time.perf_counter()
        for _ in range(calls):
            call()
        taken.append(time.perf_counter() - begun_s)
    return min(taken) / calls * 1e6


_READING = Reading(thought_tags=("think",), looks_for_calls=True)


def normalise_us() -> float:
    """A plain text chunk: decode, state machine with every filter that a host without a parser needs, encode."""
    writer, event = ChatWriter(_ENVELOPE, wants_usage=True), _CHUNK[6:-2]
    stream = ChoiceStream(writer, _READING)

    def normalise() -> None:
        stream.accept(events.parse(event))
        writer.payloads.clear()

    return best_us(normalise)


def chunk_us() -> float:
    """The same, alone in its read, with the server-sent event around it parsed and made."""
    parser, writer = sse.EventParser(), ChatWriter(_ENVELOPE, wants_usage=True)
    stream = ChoiceStream(writer, _READING)

    def normalise() -> None:
        for event in parser.feed(_CHUNK):
            stream.accept(events.parse(event))
        sse.frame(writer.take())

    return best_us(normalise)


def request_us() -> float:
    """A small chat request: check it, build the one for a vLLM host."""
    dialect = DIALECTS["vllm"]
    return best_us(lambda: dialect.build_request(chat.parse_request(_REQUEST), model="mock", is_stream=True))


def answer_us() -> float:
    """A unary answer: decode, normalise, encode."""

    def normalise() -> None:
        assembler = ChatAssembler(_ENVELOPE)
        stream = ChoiceStream(assembler)
        stream.accept(events.parse(_ANSWER))
        stream.close()
        assembler.to_json()

    return best_us(normalise)


def lines() -> list[str]:
    """The table, in Markdown."""
    return [
        "| pure code | µs |",
        "| --- | --: |",
        f"| normalise one text chunk | {normalise_us():.2f} |",
        f"| the same with its event parsed and framed | {chunk_us():.2f} |",
        f"| check a request and build the upstream's | {request_us():.1f} |",
        f"| normalise a unary answer | {answer_us():.1f} |",
    ]


if __name__ == "__main__":
    print("\n".join(lines()))
