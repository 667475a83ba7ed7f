"""Recordings of real servers are replayed from their bytes to the caller's, each read by its own dialect.

`tests/data/recorded` holds the answers to real requests of vLLM 0.32 (`vllm/`: SmolLM2 without a parser, `deepseek_*`
and `r1_*` with the reasoning and tool parsers of DeepSeek R1 and V3, `v4_*` with those of V4, `failure_*` of killed
servers), of llama.cpp's server in xllamacpp 2026.10 (`llamacpp/`) and of llama-cpp-python 0.3.36
(`llamacpp/python_*`). Streams are `.sse`, answers `.json`; the name of an error contains its status. Of some 560
recordings these are the ones that differ in shape. Headers and chunk framing are removed, and the path of a virtual
environment is shortened.
"""

import json
import re
from pathlib import Path

import msgspec
import pytest

from tests.fakes.canonical import read_answer, read_error, read_stream
from tests.unit.chunks import accumulate, check, feed, feed_bytes
from tidegate.dialects import failures
from tidegate.dialects.registry import DIALECTS
from tidegate.errors import EngineDied, StreamBroken, ToolCallUnparsable, UpstreamFailed
from tidegate.protocol import chat, completions, models
from tidegate.protocol.errors import to_json
from tidegate.protocol.sse import DONE, EventParser, frame
from tidegate.streaming.chat import ChatAssembler, ChatWriter
from tidegate.streaming.completions import CompletionAssembler, CompletionWriter
from tidegate.streaming.sinks import Envelope

DATA = Path(__file__).parents[2] / "data" / "recorded"
FILES = sorted(str(path.relative_to(DATA)) for path in DATA.glob("*/*"))

LISTS = {
    "vllm/models.json": {"max_model_len": 2048},
    "llamacpp/models.json": {},
    "llamacpp/python_models.json": {},
}
# the outcome of an error answer (status, code, parameter), and the recordings that have it
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
    # llama-cpp-python's own bugs, which it reports as 500, and a dead engine
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
# recordings with status 200 that contain no answer, or not a whole one
BROKEN = {
    "vllm/failure_kill9_engine.sse": (EngineDied, "upstream_failed"),
    "vllm/failure_sigterm_timeout0.sse": (StreamBroken, "upstream_disconnected"),
    "llamacpp/python_err_prompt_too_long.sse": (UpstreamFailed, "upstream_failed"),
    # the parser lost the call, but the server's finish reason is `tool_calls` (76j)
    "vllm/deepseek_tool_required.json": (ToolCallUnparsable, "tool_call_unparsable"),
    # answers of other endpoints
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
# the recordings for which Tidegate's answer differs from the server's: each choice as (finish reason, text, reasoning,
# calls)
REPAIRED = {
    # the parser begins inside `<think>`, but the template did not open it, so the answer was read as thinking (76i)
    "vllm/deepseek_reason_2plus2_nothink.json": [("stop", "2+2 = 4.", "2+2 = 4.", [])],
    "vllm/deepseek_reason_stop.json": [("stop", THOUGHT, THOUGHT, [])],
    # the same with the markup of a call in it: reasoning is never searched for calls (76j)
    "vllm/deepseek_tool_auto_nothink.sse": TAKEN_FOR_THINKING,
    "vllm/deepseek_tool_named.json": TAKEN_FOR_THINKING,
    "vllm/deepseek_tool_none.json": TAKEN_FOR_THINKING,
    "vllm/deepseek_tool_none.sse": TAKEN_FOR_THINKING,
    "vllm/deepseek_tool_required.sse": TAKEN_FOR_THINKING,
    # the server's finish reason is "stop", though a named tool was called
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
    """Return a request with the fields that the reading of the answer depends on."""
    asks_logprobs = "logprobs" in name
    if endpoint_of(name) == "completions":
        fields = {"model": "m", "prompt": "p"} | ({"logprobs": 2} if asks_logprobs else {})
        return completions.parse_request(json.dumps(fields).encode())
    fields = {"model": "m", "messages": [{"role": "user", "content": "Weather?"}]}
    if asks_logprobs:
        fields |= {"logprobs": True, "top_logprobs": 2}
    if "_n2" in name and "python_" not in name:  # llama-cpp-python does not support n, so it is not sent there
        fields["n"] = 2
    if "_tool_" in name:
        fields["tools"] = [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}]
        fields["tool_choice"] = "none" if "_tool_none" in name else "auto"
    return chat.parse_request(json.dumps(fields).encode())


def replay(sink, name: str, **changes):
    """Send a recording to `sink`; return the error that ended it, or None. `changes` replace fields of the reading."""
    dialect = dialect_of(name)
    answer_format = dialect.build_request(request_of(name), model="m", is_stream=name.endswith(".sse")).answer_format
    answer_format = msgspec.structs.replace(answer_format, **changes)
    how = feed if name.endswith(".json") else feed_bytes
    return how(sink, read(name), answer_format=answer_format, parse=dialect.parse)


def envelope_of(name: str) -> Envelope:
    prefix = {"chat": "chatcmpl-", "completions": "cmpl-"}[endpoint_of(name)]
    return Envelope(f"{prefix}own", 1_700_000_000, "public-name")


def write(name: str, *, wants_usage: bool):
    """Return the payloads of a stream, and the error that ended it."""
    kind = {"chat": ChatWriter, "completions": CompletionWriter}[endpoint_of(name)]
    writer = kind(envelope_of(name), wants_usage=wants_usage)
    error = replay(writer, name)
    return writer.take(), error


def streamed(name: str, *, wants_usage: bool = True):
    """Return what a caller reads if it requested a stream."""
    payloads, error = write(name, wants_usage=wants_usage)
    ends = [to_json(error, "r")] if error is not None else []
    wire = frame([*payloads, *ends]) + DONE
    return read_stream(wire, endpoint_of(name), "public-name", ["reasoning_content"], wants_usage=wants_usage)


def assemble(name: str):
    """Return the whole answer, and the error in its place."""
    kind = {"chat": ChatAssembler, "completions": CompletionAssembler}[endpoint_of(name)]
    assembler = kind(envelope_of(name))
    error = replay(assembler, name)
    return assembler.to_json(), error


def read_unary(name: str):
    """Return what a caller reads if it requested a unary answer."""
    body, error = assemble(name)
    assert error is None
    return read_answer(body, endpoint_of(name), "public-name", ["reasoning_content"])


def summary(outcome):
    """Return each choice as (finish reason, text, reasoning, calls)."""
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
    """Return the server's events, decoded."""
    if name.endswith(".json"):
        return [json.loads(read(name))]
    parser = EventParser()
    payloads = parser.feed(read(name)) + parser.close()
    return [json.loads(payload) for payload in payloads if payload != b"[DONE]"]


def sent_summary(name: str):
    """Return each choice as the server sent it, joined without changes, as (finish reason, text, reasoning, calls)."""
    choices: dict[int, list] = {}
    for choice in (choice for event in events_of(name) for choice in event["choices"]):
        entry = choices.setdefault(choice["index"], [None, "", "", {}])
        part = choice.get("delta") or choice.get("message") or choice
        entry[0] = choice["finish_reason"] or entry[0]
        entry[1] += part.get("content") or part.get("text") or ""
        entry[2] += part.get("reasoning") or ""
        for position, call in enumerate(part.get("tool_calls") or ()):
            name_and_arguments = entry[3].setdefault(call.get("index", position), ["", ""])
            name_and_arguments[0] += call["function"].get("name") or ""
            name_and_arguments[1] += call["function"].get("arguments") or ""
    # newlines between the thinking and the answer belong to neither (76g)
    return [
        (reason, text.lstrip("\n") if reasoning else text, reasoning, [tuple(call) for call in calls.values()])
        for _, (reason, text, reasoning, calls) in sorted(choices.items())
    ]


def test_every_recording_is_replayed():
    """Each recording is in one of the lists, and no list names a recording that does not exist."""
    replayed = sorted([*LISTS, *(name for name, *_ in ERROR_FILES), *BROKEN, *ANSWERS])
    assert replayed == FILES
    assert len(ANSWERS) > 80
    assert set(REPAIRED) < set(ANSWERS)


@pytest.mark.parametrize("wants_usage", [True, False])
@pytest.mark.parametrize("name", [*ANSWERS, *BROKEN])
def test_every_recording_can_be_streamed(name, wants_usage):
    """The stream is canonical for the strict reader, OpenAI's accumulator and the contract's rules, up to an error."""
    streamed(name, wants_usage=wants_usage)
    payloads, error = write(name, wants_usage=wants_usage)
    if endpoint_of(name) == "chat" and payloads:
        check(payloads, wants_usage=wants_usage, is_whole=error is None)
        accumulate(payloads)
    assert (type(error), getattr(error, "code", None)) == BROKEN.get(name, (type(None), None))


@pytest.mark.parametrize("name", ANSWERS)
def test_every_answer_is_the_same_unary_and_streamed(name):
    """Texts, calls, log probabilities and usage are the same, whichever of the two was requested from the server."""
    one, other = read_unary(name), streamed(name)
    assert summary(one) == summary(other)
    assert one.get("usage") == other.get("usage")
    if endpoint_of(name) == "chat":
        assert [choice.get("logprobs") for choice in one["choices"]] == [
            choice.get("logprobs") for choice in other["choices"]
        ]


@pytest.mark.parametrize("name", ANSWERS)
def test_nothing_of_an_answer_is_lost_or_added(name):
    """Except for the errors of the server's parsers."""
    assert summary(read_unary(name)) == REPAIRED.get(name, sent_summary(name))


@pytest.mark.parametrize("name", UNARY)
def test_the_token_counts_are_the_servers(name):
    [answer] = events_of(name)
    usage = read_unary(name)["usage"]
    for count in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert usage[count] == answer["usage"][count]


@pytest.mark.parametrize("name", BROKEN)
def test_an_incomplete_answer_is_an_error(name):
    """It is one also for a caller that requested a unary answer."""
    _, error = assemble(name)
    assert (type(error), error.code) == BROKEN[name]
    sent = read_error(to_json(error, "r"))
    assert (error.status, sent["type"]) == (502, "upstream_error")


@pytest.mark.parametrize(("name", "status", "code", "param"), ERROR_FILES)
def test_every_recorded_error_is_sent_in_openais_form(name, status, code, param):
    """The contract's B.18."""
    error = failures.parse_error(int(name.split(".")[-2]), {}, read(name))
    sent = read_error(to_json(error, "r"))
    kind = "upstream_error" if status == 502 else "invalid_request_error"
    assert (error.status, sent["type"], sent["code"], sent["param"]) == (status, kind, code, param)


@pytest.mark.parametrize(("name", "_status", "_code", "_param"), ERROR_FILES)
def test_no_recorded_error_shows_the_servers_internals(name, _status, _code, _param):
    """The message contains neither Python dicts nor file names."""
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
    """Of several validation errors, it is the first (76b)."""
    assert failures.parse_error(400, {}, read(name)).message == message


@pytest.mark.parametrize(("name", "extras"), LISTS.items())
def test_every_recorded_list_of_models_is_sent_in_openais_form(name, extras):
    [card] = models.parse_list(read(name), owned_by="here")
    sent = json.loads(models.list_to_json([card]))
    created = sent["data"][0].pop("created")
    assert isinstance(created, int)
    assert sent == {"object": "list", "data": [{"id": "smollm2", "object": "model", "owned_by": "here"} | extras]}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("vllm/chat.sse", [("stop", "The capital of France is Paris.", "", [])]),
        # the chunk with the finish reason holds the last text
        ("vllm/chat_stop.sse", [("stop", "The capital of France is ", "", [])]),
        ("vllm/deepseek_reason_2plus2.sse", [("stop", "2+2 = 4.", THOUGHT, [])]),
        # reasoning is null where it ends
        ("vllm/deepseek_reason_include_false.sse", [("stop", "\n\n2+2 = 4.", "", [])]),
        ("vllm/v4_tool_auto.sse", [("tool_calls", "", "I need the weather tool for Paris.", [WEATHER])]),
        ("vllm/v4_tool_two_auto.sse", [("tool_calls", "", "Two cities, two calls.", [WEATHER, ROME])]),
    ],
)
def test_recorded_streams_keep_their_content(name, expected):
    assert summary(streamed(name)) == expected


@pytest.mark.parametrize("name", [name for name in ANSWERS if re.search(r"/(deepseek|r1)_.*\.sse", name)])
def test_a_server_with_a_parser_is_read_correctly_if_the_card_says_that_the_template_opens_the_tag(name):
    """The server separates the thinking itself, so the answer is the same as without that card."""
    if any(reasoning for _, _, reasoning, _ in sent_summary(name)):
        writer = ChatWriter(envelope_of(name), wants_usage=True)
        assert replay(writer, name, begins_in_reasoning=True) is None
        assert summary(
            read_stream(frame(writer.take()) + DONE, "chat", "public-name", ["reasoning_content"], wants_usage=True)
        ) == summary(streamed(name))


@pytest.mark.parametrize("name", ["vllm/deepseek_tool_cut.sse", "vllm/v4_tool_cut.sse", "vllm/r1_tool_cut.sse"])
def test_a_cut_tool_call_stays_cut(name):
    """Its arguments are not completed, and the finish reason is `length` (76m)."""
    [(reason, _, _, calls)] = summary(streamed(name))
    assert reason == "length"
    assert [call[0] for call in calls] in ([], ["get_weather"])


@pytest.mark.parametrize(
    "name", ["vllm/chat_logprobs.sse", "llamacpp/chat_logprobs.sse", "llamacpp/python_chat_logprobs.sse"]
)
def test_recorded_logprobs_are_sent_in_openais_form(name):
    """There is one entry for each token, with its alternatives; llama-cpp-python sends the legacy form."""
    [choice] = streamed(name)["choices"]
    entries = choice["logprobs"]
    assert "".join(entry["token"] for entry in entries) == choice["content"]
    for entry in entries:
        assert isinstance(entry["logprob"], float)
        assert len(entry["top_logprobs"]) == 2
        assert bytes(entry["bytes"]).decode() == entry["token"]


@pytest.mark.parametrize("name", [name for name in ANSWERS if endpoint_of(name) == "completions"])
def test_recorded_logprobs_of_completions_have_the_legacy_form(name):
    """They have it in whatever form the server sends them, and only if it sends them."""
    has_logprobs = any(choice["logprobs"] for event in events_of(name) for choice in event["choices"])
    for choice in read_unary(name)["choices"]:
        assert ("logprobs" in choice) == has_logprobs
        if has_logprobs:
            logprobs = choice["logprobs"]
            assert logprobs.keys() == {"tokens", "token_logprobs", "top_logprobs", "text_offset"}
            assert len(logprobs["tokens"]) == len(logprobs["token_logprobs"]) > 0


@pytest.mark.parametrize(
    ("name", "total"),
    [("vllm/chat_stream_usage_continuous.sse", 40), ("llamacpp/chat_stream_usage.sse", 61), ("vllm/chat_n2.sse", 45)],
)
def test_recorded_usage_is_sent_once(name, total):
    """The running counts of some hosts are not summed."""
    assert streamed(name)["usage"]["total_tokens"] == total
    assert "usage" not in streamed(name, wants_usage=False)


def test_recorded_reasoning_without_a_token_count_has_none():
    """The host sends 0 (76k)."""
    [server_answer] = events_of("vllm/deepseek_tool_auto.json")
    assert server_answer["usage"]["completion_tokens_details"] == {"reasoning_tokens": 0}
    assert "completion_tokens_details" not in read_unary("vllm/deepseek_tool_auto.json")["usage"]


def test_a_killed_engine_is_reported_in_band():
    """The text before the error is kept; the engine's own message (46, 76p) would not help a caller and is replaced."""
    outcome = streamed("vllm/failure_kill9_engine.sse", wants_usage=False)
    assert outcome["error"]["message"] == "The upstream failed while it worked on the request."
    assert len(outcome["choices"][0]["content"]) > 50
