"""Which answers other targets continue after a break, and how often."""

import json

import pytest

from tests.fakes.clock import FakeClock
from tidegate.errors import StreamBroken, UpstreamFailed, UpstreamRejected, UpstreamUnreachable
from tidegate.pipeline.attempt.stream_continuation import StreamContinuation
from tidegate.pipeline.context import AttemptRecord, RequestContext
from tidegate.pipeline.continuing_answer import MAX_CONTINUATIONS, ContinuingAnswer, may_continue
from tidegate.protocol import chat, completions, embeddings
from tidegate.protocol.usage import Usage

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}
COMPLETION = {"model": "m", "prompt": "hi", "stream": True}
BREAK = UpstreamUnreachable("it broke")
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
def test_plain_text_may_be_continued(fields):
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
def test_other_answers_than_plain_text_may_not_be_continued(fields):
    assert not may_continue(chat_of(**fields))


def test_a_completion_of_one_text_may_be_continued():
    assert may_continue(completion_of())


@pytest.mark.parametrize(
    "fields",
    [{"prompt": ["a", "b"]}, {"prompt": [1, 2]}, {"suffix": "x"}, {"echo": True}, {"best_of": 2}, {"logprobs": 0}],
    ids=lambda fields: next(iter(fields)),
)
def test_other_completions_may_not_be_continued(fields):
    assert not may_continue(completion_of(**fields))


def test_embeddings_may_not_be_continued():
    assert not may_continue(embeddings.parse_request(b'{"model":"m","input":"hi"}'))


# --- the answer ---------------------------------------------------------------------------------------------------


class Part:
    """One part of an answer: its texts, and its end: an error, the usage of a complete answer, or None for nothing."""

    def __init__(self, continuation: StreamContinuation, record: AttemptRecord, *texts: str, end=BREAK) -> None:
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


class BreakingAnswer:
    """A `ContinuingAnswer` with scripted further parts: each a list of texts and an end, or None for no target."""

    def __init__(self, *parts, texts=("Hello",), end=BREAK, **fields) -> None:
        self.context = RequestContext("req_1", "chat", FakeClock())
        first = self.context.record = AttemptRecord("first", "a")
        request = chat_of(**fields)
        self.continuation = StreamContinuation(request, self.context, "first/a")
        self.continuations = []
        self.next_parts = list(parts)
        self.parts = [Part(self.continuation, first, *texts, end=end)]
        self.answer = ContinuingAnswer(
            self.parts[0], self.continuation, request, context=self.context, continue_elsewhere=self.continue_elsewhere
        )

    async def continue_elsewhere(self, request, breaking, failure):
        self.continuations.append((request, breaking.name, failure))
        script = self.next_parts.pop(0) if self.next_parts else None
        if script is None:
            return None
        name = f"next/{len(self.continuations)}"
        self.continuation.add_target(name)
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


async def test_an_answer_that_breaks_is_continued():
    breaking = BreakingAnswer(([", world"], WHOLE))
    chunks = await breaking.read()
    assert text_of(chunks) == "Hello, world"
    assert chunks[-1]["x_tidegate"] == {"continued": 1, "targets": ["first/a", "next/1"]}
    [(request, part, failure)] = breaking.continuations
    assert (request.prefix, part, failure) == ("Hello", "first/a", BREAK)


async def test_the_record_of_the_answer_is_that_of_the_part_that_is_read():
    breaking = BreakingAnswer(([", world"], BREAK), (["!"], WHOLE))
    assert (await breaking.answer.read(), breaking.answer.record.name)[1] == "first/a"
    await breaking.read()
    assert [part for _, part, _ in breaking.continuations] == ["first/a", "next/1"]
    assert breaking.answer.record is breaking.context.record is breaking.parts[-1].record


async def test_an_answer_that_does_not_break_has_no_mark():
    breaking = BreakingAnswer(end=WHOLE)
    assert not any("x_tidegate" in chunk for chunk in await breaking.read())
    assert breaking.context.usage == WHOLE


async def test_settlement_gets_the_usage_of_all_parts_and_the_record_has_that_of_its_target():
    breaking = BreakingAnswer(([", world"], WHOLE))
    await breaking.read()
    assert breaking.context.usage == Usage(8 + 10, 2 + 2, 22)
    assert breaking.context.record.usage is None


async def test_the_token_limit_of_the_request_holds_for_all_parts_together():
    breaking = BreakingAnswer(
        ([" and so on"], BREAK), (["."], WHOLE), texts=["x" * 40], max_tokens=12, max_completion_tokens=50
    )
    await breaking.read()
    first, second = (request.fields for request, *_ in breaking.continuations)
    assert (bytes(first["max_tokens"]), bytes(first["max_completion_tokens"])) == (b"2", b"40")
    assert (bytes(second["max_tokens"]), bytes(second["max_completion_tokens"])) == (b"1", b"37")


async def test_an_answer_is_continued_a_limited_number_of_times():
    last = UpstreamUnreachable("the last")
    breaking = BreakingAnswer(([" a"], BREAK), ([" b"], last), (["never"], WHOLE))
    with pytest.raises(UpstreamUnreachable) as caught:
        await breaking.read()
    assert caught.value is last
    assert len(breaking.continuations) == MAX_CONTINUATIONS
    assert breaking.continuation.splice.text == "Hello a b"


@pytest.mark.parametrize("failure", [StreamBroken("ended"), UpstreamFailed("boom", status=503)])
async def test_any_failure_of_the_target_is_a_break(failure):
    assert text_of(await BreakingAnswer(([" you"], WHOLE), end=failure).read()) == "Hello you"


async def test_an_error_that_another_target_would_return_too_is_not_continued():
    breaking = BreakingAnswer(([" you"], WHOLE), end=UpstreamRejected("not this"))
    with pytest.raises(UpstreamRejected):
        await breaking.read()
    assert breaking.continuations == []


async def test_if_no_target_can_continue_the_error_of_the_break_is_raised():
    with pytest.raises(UpstreamUnreachable) as caught:
        await BreakingAnswer(None).read()
    assert caught.value is BREAK


async def test_each_part_is_closed_once():
    """Else the slot in an engine would be released twice."""
    breaking = BreakingAnswer(([", world"], WHOLE))
    await breaking.read()
    breaking.answer.close()
    breaking.answer.close()
    assert [part.closed for part in breaking.parts] == [1, 1]


async def test_the_broken_part_is_closed_before_the_next_begins():
    breaking = BreakingAnswer(None)
    with pytest.raises(UpstreamUnreachable):
        await breaking.read()
    assert breaking.parts[0].closed == 1
