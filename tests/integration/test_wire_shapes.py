"""Each wire shape of the contract's A.3, sent by a host, reaches OpenAI's SDK in canonical form or as an error."""

import json

import openai
import pytest

from tests.fakes.upstream import PAUSE, answers, breaks_off, streams
from tests.fakes.wire import chunk, completion, event, text_stream

DONE = b"data: [DONE]\n\n"
ROLE = event(chunk({"role": "assistant", "content": ""}))
STOP = event(chunk(finish="stop"))


def tool(index: int | None = 0, call_id: str | None = None, name: str | None = None, arguments=None, **extra) -> bytes:
    function = {}
    if name is not None:
        function["name"] = name
    if arguments is not None:
        function["arguments"] = arguments
    call = {"function": function} | extra
    if index is not None:
        call["index"] = index
    if call_id is not None:
        call |= {"id": call_id, "type": "function"}
    return event(chunk({"tool_calls": [call]}))


TOOLS = event(chunk(finish="tool_calls"))
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}

TEXT = {  # in each case the text is "Hi you", and the finish reason is `stop`
    "well made": text_stream("Hi", " you"),
    "comments and blank lines": [b": hello\n\n\n\n", ROLE, b": ping\n\n", *text_stream("Hi", " you")],
    "CRLF": [b"".join(text_stream("Hi", " you")).replace(b"\n", b"\r\n")],
    "CR": [b"".join(text_stream("Hi", " you")).replace(b"\n", b"\r")],
    "no space after the colon": [b"".join(text_stream("Hi", " you")).replace(b"data: ", b"data:")],
    "data over several lines": [
        b"data: "
        + json.dumps(json.loads(chunk({"content": "Hi you"})), indent=1).replace("\n", "\ndata: ").encode()
        + b"\n\n",
        STOP,
        DONE,
    ],
    "missing [DONE]": [ROLE, event(chunk({"content": "Hi you"})), STOP],
    "event without data": [b"event: ping\n\n", *text_stream("Hi", " you")],
    "retry": [b"retry: 3000\n\n", *text_stream("Hi", " you")],
    "ids": [b"id: 1\n" + ROLE, b": c\n\n", *text_stream("Hi", " you")],
    "last event without a blank line": [ROLE, event(chunk({"content": "Hi you"})), STOP.rstrip(b"\n")],
    "error null": [event(chunk({"content": "Hi you"}, error=None)), STOP, DONE],
    "no role": [event(chunk({"content": "Hi you"})), STOP, DONE],
    "role in every delta": [
        event(chunk({"role": "assistant", "content": "Hi"})),
        event(chunk({"role": "assistant", "content": " you"})),
        STOP,
        DONE,
    ],
    "finish twice": [ROLE, event(chunk({"content": "Hi you"})), STOP, STOP, DONE],
    "usage on every chunk": [
        event(chunk({"content": "Hi"}, usage=USAGE)),
        event(chunk({"content": " you"}, usage=USAGE)),
        event(chunk(finish="stop", usage=USAGE)),
        DONE,
    ],
    "no choices first": [event(chunk(choices=[])), *text_stream("Hi", " you")],
    "delta null": [
        event(chunk(choices=[{"index": 0, "delta": None, "finish_reason": None}])),
        *text_stream("Hi", " you"),
    ],
    "delta missing": [event(chunk(choices=[{"index": 0}])), *text_stream("Hi", " you")],
    "only choices": [
        event(json.dumps({"choices": [{"delta": {"content": "Hi you"}}]}).encode()),
        event(json.dumps({"choices": [{"delta": {}, "finish_reason": "stop"}]}).encode()),
        DONE,
    ],
    "text in the finish chunk": [ROLE, event(chunk({"content": "Hi you"}, finish="stop")), DONE],
    "unknown finish reason": [ROLE, event(chunk({"content": "Hi you"})), event(chunk(finish="eos_token")), DONE],
    "vendor fields": [event(chunk({"content": "Hi you"}, timings={"x": 1}, x_groq={})), STOP, DONE],
    "index as a float": [
        event(b'{"choices": [{"index": 0.0, "delta": {"content": "Hi you"}, "finish_reason": null}]}'),
        STOP,
        DONE,
    ],
    "content as parts": [event(chunk({"content": [{"type": "text", "text": "Hi you"}]})), STOP, DONE],
    "reasoning null": [event(chunk({"content": "Hi you", "reasoning_content": None})), STOP, DONE],
    "one byte at a time": [bytes([byte]) for byte in b"".join(text_stream("Hi", " you"))],
    "a JSON body instead of a stream": None,
}

CALLS = {  # in each case there is one call: f with {"a": 1}
    "well made": [tool(0, "c1", "f", ""), tool(0, arguments='{"a": 1}'), TOOLS, DONE],
    "no arguments in the first delta": [tool(0, "c1", "f"), tool(0, arguments='{"a": 1}'), TOOLS, DONE],
    "no index": [tool(None, "c1", "f", ""), tool(None, arguments='{"a": 1}'), TOOLS, DONE],
    "index from 1": [tool(1, "c1", "f", ""), tool(1, arguments='{"a": 1}'), TOOLS, DONE],
    "id and name in each delta": [tool(0, "c1", "f", '{"a":'), tool(0, "c1", "f", " 1}"), TOOLS, DONE],
    "no id": [tool(0, None, "f", '{"a": 1}'), TOOLS, DONE],
    "function missing": [tool(0, "c1", "f", '{"a": 1}'), event(chunk({"tool_calls": [{"index": 0}]})), TOOLS, DONE],
    "arguments null": [tool(0, "c1", "f", '{"a": 1}'), tool(0, arguments=None), TOOLS, DONE],
    "arguments an object": [tool(0, "c1", "f", {"a": 1}), TOOLS, DONE],
    "finish reason stop": [tool(0, "c1", "f", '{"a": 1}'), STOP, DONE],
}

ERRORS = {  # script, status (None: the error is in band), code
    "an error first": (streams(event(b'{"error": {"message": "boom", "code": 500}}'), DONE), 502, "upstream_failed"),
    "an error as a string": (streams(event(b'{"error": "boom"}'), DONE), 502, "upstream_failed"),
    "a flat error": (streams(event(b'{"object": "error", "message": "boom", "code": 400}')), 400, None),
    "a flat error of one message": (streams(event(b'{"message": "boom"}')), 502, "upstream_failed"),
    "an error body": (answers(b'{"error": {"message": "boom"}}'), 502, "upstream_failed"),
    "an empty stream": (streams(), 502, "upstream_failed"),
    "only [DONE]": (streams(DONE), 502, "upstream_failed"),
    "an HTML body": (answers(b"<html>busy</html>", content_type="text/html"), 502, "upstream_failed"),
    "no JSON in an event": (streams(event(b"{oops")), 502, "upstream_failed"),
    "an early end": (breaks_off(), 502, "upstream_unreachable"),
    "giving up at once": (streams(event(chunk(finish="insufficient_system_resource"))), 503, "upstream_failed"),
    "an error in the middle": (
        streams(
            ROLE, event(chunk({"content": "Hi"})), PAUSE, event(b'{"error": {"message": "boom", "code": 500}}'), DONE
        ),
        None,
        "upstream_failed",
    ),
    "no finish reason": (streams(ROLE, event(chunk({"content": "Hi"})), PAUSE, DONE), None, "upstream_disconnected"),
    "a connection that breaks": (
        breaks_off(ROLE, event(chunk({"content": "Hi"})), PAUSE),
        None,
        "upstream_unreachable",
    ),
    "giving up in the middle": (
        streams(event(chunk({"content": "Hi"})), PAUSE, event(chunk(finish="abort")), DONE),
        None,
        "upstream_failed",
    ),
    "status 500 with HTML": (answers(b"<html>", status=500, content_type="text/html"), 502, "upstream_failed"),
    "status 401": (answers(b'{"error": "Unauthorized"}', status=401), 502, "upstream_auth"),
    "status 402": (answers(b"{}", status=402), 503, "upstream_quota"),
    "status 404": (answers(b'{"detail": "Not Found"}', status=404), 404, "model_not_found"),
    "status 422": (answers(b'{"detail": [{"msg": "field required"}]}', status=422), 400, None),
    "status 429": (answers(b"slow down", status=429, content_type="text/plain"), 429, "rate_limit_exceeded"),
    "status 503": (
        answers(b'{"error": {"message": "Loading model", "code": 503}}', status=503),
        503,
        "upstream_failed",
    ),
    "status 504": (answers(b"", status=504), 504, "upstream_timeout"),
    "a redirect": (answers(b"", status=307, head=b"location: http://127.0.0.1:9/\r\n"), 502, "upstream_failed"),
    "too long a prompt": (
        answers(b'{"error": {"message": "x", "type": "exceed_context_size_error", "code": 400}}', status=400),
        400,
        "context_length_exceeded",
    ),
}

REQUEST = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}


@pytest.fixture
async def client(url):
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as client:
        yield client


@pytest.mark.parametrize("case", TEXT)
async def test_text_comes_out_canonical(client, upstream, case):
    parts = TEXT[case]
    script = answers(completion("Hi you")) if parts is None else streams(*parts)
    upstream.play(script)
    chunks = [chunk async for chunk in await client.chat.completions.create(**REQUEST, stream=True)]
    choices = [choice for chunk in chunks for choice in chunk.choices]
    assert "".join(choice.delta.content or "" for choice in choices) == "Hi you"
    assert [choice.delta.role for choice in choices if choice.delta.role] == ["assistant"]
    assert [choice.finish_reason for choice in choices if choice.finish_reason] == ["stop"]
    assert all(chunk.usage is None for chunk in chunks)
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1


@pytest.mark.parametrize("case", TEXT)
async def test_text_is_accepted_by_the_strict_helper(client, upstream, case):
    parts = TEXT[case]
    upstream.play(answers(completion("Hi you")) if parts is None else streams(*parts))
    async with client.chat.completions.stream(**REQUEST) as stream:
        final = await stream.get_final_completion()
    assert final.choices[0].message.content == "Hi you"
    assert final.choices[0].message.role == "assistant"
    assert final.choices[0].finish_reason == "stop"


@pytest.mark.parametrize("case", CALLS)
async def test_tool_calls_are_accepted_by_the_strict_helper(client, upstream, case):
    upstream.play(streams(*CALLS[case]))
    async with client.chat.completions.stream(**REQUEST) as stream:
        final = await stream.get_final_completion()
    (call,) = final.choices[0].message.tool_calls
    assert call.function.name == "f"
    assert json.loads(call.function.arguments) == {"a": 1}
    assert call.id
    assert final.choices[0].finish_reason == "tool_calls"


async def test_two_calls_under_one_index_are_two_calls(client, upstream):
    upstream.play(streams(tool(0, "c1", "f", "{}"), tool(0, "c2", "g", "{}"), TOOLS, DONE))
    async with client.chat.completions.stream(**REQUEST) as stream:
        final = await stream.get_final_completion()
    calls = final.choices[0].message.tool_calls
    assert [(call.id, call.function.name, call.function.arguments) for call in calls] == [
        ("c1", "f", "{}"),
        ("c2", "g", "{}"),
    ]


async def test_reasoning_is_sent_as_reasoning_content_whatever_the_hosts_name_for_it(client, upstream):
    upstream.play(
        streams(
            event(chunk({"reasoning": "Let me", "content": None})),
            event(chunk({"reasoning_content": " think"})),
            event(chunk({"reasoning": "", "content": "4"})),
            STOP,
            DONE,
        )
    )
    chunks = [chunk async for chunk in await client.chat.completions.create(**REQUEST, stream=True)]
    deltas = [chunk.choices[0].delta.model_dump(exclude_unset=True) for chunk in chunks]
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == "Let me think"
    assert "".join(delta.get("content") or "" for delta in deltas) == "4"
    assert all("reasoning" not in delta for delta in deltas)
    assert all(delta.get("reasoning_content", "x") for delta in deltas)


async def test_usage_is_in_the_last_chunk_only_if_requested(client, upstream):
    upstream.play(streams(*text_stream("Hi", usage=USAGE)))
    stream = await client.chat.completions.create(**REQUEST, stream=True, stream_options={"include_usage": True})
    chunks = [chunk async for chunk in stream]
    assert [chunk.usage.total_tokens for chunk in chunks if chunk.usage] == [5]
    assert chunks[-1].choices == []


@pytest.mark.parametrize("case", ERRORS)
async def test_a_failure_is_a_proper_error(client, upstream, case):
    """It has its true status before the first event, and is in band after it."""
    script, status, code = ERRORS[case]
    upstream.play(script)
    with pytest.raises(openai.APIError) as caught:
        async for _ in await client.chat.completions.create(**REQUEST, stream=True):
            upstream.calls[-1].go.set()
    assert getattr(caught.value, "status_code", None) == status
    assert caught.value.code == code
    assert caught.value.message


@pytest.mark.parametrize(
    "case",
    [
        name
        for name, (_, status, _) in ERRORS.items()
        if status is not None and "stream" not in name and "event" not in name
    ],
)
async def test_a_failure_of_a_unary_answer_is_the_same_error(client, upstream, case):
    script, status, code = ERRORS[case]
    upstream.play(script)
    with pytest.raises(openai.APIStatusError) as caught:
        await client.chat.completions.create(**REQUEST)
    assert caught.value.status_code == status
    assert caught.value.code == code


async def test_a_unary_answer_is_rebuilt(client, upstream):
    """Role, content, calls and finish reason are in OpenAI's form; vendor fields are left out."""
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}}
    upstream.play(answers(completion(None, tool_calls=[call], reasoning="hm", annotations=None, extra=1)))
    answer = await client.chat.completions.create(**REQUEST)
    message = answer.choices[0].message
    assert json.loads(message.tool_calls[0].function.arguments) == {"a": 1}
    assert message.content is None
    assert message.model_dump(exclude_unset=True).keys() == {
        "role",
        "content",
        "refusal",
        "annotations",
        "reasoning_content",
        "tool_calls",
    }
    assert message.annotations == []
    assert answer.id.startswith("chatcmpl-")
    assert answer.model == "m"


async def test_blank_lines_before_a_unary_answer_are_ignored(client, upstream):
    """DeepSeek sends them to keep connections alive."""
    upstream.play(answers(b"\n\n\n" + completion("Hi")))
    assert (await client.chat.completions.create(**REQUEST)).choices[0].message.content == "Hi"


@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
async def test_json_with_another_content_type_is_read(client, upstream, stream):
    """OpenAI's SDK reads it too."""
    upstream.play(answers(b"\n" + completion("Hi"), content_type="text/plain"))
    if stream:
        chunks = await client.chat.completions.create(**REQUEST, stream=True)
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in chunks])
    else:
        text = (await client.chat.completions.create(**REQUEST)).choices[0].message.content
    assert text == "Hi"


@pytest.mark.parametrize("encoding", ["float", "base64", None])
async def test_embeddings_have_the_requested_encoding(client, upstream, encoding):
    item = {"object": "embedding", "index": 0, "embedding": [0.5, -2.0]}
    upstream.play(answers(json.dumps({"data": [item], "usage": {"prompt_tokens": 2}}).encode()))
    extra = {} if encoding is None else {"encoding_format": encoding}
    answer = await client.embeddings.create(model="m", input="x", **extra)
    expected = "AAAAPwAAAMA=" if encoding == "base64" else [0.5, -2.0]
    assert answer.data[0].embedding == expected
    assert answer.usage.total_tokens == 2
    assert answer.model == "m"
