"""Which answers go on elsewhere after a break, and how often."""

import json

import pytest
from tidegate.errors import StreamBroken, UpstreamFailed, UpstreamRejected, UpstreamUnreachable
from tidegate.pipeline.attempt.stream_continuation import StreamContinuation
from tidegate.pipeline.context import AttemptRecord, RequestContext
from tidegate.pipeline.continuation import MAX_CONTINUATIONS, Continuing, may_continue
from tidegate.protocol import chat, completions, embeddings
from tidegate.protocol.usage import Usage

from tests.fakes.clock import FakeClock

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}
COMPLETION = {"model": "m", "prompt": "hi", "stream": True}
BROKEN = UpstreamUnreachable("it broke")
TOOL = {"type": "function", "function": {"name": "f"}}


def chat_of(**fields):
    return chat.parse_request(json.dumps(CHAT | fields).encode())


def completion_of(**fields):
    return completions.parse_request(json.dumps(COMPLETION | fields).encode())


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"n": 1, "logprobs": False, "tools": [], "max_tokens": 5, "stop": ["."], "temperature": 0},
        {"n": None, "logprobs": None, "response_format": None, "tools": None, "modalities": None},
        {"response_format": {"type": "text"}, "modalities": ["text"], "stream_options": {"include_usage": True}},
    ],
)
def test_plain_text_may_go_on(fields):
    assert may_continue(chat_of(**fields))


@pytest.mark.parametrize(
    "fields",
    [
        {"stream": False},
        {"n": 2},
        {"logprobs": True},
        {"tools": [TOOL]},
        {"functions": [{"name": "f"}]},
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}},
        {"structured_outputs": {"regex": "a"}},
        {"guided_json": {}},
        {"grammar": "root ::= x"},
        {"modalities": ["text", "audio"]},
        {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "Once"}]},
        {"continue_final_message": True},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_what_is_more_than_plain_text_may_not(fields):
    assert not may_continue(chat_of(**fields))


def test_completions_of_one_text_may_go_on():
    assert may_continue(completion_of())


@pytest.mark.parametrize(
    "fields",
    [{"prompt": ["a", "b"]}, {"prompt": [1, 2]}, {"suffix": "x"}, {"echo": True}, {"best_of": 2}, {"logprobs": 0}],
    ids=lambda fields: next(iter(fields)),
)
def test_other_completions_may_not(fields):
    assert not may_continue(completion_of(**fields))


def test_embeddings_never_break_in_the_middle():
    assert not may_continue(embeddings.parse_request(b'{"model":"m","input":"hi"}'))


# --- the answer ---------------------------------------------------------------------------------------------------


class Part:
    """One part of an answer: its texts, and what it ends with."""

    def __init__(self, continuation: StreamContinuation, record: AttemptRecord, *texts: str, end=BROKEN) -> None:
        self.continuation = continuation
        self.record = record
        self.texts = list(texts)
        self.end = end
        self.closed = 0

    async def read(self) -> list[bytes]:
        splice, writer = self.continuation.splice, self.continuation.writer
        splice.open(0)
        if self.texts:
            splice.content(0, self.texts.pop(0), None)
        elif isinstance(self.end, Exception):
            raise self.end
        elif self.end is not None:
            splice.finish(0, "stop")
            splice.usage(self.end)
            self.end = None
        return writer.take()

    def heartbeat(self) -> bytes:
        return b""

    def close(self) -> None:
        self.closed += 1


class Broken:
    """A `Continuing` whose further parts are scripted: each a list of texts and an end, or None for nobody."""

    def __init__(self, *parts, texts=("Hello",), end=BROKEN, **fields) -> None:
        self.context = RequestContext("req_1", "chat", FakeClock())
        first = self.context.record = AttemptRecord("first", "a")
        request = chat_of(**fields)
        self.continuation = StreamContinuation(request, self.context, "first/a")
        self.asked = []
        self.left = list(parts)
        self.parts = [Part(self.continuation, first, *texts, end=end)]
        self.answer = Continuing(self.parts[0], self.continuation, request, context=self.context, go_on=self.go_on)

    async def go_on(self, request, broken, failure):
        self.asked.append((request, broken.name, failure))
        script = self.left.pop(0) if self.left else None
        if script is None:
            return None
        name = f"next/{len(self.asked)}"
        self.continuation.hand_on(name)
        self.parts.append(Part(self.continuation, AttemptRecord(*name.split("/")), *script[0], end=script[1]))
        return self.parts[-1]

    async def read(self) -> list[dict]:
        chunks = []
        while payloads := await self.answer.read():
            chunks += map(json.loads, payloads)
        return chunks


def text_of(chunks) -> str:
    return "".join(choice["delta"].get("content") or "" for each in chunks for choice in each["choices"])


WHOLE = Usage(10, 2, 12)


async def test_an_answer_that_breaks_goes_on():
    broken = Broken(([", world"], WHOLE))
    chunks = await broken.read()
    assert text_of(chunks) == "Hello, world"
    assert chunks[-1]["x_tidegate"] == {"continued": 1, "targets": ["first/a", "next/1"]}
    [(request, part, failure)] = broken.asked
    assert (request.prefix, part, failure) == ("Hello", "first/a", BROKEN)


async def test_the_record_of_the_answer_is_that_of_the_part_that_is_read():
    broken = Broken(([", world"], BROKEN), (["!"], WHOLE))
    assert (await broken.answer.read(), broken.answer.record.name)[1] == "first/a"
    await broken.read()
    assert [part for _, part, _ in broken.asked] == ["first/a", "next/1"]
    assert broken.answer.record is broken.context.record is broken.parts[-1].record


async def test_an_answer_that_does_not_break_bears_no_mark():
    broken = Broken(end=WHOLE)
    assert not any("x_tidegate" in chunk for chunk in await broken.read())
    assert broken.context.usage == WHOLE


async def test_the_books_get_the_usage_of_all_parts_and_the_target_keeps_its_own():
    broken = Broken(([", world"], WHOLE))
    await broken.read()
    assert broken.context.usage == Usage(8 + 10, 2 + 2, 22)
    assert broken.context.record.usage is None


async def test_the_limit_of_tokens_is_that_of_all_parts():
    broken = Broken(([" and so on"], BROKEN), (["."], WHOLE), texts=["x" * 40], max_tokens=12, max_completion_tokens=50)
    await broken.read()
    first, second = (request.fields for request, *_ in broken.asked)
    assert (bytes(first["max_tokens"]), bytes(first["max_completion_tokens"])) == (b"2", b"40")
    assert (bytes(second["max_tokens"]), bytes(second["max_completion_tokens"])) == (b"1", b"37")


async def test_it_goes_on_so_often_and_no_more():
    last = UpstreamUnreachable("the last")
    broken = Broken(([" a"], BROKEN), ([" b"], last), (["never"], WHOLE))
    with pytest.raises(UpstreamUnreachable) as caught:
        await broken.read()
    assert caught.value is last
    assert len(broken.asked) == MAX_CONTINUATIONS
    assert broken.continuation.splice.text == "Hello a b"


@pytest.mark.parametrize("failure", [StreamBroken("ended"), UpstreamFailed("boom", status=503)])
async def test_any_break_of_the_targets_is_one(failure):
    assert text_of(await Broken(([" you"], WHOLE), end=failure).read()) == "Hello you"


async def test_what_another_target_would_say_too_is_told():
    broken = Broken(([" you"], WHOLE), end=UpstreamRejected("not this"))
    with pytest.raises(UpstreamRejected):
        await broken.read()
    assert broken.asked == []


async def test_where_nobody_can_go_on_the_break_itself_is_told():
    with pytest.raises(UpstreamUnreachable) as caught:
        await Broken(None).read()
    assert caught.value is BROKEN


async def test_each_part_is_closed_once():
    """An engine's place would be given back twice."""
    broken = Broken(([", world"], WHOLE))
    await broken.read()
    broken.answer.close()
    broken.answer.close()
    assert [part.closed for part in broken.parts] == [1, 1]


async def test_the_broken_part_is_closed_before_the_next_begins():
    broken = Broken(None)
    with pytest.raises(UpstreamUnreachable):
        await broken.read()
    assert broken.parts[0].closed == 1
