"""Bytes of real servers, from their wire to ours.

`tests/data/recorded` holds what vLLM 0.32 (`vllm/`: plain, `deepseek_*` with its reasoning and tool parsers, `v4_*`
with those of V4, `failure_*` of killed servers), llama.cpp's server (`llamacpp/`) and llama-cpp-python
(`llamacpp/python_*`) gave to real requests: streams are `.sse`, answers `.json`, errors have their status in the name.
"""

import json
from pathlib import Path

import pytest
from openai.types.chat import ChatCompletion

from proxy.dialects import failures
from proxy.errors import StreamBroken, UpstreamFailed
from proxy.protocol.chat import Reading
from proxy.protocol.errors import to_json
from proxy.streaming.chat import ChatAssembler, ChatWriter
from proxy.streaming.completions import CompletionAssembler, CompletionWriter
from tests.unit.chunks import ENVELOPE, accumulate, check, tell, tell_bytes

DATA = Path(__file__).parents[2] / "data" / "recorded"
READING = Reading(thought_tags=("think",), looks_for_calls=True, repairs_silence=True)


def read(name: str) -> bytes:
    return (DATA / name).read_bytes()


def stream(name: str, *, wants_usage: bool = True):
    """What the SDK makes of a recorded stream."""
    writer = ChatWriter(ENVELOPE, wants_usage=wants_usage)
    assert tell_bytes(writer, read(name), reading=READING) is None
    payloads = writer.take()
    check(payloads, wants_usage=wants_usage)
    return accumulate(payloads)


def whole(name: str):
    assembler = ChatAssembler(ENVELOPE)
    assert tell(assembler, read(name), reading=READING) is None
    return json.loads(assembler.to_json())


def seen(completion):
    """Each choice as (finish reason, text, reasoning, calls)."""
    return [
        (
            choice.finish_reason,
            choice.message.content or "",
            (choice.message.model_extra or {}).get("reasoning_content", ""),
            [(call.function.name, call.function.arguments) for call in choice.message.tool_calls or []],
        )
        for choice in completion.choices
    ]


THOUGHT = "The user asks for a sum. 2+2 equals 4.\n"
WEATHER = ("get_weather", '{"city": "Paris"}')
STREAMS = sorted(str(path.relative_to(DATA)) for path in DATA.glob("*/*.sse"))
BROKEN = {
    "vllm/failure_kill9_engine.sse": (UpstreamFailed, 502),
    "vllm/failure_sigterm_timeout0.sse": (StreamBroken, 502),
    "llamacpp/python_err_prompt_too_long.sse": (UpstreamFailed, 502),
}


def test_there_are_recordings():
    """An empty folder would make all of this pass."""
    assert len(STREAMS) >= 20


@pytest.mark.parametrize("wants_usage", [True, False])
@pytest.mark.parametrize("name", [name for name in STREAMS if "completion" not in name])
def test_every_recorded_stream_is_canonical_or_an_error(name, wants_usage):
    """Also for the strict accumulator of OpenAI's SDK."""
    writer = ChatWriter(ENVELOPE, wants_usage=wants_usage)
    error = tell_bytes(writer, read(name), reading=READING)
    payloads = writer.take()
    check(payloads, wants_usage=wants_usage, is_whole=error is None)
    if payloads:
        accumulate(payloads)
    kind, status = BROKEN.get(name, (type(None), None))
    assert type(error) is kind
    assert getattr(error, "status", None) == status


@pytest.mark.parametrize("name", [name for name in STREAMS if "completion" not in name and name not in BROKEN])
def test_every_recorded_stream_can_be_assembled(name):
    """For a caller who wants the answer whole: the same answer."""
    assembler = ChatAssembler(ENVELOPE)
    assert tell_bytes(assembler, read(name), reading=READING) is None
    answer = json.loads(assembler.to_json())
    streamed = stream(name)
    assert [choice["message"]["content"] or "" for choice in answer["choices"]] == [
        found[1] for found in seen(streamed)
    ]
    assert [choice["finish_reason"] for choice in answer["choices"]] == [found[0] for found in seen(streamed)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("vllm/chat.sse", [("stop", "The capital of France is Paris.", "", [])]),
        # the finish chunk brings the last text
        ("vllm/chat_stop.sse", [("stop", "The capital of France is ", "", [])]),
        ("vllm/deepseek_reason_2plus2.sse", [("stop", "\n\n2+2 = 4.", THOUGHT, [])]),
        # null reasoning at the boundary
        ("vllm/deepseek_reason_include_false.sse", [("stop", "\n\n2+2 = 4.", "", [])]),
        ("vllm/v4_tool_auto.sse", [("tool_calls", "", "I need the weather tool for Paris.", [WEATHER])]),
        (
            "vllm/v4_tool_two_auto.sse",
            [("tool_calls", "", "Two cities, two calls.", [WEATHER, ("get_weather", '{"city": "Rome"}')])],
        ),
        # the parser failed: the markup is in the reasoning, and is made a call
        ("vllm/deepseek_tool_required.sse", [("tool_calls", "", "", [WEATHER])]),
    ],
)
def test_recorded_streams_say_what_they_said(name, expected):
    assert seen(stream(name)) == expected


@pytest.mark.parametrize("name", ["vllm/deepseek_tool_cut.sse", "vllm/v4_tool_cut.sse"])
def test_a_cut_tool_call_stays_cut(name):
    """Its arguments are not completed, and the reason says why (76m)."""
    [(reason, _, _, calls)] = seen(stream(name))
    assert reason == "length"
    assert [call[0] for call in calls] in ([], ["get_weather"])


@pytest.mark.parametrize("name", ["vllm/chat_n2.sse", "llamacpp/chat_n2.sse", "llamacpp/python_chat_n2.sse"])
def test_several_choices_keep_their_texts_apart(name):
    """Whichever begins."""
    completion = stream(name)
    texts = {}
    for line in read(name).split(b"\n"):
        if line.startswith(b"data: {"):
            for choice in json.loads(line[6:])["choices"]:
                texts[choice["index"]] = texts.get(choice["index"], "") + (choice["delta"].get("content") or "")
    assert [choice.message.content for choice in completion.choices] == [texts[index] for index in sorted(texts)]


@pytest.mark.parametrize(
    "name", ["vllm/chat_logprobs.sse", "llamacpp/chat_logprobs.sse", "llamacpp/python_chat_logprobs.sse"]
)
def test_recorded_logprobs_are_openais(name):
    """One entry a token, each with its alternatives; llama-cpp-python sends the legacy form."""
    completion = stream(name)
    entries = completion.choices[0].logprobs.content
    assert "".join(entry.token for entry in entries) == completion.choices[0].message.content
    for entry in entries:
        assert isinstance(entry.logprob, float)
        assert len(entry.top_logprobs) == 2
        assert bytes(entry.bytes).decode() == entry.token


@pytest.mark.parametrize(
    ("name", "total"),
    [("vllm/chat_stream_usage_continuous.sse", 40), ("llamacpp/chat_stream_usage.sse", 61), ("vllm/chat_n2.sse", 45)],
)
def test_recorded_usage_is_told_once(name, total):
    """Hosts that count along are not summed."""
    assert stream(name).usage.total_tokens == total
    assert stream(name, wants_usage=False).usage is None


def test_a_killed_engine_is_told_in_band():
    """The text that came before is not lost; the error is the engine's own (46, 76p)."""
    writer = ChatWriter(ENVELOPE, wants_usage=False)
    error = tell_bytes(writer, read("vllm/failure_kill9_engine.sse"))
    assert error.message.startswith("EngineCore encountered an issue.")
    assert len(accumulate(writer.take()).choices[0].message.content) > 50


UNARY = sorted(
    str(path.relative_to(DATA))
    for path in DATA.glob("*/*.json")
    if path.name.count(".") == 1 and "models" not in path.name
)


REPAIRED = {"vllm/deepseek_reason_2plus2_nothink.json", "vllm/deepseek_tool_required.json"}


def answered(name: str):
    return seen(ChatCompletion.model_validate(whole(name)))


@pytest.mark.parametrize("name", [name for name in UNARY if "completion" not in name])
def test_every_recorded_answer_is_rebuilt(name):
    """Text, reasoning and calls are the host's, everything else is ours."""
    answer, theirs = whole(name), json.loads(read(name))
    assert list(answer) == ["id", "object", "created", "model", "choices", "usage"]
    assert (answer["id"], answer["model"]) == ("chatcmpl-own", "public-name")
    for choice, other in zip(answer["choices"], theirs["choices"], strict=True):
        message, source = choice["message"], other["message"]
        assert set(choice) == {"index", "message", "logprobs", "finish_reason"}
        assert set(message) <= {"role", "content", "refusal", "reasoning_content", "tool_calls"}
        if name in REPAIRED:
            continue
        assert (message["content"] or "") == (source["content"] or "")
        assert message.get("reasoning_content") == (source.get("reasoning") or None)
        assert message.get("tool_calls") == (source.get("tool_calls") or None)
        assert choice["finish_reason"] == other["finish_reason"]
    for count in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert answer["usage"][count] == theirs["usage"][count]


def test_an_answer_that_was_taken_for_thinking_is_an_answer():
    """The parser begins inside of `<think>`, but the template did not (76i)."""
    [(reason, text, reasoning, calls)] = answered("vllm/deepseek_reason_2plus2_nothink.json")
    assert (reason, calls) == ("stop", [])
    assert text == reasoning != ""


def test_a_call_that_was_left_in_the_reasoning_is_a_call():
    """76j: the markup of DeepSeek V3, and a finish reason without calls."""
    assert answered("vllm/deepseek_tool_required.json") == [("tool_calls", "", "", [WEATHER])]


def test_recorded_reasoning_without_a_count_has_none():
    """The host says 0 (76k)."""
    assert json.loads(read("vllm/deepseek_tool_auto.json"))["usage"]["completion_tokens_details"] == {
        "reasoning_tokens": 0
    }
    assert "completion_tokens_details" not in whole("vllm/deepseek_tool_auto.json")["usage"]


@pytest.mark.parametrize("name", [name for name in STREAMS if "completion" in name])
def test_recorded_legacy_streams_are_rebuilt(name):
    writer = CompletionWriter(ENVELOPE, wants_usage=True)
    assert tell_bytes(writer, read(name), reading=READING) is None
    choices = [choice for payload in writer.take() for choice in json.loads(payload)["choices"]]
    assert choices[0]["text"] == " Paris"
    assert [choice["finish_reason"] for choice in choices] == [None] * (len(choices) - 1) + ["length"]
    assert choices[-1]["text"] == ""


@pytest.mark.parametrize("name", [name for name in UNARY if "completion" in name])
def test_recorded_legacy_answers_are_rebuilt(name):
    """With the endpoint's own log probabilities, whatever form the host has."""
    assembler = CompletionAssembler(ENVELOPE)
    assert tell(assembler, read(name)) is None
    answer, theirs = json.loads(assembler.to_json()), json.loads(read(name))
    assert answer["object"] == "text_completion"
    for choice, other in zip(answer["choices"], theirs["choices"], strict=True):
        assert set(choice) == {"index", "text", "logprobs", "finish_reason"}
        assert (choice["index"], choice["text"]) == (other["index"], other["text"])
        assert choice["finish_reason"] == other["finish_reason"]
        assert (choice["logprobs"] is None) == (other["logprobs"] is None)
        if choice["logprobs"] is not None:
            assert len(choice["logprobs"]["tokens"]) == len(choice["logprobs"]["token_logprobs"]) > 0


@pytest.mark.parametrize(
    ("name", "status", "type_", "code"),
    [
        ("llamacpp/err_404.404.json", 404, "invalid_request_error", "model_not_found"),
        ("llamacpp/err_bad_json.400.json", 400, "invalid_request_error", None),
        ("llamacpp/err_embeddings.501.json", 400, "invalid_request_error", None),
        ("llamacpp/err_prompt_too_long.400.json", 400, "invalid_request_error", "context_length_exceeded"),
        ("llamacpp/err_tools_bad.500.json", 400, "invalid_request_error", None),
        ("llamacpp/python_err_bad_json.500.txt", 502, "upstream_error", "upstream_failed"),
        ("llamacpp/python_err_prompt_too_long.400.json", 400, "invalid_request_error", "context_length_exceeded"),
        ("vllm/err_404.404.json", 404, "invalid_request_error", "model_not_found"),
        ("vllm/err_405.405.json", 400, "invalid_request_error", None),
        ("vllm/err_bad_json.400.json", 400, "invalid_request_error", None),
        ("vllm/err_content_null.400.json", 400, "invalid_request_error", None),
        ("vllm/err_n2_greedy.400.json", 400, "invalid_request_error", None),
        ("vllm/err_prompt_too_long.400.json", 400, "invalid_request_error", "context_length_exceeded"),
        ("vllm/err_stop_too_many.400.json", 400, "invalid_request_error", None),
        ("vllm/err_unknown_model.404.json", 404, "invalid_request_error", "model_not_found"),
        ("vllm/err_utf8.400.json", 400, "invalid_request_error", None),
        ("vllm/failure_kill9_engine_nonstream.500.json", 502, "upstream_error", "upstream_failed"),
        ("vllm/failure_kill9_worker_r2.500.json", 502, "upstream_error", "upstream_failed"),
    ],
)
def test_every_recorded_error_is_openais(name, status, type_, code):
    """The contract's B.18."""
    error = failures.parse_error(int(name.split(".")[-2]), {}, read(name))
    assert (error.status, error.type, error.code) == (status, type_, code)
    told = json.loads(to_json(error, "r"))["error"]
    assert told["message"]
    assert "{'type'" not in told["message"].split("\n")[0]


def test_every_recorded_error_is_in_the_table():
    recorded = {str(path.relative_to(DATA)) for path in DATA.glob("*/*.*") if path.name.count(".") == 2}
    [table] = [mark for mark in test_every_recorded_error_is_openais.pytestmark if mark.name == "parametrize"]
    assert recorded == {row[0] for row in table.args[1]}


def test_the_parameter_of_a_recorded_error_is_openais():
    """Without the wire's prefix (76b)."""
    assert failures.parse_error(400, {}, read("vllm/err_stop_too_many.400.json")).param == "stop"
