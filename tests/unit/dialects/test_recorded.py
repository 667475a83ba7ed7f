"""Bytes of real servers, from their wire to ours, each read as its own dialect reads it.

`tests/data/recorded` holds what vLLM 0.32 (`vllm/`: SmolLM2 without a parser, `deepseek_*` and `r1_*` with the
reasoning and tool parsers of DeepSeek R1 and V3, `v4_*` with those of V4, `failure_*` of killed servers), llama.cpp's
server of xllamacpp 2026.10 (`llamacpp/`) and llama-cpp-python 0.3.36 (`llamacpp/python_*`) gave to real requests:
streams are `.sse`, answers `.json`, errors have their status in the name. Of some 560 recordings these are the ones
that differ in shape; headers and chunk framing are taken off, and the path of a virtual environment is shortened.
"""

import json
import re
from pathlib import Path

import msgspec
import pytest
from tidegate.dialects import failures
from tidegate.dialects.registry import DIALECTS
from tidegate.errors import EngineDied, StreamBroken, ToolCallUnparsable, UpstreamFailed
from tidegate.protocol import chat, completions, models
from tidegate.protocol.errors import to_json
from tidegate.protocol.sse import DONE, EventParser, frame
from tidegate.streaming.chat import ChatAssembler, ChatWriter
from tidegate.streaming.completions import CompletionAssembler, CompletionWriter
from tidegate.streaming.sinks import Envelope

from tests.fakes.canonical import read_answer, read_error, read_stream
from tests.unit.chunks import accumulate, check, tell, tell_bytes

DATA = Path(__file__).parents[2] / "data" / "recorded"
FILES = sorted(str(path.relative_to(DATA)) for path in DATA.glob("*/*"))

LISTS = {
    "vllm/models.json": {"max_model_len": 2048},
    "llamacpp/models.json": {},
    "llamacpp/python_models.json": {},
}
# the outcome of an error answer, as status, code and parameter, and the answers that have it
ERRORS: dict[tuple[int, str | None, str | None], list[str]] = {
    (404, "model_not_found", "model"): [
        "llamacpp/err_404.404.json",
        "llamacpp/python_err_404.404.json",
        "vllm/err_404.404.json",
        "vllm/err_unknown_model.404.json",
    ],
    (400, "context_length_exceeded", "messages"): [
        "llamacpp/err_prompt_too_long.400.json",
        "llamacpp/python_err_prompt_too_long.400.json",
        "vllm/err_prompt_too_long.400.json",
    ],
    # llama-cpp-python's own bugs, which it tells as such, and a dead engine
    (502, "upstream_failed", None): [
        "llamacpp/python_chat_content_parts.500.json",
        "llamacpp/python_completion_empty_prompt.500.json",
        "llamacpp/python_err_bad_json.500.txt",
        "vllm/failure_kill9_engine_nonstream.500.json",
        "vllm/failure_kill9_worker_r2.500.json",
    ],
    (400, None, None): [
        "llamacpp/err_bad_json.400.json",
        "llamacpp/err_embeddings.501.json",
        "llamacpp/err_image.500.json",
        "llamacpp/err_tools_bad.500.json",
        "llamacpp/python_chat_request_id_header.400.txt",
        "llamacpp/python_err_405.405.json",
        "llamacpp/python_err_no_ctype.500.json",
        "vllm/err_405.405.json",
        "vllm/err_bad_json.400.json",
        "vllm/err_n2_greedy.400.json",
        "vllm/err_no_ctype.400.json",
        "vllm/err_options_cors.400.txt",
        "vllm/err_utf8.400.json",
    ],
    (400, None, "logit_bias"): ["vllm/err_logit_bias.400.json"],
    (400, None, "logprobs"): ["vllm/err_top_logprobs_50.400.json"],
    (400, None, "max_tokens"): ["vllm/completion_max_tokens_0.400.json"],
    (400, None, "messages"): ["llamacpp/python_err_messages_string.500.json", "vllm/err_messages_string.400.json"],
    (400, None, "messages[0]"): [
        "llamacpp/python_chat_system_developer.500.json",
        "vllm/err_content_null.400.json",
    ],
    (400, None, "messages[1]"): ["llamacpp/python_err_tool_msg_no_id.500.json"],
    (400, None, "presence_penalty"): ["llamacpp/python_err_presence_penalty.500.json"],
    (400, None, "prompt"): [
        "llamacpp/python_completion_no_prompt.500.json",
        "vllm/completion_empty_prompt.400.json",
    ],
    (400, None, "response_format"): ["vllm/err_schema_missing.400.json"],
    (400, None, "response_format.type"): [
        "llamacpp/python_chat_json_schema.500.json",
        "vllm/err_rf_bogus.400.json",
    ],
    (400, None, "seed"): ["llamacpp/python_err_seed_type.500.json", "vllm/err_seed_huge.400.json"],
    (400, None, "stop"): ["vllm/err_stop_too_many.400.json"],
    (400, None, "stream_options"): ["vllm/err_stream_options_no_stream.400.json"],
    (400, None, "suffix"): ["vllm/completion_suffix.400.json"],
    (400, None, "temperature"): [
        "llamacpp/python_err_temperature_type.500.json",
        "vllm/err_temperature_neg.400.json",
        "vllm/err_temperature_type.400.json",
    ],
    (400, None, "tool_choice"): [
        "llamacpp/python_err_tool_choice_bogus.500.json",
        "vllm/err_tool_choice_bogus.400.json",
    ],
    (400, None, "tools"): ["vllm/err_tools_empty.400.json"],
    (400, None, "tools[0].function"): ["llamacpp/python_err_tools_bad.500.json", "vllm/err_tools_bad.400.json"],
    (400, None, "top_logprobs"): [
        "llamacpp/python_err_top_logprobs_neg.500.json",
        "vllm/err_top_logprobs_alone.400.json",
    ],
    (400, None, "top_p"): ["llamacpp/python_err_top_p.500.json", "vllm/err_top_p.400.json"],
}
ERROR_FILES = [(name, *outcome) for outcome, names in ERRORS.items() for name in names]
# what a 200 holds that is no answer, or no whole one
BROKEN = {
    "vllm/failure_kill9_engine.sse": (EngineDied, "upstream_failed"),
    "vllm/failure_sigterm_timeout0.sse": (StreamBroken, "upstream_disconnected"),
    "llamacpp/python_err_prompt_too_long.sse": (UpstreamFailed, "upstream_failed"),
    # the parser lost the call, and the server says that there is one (76j)
    "vllm/deepseek_tool_required.json": (ToolCallUnparsable, "tool_call_unparsable"),
    # other endpoints' answers
    "llamacpp/anthropic_messages.json": (UpstreamFailed, "upstream_failed"),
    "llamacpp/responses.json": (UpstreamFailed, "upstream_failed"),
    "llamacpp/responses.sse": (UpstreamFailed, "upstream_failed"),
    "vllm/anthropic_messages.json": (UpstreamFailed, "upstream_failed"),
    "vllm/responses.json": (UpstreamFailed, "upstream_failed"),
    "vllm/responses.sse": (UpstreamFailed, "upstream_failed"),
}
ANSWERS = [name for name in FILES if name.count(".") == 1 and name not in LISTS and name not in BROKEN]
UNARY = [name for name in ANSWERS if name.endswith(".json")]

WEATHER = ("get_weather", '{"city": "Paris"}')
ROME = ("get_weather", '{"city": "Rome"}')
THOUGHT = "The user asks for a sum. 2+2 equals 4.\n"
CALLED = [("tool_calls", "", "", [WEATHER])]
MARKUP = (
    "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n"
    '```json\n{"city": "Paris"}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>'
)
TAKEN_FOR_THINKING = [("stop", MARKUP, MARKUP, [])]
# where we say something else than the server, each choice as (finish reason, text, reasoning, calls)
REPAIRED = {
    # the parser begins inside of `<think>`, but the template did not, so the answer was taken for thinking (76i)
    "vllm/deepseek_reason_2plus2_nothink.json": [("stop", "2+2 = 4.", "2+2 = 4.", [])],
    "vllm/deepseek_reason_stop.json": [("stop", THOUGHT, THOUGHT, [])],
    # the same with markup of a call in it: reasoning is never read for calls (76j)
    "vllm/deepseek_tool_auto_nothink.sse": TAKEN_FOR_THINKING,
    "vllm/deepseek_tool_named.json": TAKEN_FOR_THINKING,
    "vllm/deepseek_tool_none.json": TAKEN_FOR_THINKING,
    "vllm/deepseek_tool_none.sse": TAKEN_FOR_THINKING,
    "vllm/deepseek_tool_required.sse": TAKEN_FOR_THINKING,
    # "stop", where a tool was called by name
    "vllm/r1_tool_named.sse": CALLED,
    "vllm/v4_tool_named.json": CALLED,
    "vllm/v4_tool_named.sse": CALLED,
}


def read(name: str) -> bytes:
    return (DATA / name).read_bytes()


def dialect_of(name: str):
    server, _, case = name.partition("/")
    return DIALECTS["vllm" if server == "vllm" else "llama_cpp_python" if case.startswith("python_") else "llamacpp"]


def endpoint_of(name: str) -> str:
    return "completions" if re.search(r"/(python_)?completion[._]", name) else "chat"


def request_of(name: str):
    """As far as the reading of the answer depends on it."""
    asks_logprobs = "logprobs" in name
    if endpoint_of(name) == "completions":
        fields = {"model": "m", "prompt": "p"} | ({"logprobs": 2} if asks_logprobs else {})
        return completions.parse_request(json.dumps(fields).encode())
    fields = {"model": "m", "messages": [{"role": "user", "content": "Weather?"}]}
    if asks_logprobs:
        fields |= {"logprobs": True, "top_logprobs": 2}
    if "_n2" in name and "python_" not in name:  # llama-cpp-python has no n, and is not asked for it
        fields["n"] = 2
    if "_tool_" in name:
        fields["tools"] = [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}]
        fields["tool_choice"] = "none" if "_tool_none" in name else "auto"
    return chat.parse_request(json.dumps(fields).encode())


def replay(sink, name: str, **changes):
    """Tell `sink` what the recording says; the error that ended it, if one did. `changes` are made to the reading."""
    dialect = dialect_of(name)
    reading = dialect.build_request(request_of(name), model="m", is_stream=name.endswith(".sse")).reading
    reading = msgspec.structs.replace(reading, **changes)
    how = tell if name.endswith(".json") else tell_bytes
    return how(sink, read(name), reading=reading, parse=dialect.parse)


def envelope_of(name: str) -> Envelope:
    prefix = {"chat": "chatcmpl-", "completions": "cmpl-"}[endpoint_of(name)]
    return Envelope(f"{prefix}own", 1_700_000_000, "public-name")


def write(name: str, *, wants_usage: bool):
    """The payloads of a stream, and the error that ended it."""
    kind = {"chat": ChatWriter, "completions": CompletionWriter}[endpoint_of(name)]
    writer = kind(envelope_of(name), wants_usage=wants_usage)
    error = replay(writer, name)
    return writer.take(), error


def streamed(name: str, *, wants_usage: bool = True):
    """What a caller makes of it who asked for a stream."""
    payloads, error = write(name, wants_usage=wants_usage)
    ends = [to_json(error, "r")] if error is not None else []
    wire = frame([*payloads, *ends]) + DONE
    return read_stream(wire, endpoint_of(name), "public-name", ["reasoning_content"], wants_usage=wants_usage)


def assemble(name: str):
    """The whole answer, and the error instead of it."""
    kind = {"chat": ChatAssembler, "completions": CompletionAssembler}[endpoint_of(name)]
    assembler = kind(envelope_of(name))
    error = replay(assembler, name)
    return assembler.to_json(), error


def whole(name: str):
    """What a caller makes of it who asked for one answer."""
    body, error = assemble(name)
    assert error is None
    return read_answer(body, endpoint_of(name), "public-name", ["reasoning_content"])


def seen(outcome):
    """Each choice as (finish reason, text, reasoning, calls)."""
    return [
        (
            choice["finish"],
            choice.get("content", ""),
            choice.get("reasoning", ""),
            [(call["name"], call["arguments"]) for call in choice.get("tool_calls", [])],
        )
        for choice in outcome["choices"]
    ]


def events_of(name: str) -> list[dict]:
    """What the server sent, decoded."""
    if name.endswith(".json"):
        return [json.loads(read(name))]
    parser = EventParser()
    payloads = parser.feed(read(name)) + parser.close()
    return [json.loads(payload) for payload in payloads if payload != b"[DONE]"]


def sent(name: str):
    """Each choice as the server told it, joined plainly, as (finish reason, text, reasoning, calls)."""
    choices: dict[int, list] = {}
    for choice in (choice for event in events_of(name) for choice in event["choices"]):
        told = choices.setdefault(choice["index"], [None, "", "", {}])
        piece = choice.get("delta") or choice.get("message") or choice
        told[0] = choice["finish_reason"] or told[0]
        told[1] += piece.get("content") or piece.get("text") or ""
        told[2] += piece.get("reasoning") or ""
        for position, call in enumerate(piece.get("tool_calls") or ()):
            name_and_arguments = told[3].setdefault(call.get("index", position), ["", ""])
            name_and_arguments[0] += call["function"].get("name") or ""
            name_and_arguments[1] += call["function"].get("arguments") or ""
    # newlines between the thinking and the answer are no part of either (76g)
    return [
        (reason, text.lstrip("\n") if reasoning else text, reasoning, [tuple(call) for call in calls.values()])
        for _, (reason, text, reasoning, calls) in sorted(choices.items())
    ]


def test_every_recording_is_replayed():
    """Each in one place, and none is named that is not there."""
    replayed = sorted([*LISTS, *(name for name, *_ in ERROR_FILES), *BROKEN, *ANSWERS])
    assert replayed == FILES
    assert len(ANSWERS) > 80
    assert set(REPAIRED) < set(ANSWERS)


@pytest.mark.parametrize("wants_usage", [True, False])
@pytest.mark.parametrize("name", [*ANSWERS, *BROKEN])
def test_every_recording_can_be_streamed(name, wants_usage):
    """Canonical for the strict reader, for OpenAI's accumulator and by the contract's rules; up to an error, if one."""
    streamed(name, wants_usage=wants_usage)
    payloads, error = write(name, wants_usage=wants_usage)
    if endpoint_of(name) == "chat" and payloads:
        check(payloads, wants_usage=wants_usage, is_whole=error is None)
        accumulate(payloads)
    assert (type(error), getattr(error, "code", None)) == BROKEN.get(name, (type(None), None))


@pytest.mark.parametrize("name", ANSWERS)
def test_every_answer_is_the_same_whole_and_streamed(name):
    """Texts, calls, log probabilities and usage, whichever way the server was asked."""
    one, other = whole(name), streamed(name)
    assert seen(one) == seen(other)
    assert one.get("usage") == other.get("usage")
    if endpoint_of(name) == "chat":
        assert [choice.get("logprobs") for choice in one["choices"]] == [
            choice.get("logprobs") for choice in other["choices"]
        ]


@pytest.mark.parametrize("name", ANSWERS)
def test_nothing_of_an_answer_is_lost_or_added(name):
    """But for what the server's parsers got wrong."""
    assert seen(whole(name)) == REPAIRED.get(name, sent(name))


@pytest.mark.parametrize("name", UNARY)
def test_the_counts_of_an_answer_are_the_servers(name):
    [answer] = events_of(name)
    usage = whole(name)["usage"]
    for count in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert usage[count] == answer["usage"][count]


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_whole_answer_is_an_error(name):
    """Also for a caller who wants it whole."""
    _, error = assemble(name)
    assert (type(error), error.code) == BROKEN[name]
    told = read_error(to_json(error, "r"))
    assert (error.status, told["type"]) == (502, "upstream_error")


@pytest.mark.parametrize(("name", "status", "code", "param"), ERROR_FILES)
def test_every_recorded_error_is_openais(name, status, code, param):
    """The contract's B.18."""
    error = failures.parse_error(int(name.split(".")[-2]), {}, read(name))
    told = read_error(to_json(error, "r"))
    kind = "upstream_error" if status == 502 else "invalid_request_error"
    assert (error.status, told["type"], told["code"], told["param"]) == (status, kind, code, param)


@pytest.mark.parametrize(("name", "_status", "_code", "_param"), ERROR_FILES)
def test_no_recorded_error_shows_the_servers_inside(name, _status, _code, _param):
    """Neither Python's dicts nor its files."""
    message = failures.parse_error(int(name.split(".")[-2]), {}, read(name)).message
    assert not re.search(r"'(loc|input)':|File \"|validation error", message)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vllm/err_content_null.400.json", "Input should be a valid string"),
        ("vllm/err_stop_too_many.400.json", "Input should be a valid string"),
        ("vllm/err_n2_greedy.400.json", "n must be 1 when using greedy sampling, got 2."),
    ],
)
def test_the_message_of_a_recorded_error_is_one_sentence(name, message):
    """Of a schema check the first complaint (76b)."""
    assert failures.parse_error(400, {}, read(name)).message == message


@pytest.mark.parametrize(("name", "extras"), LISTS.items())
def test_every_recorded_list_of_models_is_openais(name, extras):
    [card] = models.parse_list(read(name), owned_by="here")
    told = json.loads(models.list_to_json([card]))
    created = told["data"][0].pop("created")
    assert isinstance(created, int)
    assert told == {"object": "list", "data": [{"id": "smollm2", "object": "model", "owned_by": "here"} | extras]}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("vllm/chat.sse", [("stop", "The capital of France is Paris.", "", [])]),
        # the finish chunk brings the last text
        ("vllm/chat_stop.sse", [("stop", "The capital of France is ", "", [])]),
        ("vllm/deepseek_reason_2plus2.sse", [("stop", "2+2 = 4.", THOUGHT, [])]),
        # null reasoning at the boundary
        ("vllm/deepseek_reason_include_false.sse", [("stop", "\n\n2+2 = 4.", "", [])]),
        ("vllm/v4_tool_auto.sse", [("tool_calls", "", "I need the weather tool for Paris.", [WEATHER])]),
        ("vllm/v4_tool_two_auto.sse", [("tool_calls", "", "Two cities, two calls.", [WEATHER, ROME])]),
    ],
)
def test_recorded_streams_say_what_they_said(name, expected):
    assert seen(streamed(name)) == expected


@pytest.mark.parametrize("name", [name for name in ANSWERS if re.search(r"/(deepseek|r1)_.*\.sse", name)])
def test_a_server_with_a_parser_loses_nothing_by_a_template_that_opens_the_tag(name):
    """The card says that it does, the server takes thinking apart itself: the answer is the same."""
    if any(reasoning for _, _, reasoning, _ in sent(name)):
        writer = ChatWriter(envelope_of(name), wants_usage=True)
        assert replay(writer, name, begins_in_thought=True) is None
        assert seen(
            read_stream(frame(writer.take()) + DONE, "chat", "public-name", ["reasoning_content"], wants_usage=True)
        ) == seen(streamed(name))


@pytest.mark.parametrize("name", ["vllm/deepseek_tool_cut.sse", "vllm/v4_tool_cut.sse", "vllm/r1_tool_cut.sse"])
def test_a_cut_tool_call_stays_cut(name):
    """Its arguments are not completed, and the reason says why (76m)."""
    [(reason, _, _, calls)] = seen(streamed(name))
    assert reason == "length"
    assert [call[0] for call in calls] in ([], ["get_weather"])


@pytest.mark.parametrize(
    "name", ["vllm/chat_logprobs.sse", "llamacpp/chat_logprobs.sse", "llamacpp/python_chat_logprobs.sse"]
)
def test_recorded_logprobs_are_openais(name):
    """One entry a token, each with its alternatives; llama-cpp-python sends the legacy form."""
    [choice] = streamed(name)["choices"]
    entries = choice["logprobs"]
    assert "".join(entry["token"] for entry in entries) == choice["content"]
    for entry in entries:
        assert isinstance(entry["logprob"], float)
        assert len(entry["top_logprobs"]) == 2
        assert bytes(entry["bytes"]).decode() == entry["token"]


@pytest.mark.parametrize("name", [name for name in ANSWERS if endpoint_of(name) == "completions"])
def test_recorded_legacy_logprobs_are_the_endpoints_own(name):
    """Whatever form the server has, and only where it has them."""
    has_logprobs = any(choice["logprobs"] for event in events_of(name) for choice in event["choices"])
    for choice in whole(name)["choices"]:
        assert ("logprobs" in choice) == has_logprobs
        if has_logprobs:
            logprobs = choice["logprobs"]
            assert logprobs.keys() == {"tokens", "token_logprobs", "top_logprobs", "text_offset"}
            assert len(logprobs["tokens"]) == len(logprobs["token_logprobs"]) > 0


@pytest.mark.parametrize(
    ("name", "total"),
    [("vllm/chat_stream_usage_continuous.sse", 40), ("llamacpp/chat_stream_usage.sse", 61), ("vllm/chat_n2.sse", 45)],
)
def test_recorded_usage_is_told_once(name, total):
    """Hosts that count along are not summed."""
    assert streamed(name)["usage"]["total_tokens"] == total
    assert "usage" not in streamed(name, wants_usage=False)


def test_recorded_reasoning_without_a_count_has_none():
    """The host says 0 (76k)."""
    [theirs] = events_of("vllm/deepseek_tool_auto.json")
    assert theirs["usage"]["completion_tokens_details"] == {"reasoning_tokens": 0}
    assert "completion_tokens_details" not in whole("vllm/deepseek_tool_auto.json")["usage"]


def test_a_killed_engine_is_told_in_band():
    """The text that came before is not lost; the engine's own words (46, 76p) say nothing to a caller."""
    outcome = streamed("vllm/failure_kill9_engine.sse", wants_usage=False)
    assert outcome["error"]["message"] == "The upstream failed while it worked on the request."
    assert len(outcome["choices"][0]["content"]) > 50
