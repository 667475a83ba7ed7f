"""The state machine converts any upstream's answer to one canonical sequence (contract B.0, B.15)."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET, Raw

from tests.fakes.sink import RecordingSink
from tests.unit.chunks import call, chunk, feed
from tidegate.dialects import events
from tidegate.errors import ProxyError, StreamBroken, ToolCallUnparsable, UpstreamFailed
from tidegate.protocol.chat import Chunk, HostAnswerFormat
from tidegate.protocol.usage import Usage
from tidegate.streaming.choices import ChoiceStream
from tidegate.streaming.sinks import ToolPiece

STOP = chunk(finish="stop")


def sent(*chunks):
    """Return the calls that the sink receives for a complete answer."""
    sink = RecordingSink()
    assert feed(sink, *chunks) is None
    return sink.calls


def tools(*chunks):
    """Return the fragments of tool calls that the sink receives."""
    return [call[2] for call in sent(*chunks) if call[0] == "tool"]


def joined(pieces):
    """Return the tool calls as a client assembles them, by index: (id, name, arguments)."""
    calls = {}
    for piece in pieces:
        call_id, name, arguments = calls.get(piece.index, (piece.id, piece.name, ""))
        calls[piece.index] = call_id, name, arguments + piece.arguments
    return calls


def test_a_choice_is_opened_sent_and_finished():
    assert sent(
        chunk({"role": "assistant", "content": ""}), chunk({"content": "a"}), chunk({"content": "b"}), STOP
    ) == [
        ("open", 0),
        ("content", 0, "a"),
        ("content", 0, "b"),
        ("finish", 0, "stop"),
    ]


def test_a_whole_answer_is_one_big_chunk():
    """A unary answer has `message` in place of `delta`; a legacy one has `text`."""
    message = {"choices": [{"index": 0, "message": {"content": "a"}, "finish_reason": "stop"}]}
    text = {"choices": [{"index": 0, "text": "a", "finish_reason": "stop"}]}
    assert sent(message) == sent(text) == [("open", 0), ("content", 0, "a"), ("finish", 0, "stop")]


@pytest.mark.parametrize("delta", [{}, {"content": ""}, {"content": None}, {"reasoning": None}, {"role": "assistant"}])
def test_an_empty_delta_is_dropped(delta):
    """Hosts repeat the role in each delta, and send empty and null content (contract R-DELTA, 76g, 76h)."""
    assert sent(chunk(delta), chunk(delta), STOP) == [("open", 0), ("finish", 0, "stop")]


def test_a_chunk_without_a_delta_is_dropped():
    broken = {"choices": [{"index": 0, "delta": None, "finish_reason": None}]}
    assert sent({"choices": []}, {"choices": [{"index": 0}]}, broken, STOP) == [("open", 0), ("finish", 0, "stop")]


def test_text_in_the_finish_chunk_comes_first():
    """Hosts may send the last text with the finish reason (contract 76e)."""
    assert sent(chunk({"content": "end"}, finish="stop")) == [("open", 0), ("content", 0, "end"), ("finish", 0, "stop")]


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
def test_reasoning_is_read_under_both_names(name):
    assert sent(chunk({name: "hm"}), STOP)[1] == ("reasoning", 0, "hm")


def test_reasoning_under_both_names_at_once_is_sent_once():
    assert sent(chunk({"reasoning": "hm", "reasoning_content": "hm"}), STOP) == [
        ("open", 0),
        ("reasoning", 0, "hm"),
        ("finish", 0, "stop"),
    ]


def test_reasoning_and_content_in_one_delta_are_split():
    """The reasoning comes first (contract row 72)."""
    assert sent(chunk({"content": "4", "reasoning": "2+2"}), STOP)[1:3] == [
        ("reasoning", 0, "2+2"),
        ("content", 0, "4"),
    ]


def test_a_refusal_is_sent():
    assert sent(chunk({"refusal": "no"}), STOP)[1] == ("refusal", 0, "no")


def test_choices_are_kept_apart():
    assert sent(
        chunk({"content": "a"}),
        chunk({"content": "x"}, index=1),
        chunk({"content": "b"}),
        chunk(finish="length", index=1),
        STOP,
    ) == [
        ("open", 0),
        ("content", 0, "a"),
        ("open", 1),
        ("content", 1, "x"),
        ("content", 0, "b"),
        ("finish", 0, "stop"),
        ("finish", 1, "length"),
    ]


def test_choices_are_opened_in_order():
    """OpenAI's accumulator appends each new choice to a list, so 1 before 0 breaks it; llama.cpp sends that order."""
    opened = [
        call[1]
        for call in sent(chunk({"content": "x"}, index=1), chunk({"content": "a"}), STOP, chunk(index=1, finish="stop"))
        if call[0] == "open"
    ]
    assert opened == [0, 1]


@pytest.mark.parametrize("index", [-1, 10**9, 10**30])
def test_an_index_that_no_choice_can_have_is_a_failure(index):
    """At most 128 choices can be requested, for each of at most 32 prompts."""
    assert isinstance(feed(RecordingSink(), chunk({"content": "a"}, index=index, finish="stop")), UpstreamFailed)


@pytest.mark.parametrize("delta", [{"content": "a"}, {"tool_calls": [call(0, "f", "{}", "a")]}])
def test_an_index_that_no_choice_can_have_is_a_failure_for_the_only_choice_too(delta):
    given = chunk(delta, index=4096, finish="stop")
    assert isinstance(feed(RecordingSink(), given, answer_format=HostAnswerFormat(choices=1)), UpstreamFailed)


# --- finish reasons -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        *((reason, "stop") for reason in ("stop", "eos", "eos_token", "stop_sequence", "end_turn", "COMPLETE", "STOP")),
        *((reason, "stop") for reason in ("done", "something new")),
        *((reason, "length") for reason in ("length", "max_tokens", "MAX_TOKENS", "model_length", "repetition")),
        ("model_context_window_exceeded", "length"),
        *((reason, "content_filter") for reason in ("content_filter", "SAFETY", "RECITATION", "guardrail_intervened")),
        *((reason, "content_filter") for reason in ("refusal", "content_filtered")),
        *((reason, "stop") for reason in ("tool_calls", "tool_use", "tool_call", "function_call")),
        *((reason, "content_filter") for reason in ("PROHIBITED_CONTENT", "IMAGE_SAFETY", "IMAGE_OTHER", "SPII")),
        *((reason, "content_filter") for reason in ("BLOCKLIST", "sensitive", "content_filter: hate", "ContentFilter")),
        ("MaxTokens", "length"),
    ],
)
def test_finish_reasons_without_calls(reason, expected):
    """Any spelling of the finish reasons in the contract's B.15 is read."""
    assert sent(chunk({"content": "a"}), chunk(finish=reason))[-1] == ("finish", 0, expected)


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        *((reason, "tool_calls") for reason in ("tool_calls", "tool_use", "tool_call", "function_call")),
        *((reason, "tool_calls") for reason in ("stop", "eos", "STOP", "end_turn", "something new")),
        ("length", "length"),
        ("max_tokens", "length"),
        ("content_filter", "content_filter"),
    ],
)
def test_finish_reasons_with_calls(reason, expected):
    """The reason follows from the calls that were sent; `length` and `content_filter` stay (R-FR, 76m)."""
    assert sent(chunk({"tool_calls": [call(0, "f", "{}")]}), chunk(finish=reason))[-1] == ("finish", 0, expected)


def test_a_legacy_function_call_keeps_its_reason():
    function = {"function_call": {"name": "f", "arguments": "{}"}}
    assert sent(chunk(function), chunk(finish="function_call"))[1:] == [
        ("extra", 0, "function_call", b'{"name":"f","arguments":"{}"}'),
        ("finish", 0, "function_call"),
    ]


def test_a_call_in_both_forms_is_sent_once():
    """llama-cpp-python sends both forms if the request names a tool (row 112)."""
    both = {"function_call": {"name": "f", "arguments": "{}"}, "tool_calls": [call(0, "f", "{}")]}
    assert [kind for kind, *_ in sent(chunk(both), chunk(finish="tool_calls"))] == ["open", "tool", "finish"]


@pytest.mark.parametrize(
    "reason",
    [
        *("error", "abort", "insufficient_system_resource", "load", "unload", "network_error", "time_limit"),
        *("cancelled", "ERROR", "engine-error", "server error"),
    ],
)
def test_a_finish_reason_that_means_an_error_is_a_failure(reason):
    """These are not finish reasons but errors, and another target may succeed."""
    sink = RecordingSink()
    error = feed(sink, chunk({"content": "a"}), chunk(finish=reason))
    assert isinstance(error, UpstreamFailed)
    assert error.status == 503
    assert sink.calls[-1] == ("content", 0, "a")


@pytest.mark.parametrize("reason", ["MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL"])
def test_a_call_that_the_host_could_not_parse_is_an_error_without_failover(reason):
    """Gemini sends these finish reasons. There is no failover, and the error does not count against the target."""
    error = feed(RecordingSink(), chunk(finish=reason))
    assert (type(error), error.status, error.code) == (ToolCallUnparsable, 502, "tool_call_unparsable")
    assert (error.may_try_another_target, error.should_retry) == (False, False)


@pytest.mark.parametrize("reason", ["tool_calls", "tool_use", "tool_call"])
@pytest.mark.parametrize("delta", [{}, {"reasoning": "a"}])
def test_a_finish_reason_of_tool_calls_without_a_call_is_an_error(reason, delta):
    """The host's parser has lost the call (row 76j)."""
    assert type(feed(RecordingSink(), chunk(delta), chunk(finish=reason))) is ToolCallUnparsable


def test_a_missing_call_is_an_empty_answer_if_no_tool_may_be_called():
    sink = RecordingSink()
    assert feed(sink, chunk({}), chunk(finish="tool_calls"), answer_format=HostAnswerFormat(may_call=False)) is None
    assert sink.calls[-1] == ("finish", 0, "stop")


def test_a_finish_reason_does_not_end_a_choice():
    """Some hosts send one with every chunk."""
    pieces = [{"reasoning": "Hm."}, {"content": "a"}, {"content": "b"}, {"tool_calls": [call(0, "f", "{}")]}]
    chunks = [chunk(piece, finish="stop") for piece in pieces]
    assert [entry[0] for entry in sent(*chunks)] == ["open", "reasoning", "content", "content", "tool", "finish"]
    assert sent(chunk({"content": "a"}, finish="tool_calls"), chunk({"tool_calls": [call(0, "f", "{}")]}))[-1] == (
        "finish",
        0,
        "tool_calls",
    )


@pytest.mark.parametrize(
    ("reasons", "expected"),
    [
        (["length", "stop"], "length"),
        (["stop", "length"], "length"),
        (["content_filter", "stop"], "content_filter"),
        (["stop", None, ""], "stop"),
    ],
)
def test_of_several_finish_reasons_with_text_the_last_other_than_stop_counts(reasons, expected):
    assert sent(*[chunk({"content": "a"}, finish=reason) for reason in reasons])[-1] == ("finish", 0, expected)


def test_of_two_finish_reasons_without_text_between_the_first_counts():
    """No part of the answer came between them."""
    assert sent(chunk({"content": "a"}), STOP, chunk(finish="length"))[-1] == ("finish", 0, "stop")


# --- the end ------------------------------------------------------------------------------------------------------


def test_an_answer_without_choices_is_a_failure():
    for chunks in ([], [{"choices": []}], [{"choices": None, "usage": {"prompt_tokens": 1}}]):
        error = feed(RecordingSink(), *chunks)
        assert type(error) is UpstreamFailed
        assert error.may_try_another_target


@pytest.mark.parametrize("reason", [None, ""])
def test_an_end_without_a_finish_reason_is_an_error(reason):
    """A `stop` is never made up (R-TAIL)."""
    error = feed(RecordingSink(), chunk({"content": "a"}, finish=reason))
    assert type(error) is StreamBroken
    assert error.code == "upstream_disconnected"


def test_every_choice_needs_its_finish_reason():
    assert type(feed(RecordingSink(), chunk({"content": "a"}), chunk(index=1), STOP)) is StreamBroken


@pytest.mark.parametrize(
    "chunks",
    [
        [STOP, {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}],
        [STOP | {"usage": {"prompt_tokens": 3, "completion_tokens": 2}}],
        [
            chunk({"content": "a"}, usage={"prompt_tokens": 3, "completion_tokens": 1}),
            chunk(finish="stop", usage={"prompt_tokens": 3, "completion_tokens": 2}),
        ],
        [STOP | {"usage": {"prompt_tokens": 3, "completion_tokens": 2}}, {"choices": [], "usage": None}],
        [{"choices": [], "usage": {"prompt_tokens": 9}}, STOP | {"usage": {"input_tokens": 3, "output_tokens": 2}}],
    ],
)
def test_the_last_usage_is_sent_once_at_the_end(chunks):
    """Hosts send usage in a chunk of its own, with the finish reason, or in each chunk; nothing is summed (R-USAGE)."""
    calls = sent(*chunks)
    assert [call[0] for call in calls].count("usage") == 1
    name, usage = calls[-1]
    assert name == "usage"
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (3, 2, 5)


def test_no_usage_is_sent_if_the_host_sent_none():
    assert "usage" not in [call[0] for call in sent(STOP)]


def test_a_reasoning_count_of_0_is_left_out_if_there_is_reasoning():
    """The count is wrong: vLLM sends 0 although there is reasoning (contract 76k)."""
    usage = {"completion_tokens": 5, "completion_tokens_details": {"reasoning_tokens": 0}}
    usage_sent = sent(chunk({"reasoning": "hm"}), STOP | {"usage": usage})[-1][1]
    assert usage_sent == Usage(0, 5, 5)


def test_a_stream_has_begun_when_a_choice_was_read():
    """Before that, an error is sent with its HTTP status; Azure's first chunk has no choices."""
    stream = ChoiceStream(RecordingSink())
    stream.accept(Chunk(choices=[], usage={"prompt_tokens": 1}))
    assert (stream.has_begun, stream.has_content) == (False, False)


@pytest.mark.parametrize(
    ("delta", "has_content"),
    [
        ({"role": "assistant", "content": ""}, False),
        ({"content": "a"}, True),
        ({"reasoning": "a"}, True),
        ({"tool_calls": [call(0, "f")]}, True),
        ({"refusal": "no"}, True),
        ({"function_call": {"name": "f"}}, True),
        ({"audio": {"data": "AA=="}}, True),
    ],
)
def test_content_is_what_a_caller_waits_for(delta, has_content):
    """The time to the first token is measured with it."""
    stream = ChoiceStream(RecordingSink())
    stream.accept(events.parse(json.dumps(chunk(delta)).encode()))
    assert (stream.has_begun, stream.has_content) == (True, has_content)


# --- tool calls ---------------------------------------------------------------------------------------------------


def test_a_call_in_pieces():
    """Id and name are in the first fragment only."""
    assert tools(
        chunk({"tool_calls": [call(0, "f", "", "call_1", type="function")]}),
        chunk({"tool_calls": [call(0, arguments='{"a"')]}),
        chunk({"tool_calls": [call(0, arguments=":1}")]}),
        STOP,
    ) == [
        ToolPiece(0, "", "call_1", "f"),
        ToolPiece(0, '{"a"'),
        ToolPiece(0, ":1}"),
    ]


def test_a_repeated_id_and_name_are_sent_once():
    """Client libraries would concatenate them to "call_1call_1" and "ff"."""
    piece = call(0, "f", "1", "call_1", type="function")
    assert tools(chunk({"tool_calls": [piece]}), chunk({"tool_calls": [piece]}), STOP) == [
        ToolPiece(0, "1", "call_1", "f"),
        ToolPiece(0, "1"),
    ]


@pytest.mark.parametrize("first", [1, 7, -1])
def test_indexes_become_dense(first):
    pieces = tools(chunk({"tool_calls": [call(first, "f", "{}", "a"), call(first + 5, "g", "{}", "b")]}), STOP)
    assert joined(pieces) == {0: ("a", "f", "{}"), 1: ("b", "g", "{}")}


def test_calls_without_an_index_are_distinguished_by_their_ids():
    pieces = tools(
        chunk({"tool_calls": [call(None, "f", "{", "a")]}),
        chunk({"tool_calls": [call(None, arguments="}")]}),
        chunk({"tool_calls": [call(None, "g", "{}", "b")]}),
        STOP,
    )
    assert joined(pieces) == {0: ("a", "f", "{}"), 1: ("b", "g", "{}")}


def test_two_calls_with_one_index_are_distinguished_by_their_ids():
    pieces = tools(
        chunk({"tool_calls": [call(0, "f", "{}", "a")]}),
        chunk({"tool_calls": [call(0, "g", "{", "b")]}),
        chunk({"tool_calls": [call(0, arguments="}")]}),
        STOP,
    )
    assert joined(pieces) == {0: ("a", "f", "{}"), 1: ("b", "g", "{}")}


def test_calls_with_neither_index_nor_id_are_distinguished_by_name_and_complete_arguments():
    """Some hosts send complete calls this way; the same function may be called twice."""
    pieces = tools(chunk({"tool_calls": [call(None, "f", '{"a":1}'), call(None, "f", '{"a":2}')]}), STOP)
    assert {index: found[1:] for index, found in joined(pieces).items()} == {0: ("f", '{"a":1}'), 1: ("f", '{"a":2}')}


def test_the_fragments_of_interleaved_calls_are_not_mixed():
    pieces = tools(
        chunk({"tool_calls": [call(0, "f", "", "a"), call(1, "g", "", "b")]}),
        chunk({"tool_calls": [call(1, arguments="{1}"), call(0, arguments="{0}")]}),
        STOP,
    )
    assert joined(pieces) == {0: ("a", "f", "{0}"), 1: ("b", "g", "{1}")}


def test_a_repeated_name_does_not_begin_a_call():
    """The arguments are not complete yet, so this is the same call."""
    pieces = tools(
        chunk({"tool_calls": [call(0, "f", '{"a"', "x")]}), chunk({"tool_calls": [call(0, "f", ":1}")]}), STOP
    )
    assert joined(pieces) == {0: ("x", "f", '{"a":1}')}


@pytest.mark.parametrize("given_id", [None, ""])
def test_a_call_without_an_id_gets_one(given_id):
    piece = call(0, "f", "{}") | {"id": given_id}
    [first] = tools(chunk({"tool_calls": [piece]}), STOP)
    assert first.id.startswith("call_")
    assert len(first.id) >= len("call_") + 24


def test_ids_are_unique_over_all_choices():
    """Agents match tool results with calls by id."""
    first, second, third = tools(
        chunk({"tool_calls": [call(0, "f", "{}", "same"), call(1, "f", "{}", "same")]}),
        chunk({"tool_calls": [call(0, "f", "{}", "same")]}, index=1),
        STOP,
        chunk(index=1, finish="stop"),
    )
    assert first.id == "same"
    assert len({first.id, second.id, third.id}) == 3


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"a": [1, None]}, '{"a":[1,null]}'),
        ({}, "{}"),
        ("", ""),
        ("é\n", "é\n"),
        ("\ud83d", "?"),
    ],
)
def test_arguments_are_always_text(arguments, text):
    """Some hosts send an object, which crashes LangChain and the AI SDK. An invalid character is replaced."""
    pieces = tools(chunk({"tool_calls": [call(0, "f", arguments)]}), STOP)
    assert "".join(piece.arguments for piece in pieces).replace(" ", "") == text


def test_null_arguments_are_empty():
    [piece] = tools(chunk({"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": None}}]}), STOP)
    assert piece.arguments == ""


def test_a_call_without_arguments_has_empty_ones():
    """The first fragment that vLLM sends has a name and no arguments (contract 76f)."""
    [piece] = tools(chunk({"tool_calls": [call(0, "f", None, "a")]}), STOP)
    assert (piece.name, piece.arguments) == ("f", "")


WRITTEN = '{"city":"Oslo"}'
PIECES = [chunk({"tool_calls": [call(0, "f", '{"city":', "a")]}), chunk({"tool_calls": [call(0, "", '"Oslo"}')]})]


def test_a_repeated_complete_call_is_passed_on_once():
    """A call with another id, name or argument is a new one. So is a repeated call without arguments."""
    [again, *others] = [
        chunk({"tool_calls": [call(1, *call_fields)]})
        for call_fields in [("f", WRITTEN, "a"), ("f", WRITTEN, "b"), ("g", WRITTEN, "a"), ("f", '{"city":"Rom"}', "a")]
    ]
    assert joined(tools(*PIECES, again, STOP)) == {0: ("a", "f", WRITTEN)}
    assert all(len(joined(tools(*PIECES, other, STOP))) == 2 for other in others)
    empty = [chunk({"tool_calls": [call(index, "f", "{}", "a")]}) for index in (0, 1)]
    assert len(joined(tools(*empty, STOP))) == 2


def test_repeated_calls_do_not_take_quadratic_time():
    """It would take more than a minute if the arguments were joined for each of them."""
    long = [
        chunk({"tool_calls": [call(index, name, piece, "a")]})
        for index in range(80)
        for name, piece in [("f", '{"city":"'), *[("", "x" * 300)] * 1000]
    ]
    last = [chunk({"tool_calls": [call(80, "f", '{"a":1}', "a")]})]
    again = chunk({"tool_calls": [call(81 + index, "f", '{"a":1}', "a") for index in range(20_000)]})
    assert len(joined(tools(*long, *last, again, STOP))) == 81


def test_an_empty_call_is_dropped():
    nothing = {"tool_calls": [{"index": 0, "id": "", "type": "function", "function": {"name": "", "arguments": ""}}]}
    assert sent(chunk({"content": "a"}), chunk(nothing), chunk(finish="tool_calls"))[1:] == [
        ("content", 0, "a"),
        ("finish", 0, "stop"),
    ]
    assert joined(tools(chunk(nothing), *PIECES, STOP)) == {0: ("a", "f", WRITTEN)}


@pytest.mark.parametrize("is_whole", [False, True])
def test_calls_in_an_extra_choice_belong_to_the_requested_choice(is_whole):
    """GitHub Copilot splits Claude's answers in this way."""
    message = {"tool_calls": [call(0, "f", WRITTEN, "a")]}
    whole = {"choices": [{"message": {"content": "a"}}, {"message": message, "finish_reason": "tool_calls"}]}
    pieces = [{"choices": [piece["choices"][0] | {"index": 1}]} for piece in PIECES]
    sink = RecordingSink()
    answer = [whole] if is_whole else [chunk({"content": "a"}), *pieces]
    assert feed(sink, *answer, STOP, answer_format=HostAnswerFormat(choices=1)) is None
    assert joined([entry[2] for entry in sink.calls if entry[0] == "tool"]) == {0: ("a", "f", WRITTEN)}
    assert sink.calls[-1] == ("finish", 0, "tool_calls")


def test_calls_in_an_extra_choice_are_dropped_if_the_requested_choice_has_its_own():
    """Otherwise the answer would hold the calls of two answers."""
    sink = RecordingSink()
    other = chunk({"tool_calls": [call(0, "g", "{}", "b")]}, index=1)
    assert feed(sink, *PIECES, other, STOP, answer_format=HostAnswerFormat(choices=1)) is None
    assert joined([entry[2] for entry in sink.calls if entry[0] == "tool"]) == {0: ("a", "f", WRITTEN)}


@pytest.mark.parametrize(
    ("arguments", "taken", "limit", "reason"),
    [
        ('{"city":"Os', 16, 16, "length"),
        ('{"city":"Os', 15, 16, "tool_calls"),
        ('{"city":"Os', 16, None, "tool_calls"),
        ('{"city":"Oslo"}', 16, 16, "tool_calls"),
        ('{}""', 16, 16, "tool_calls"),
    ],
)
def test_a_call_truncated_at_the_token_limit_finishes_with_length(arguments, taken, limit, reason):
    """Some versions of vLLM send the finish reason `tool_calls`."""
    sink = RecordingSink()
    usage = {"prompt_tokens": 3, "completion_tokens": taken, "total_tokens": 3 + taken}
    cut = chunk({"tool_calls": [call(0, "f", arguments, "a")]}, finish="tool_calls", usage=usage)
    assert feed(sink, cut, answer_format=HostAnswerFormat(max_tokens=limit)) is None
    assert [entry for entry in sink.calls if entry[0] == "finish"] == [("finish", 0, reason)]


def test_log_probabilities_that_were_not_requested_are_dropped():
    logprobs = {"content": [{"token": "a", "logprob": -0.5}]}
    given = chunk({"content": "a"}, choice={"logprobs": logprobs})
    sink = RecordingSink()
    feed(sink, given, STOP, answer_format=HostAnswerFormat(wants_logprobs=False))
    assert sink.calls[1] == ("content", 0, "a")
    assert sent(given, STOP)[1] != ("content", 0, "a")


@pytest.mark.parametrize(
    "deltas",
    [
        [{"content": "<think>"}, {"content": "Hm.", "reasoning": "Hm."}, {"content": "</think>"}, {"content": "Hi"}],
        [{"content": "<think>Hm.</think>\n\nHi", "reasoning": "Hm."}],
        [{"content": "<think>\nHm.\n</think>Hi", "reasoning": "Hm.\n"}],
    ],
)
def test_reasoning_in_two_forms_is_sent_once(deltas):
    """Some hosts send it between tags in the content and in a field of its own."""
    sink = RecordingSink()
    assert feed(sink, *map(chunk, deltas), STOP, answer_format=HostAnswerFormat(thought_tags=("think",))) is None
    texts = {kind: "".join(entry[2] for entry in sink.calls if entry[0] == kind) for kind in ("reasoning", "content")}
    assert {kind: text.strip() for kind, text in texts.items()} == {"reasoning": "Hm.", "content": "Hi"}


def test_a_call_without_a_function_has_an_empty_one():
    """Clients read `function` without checking that it exists."""
    [piece] = tools(chunk({"tool_calls": [{"index": 0, "id": "a", "type": "function"}]}), STOP)
    assert (piece.name, piece.arguments) == ("", "")


def test_a_name_after_the_id_is_not_lost():
    pieces = tools(
        chunk({"tool_calls": [{"index": 0, "id": "a", "type": "function"}]}),
        chunk({"tool_calls": [call(0, "f", "{}")]}),
        STOP,
    )
    assert joined(pieces) == {0: ("a", "f", "{}")}


def test_the_indexes_are_dense_if_a_calls_name_is_late():
    """Clients number calls by the order in which they begin."""
    pieces = tools(
        chunk({"tool_calls": [call(0, call_id="a"), call(1, "g", "{}", "b")]}),
        chunk({"tool_calls": [call(0, "f", "{}"), call(1, arguments=" ")]}),
        STOP,
    )
    assert [piece.index for piece in pieces] == [0, 1, 0]
    assert sorted(joined(pieces).values()) == [("a", "f", "{}"), ("b", "g", "{} ")]


def test_a_call_without_a_name_is_sent_at_the_end():
    pieces = tools(chunk({"tool_calls": [call(0, None, "{}", "a"), call(1, "g", "{}", "b")]}), STOP)
    assert joined(pieces) == {0: ("b", "g", "{}"), 1: ("a", "", "{}")}


def call_in_fragments(*pieces):
    """Return the chunks of one call, whose arguments arrive in these fragments."""
    named = chunk({"tool_calls": [call(0, "f", call_id="call_1")]})
    return [named, *(chunk({"tool_calls": [call(0, arguments=piece)]}) for piece in pieces)]


REPAIRS = HostAnswerFormat(leaks_markup=True)
ARGUMENTS = [  # as the host sends them, and as they are passed on
    ('{"a": "b"}</｜DSML｜parameter', '{"a": "b"}'),
    ('{"a": "b"}</｜DSML｜parameter>\n', '{"a": "b"}'),
    ('{"a": "b"}</|DSML|parameter>', '{"a": "b"}'),
    *(
        (text, text)
        for text in (
            '{"path": "a < b</｜DSML｜parameter>", "text": "<b>c</b></｜DSML｜parameter"}',
            '{"a": "</｜DSML｜parameter"}',
            '{"a": "b</｜DSML｜parameter',
            '{"a": "b"}</｜DSML｜param',
            '{"a": "</',
            '{"a": "b"}<',
        )
    ),
]


@pytest.mark.parametrize(("given_arguments", "expected"), ARGUMENTS)
@pytest.mark.parametrize("size", [1, 2, 5, 13, 100])
def test_arguments_are_unchanged_except_for_a_tag_after_their_json(given_arguments, expected, size):
    """Markup inside the arguments is kept, and so are arguments that are not JSON (row 70)."""
    pieces = [given_arguments[at : at + size] for at in range(0, len(given_arguments), size)]
    sink = RecordingSink()
    assert feed(sink, *call_in_fragments(*pieces), STOP, answer_format=REPAIRS) is None
    [(_, _, arguments)] = joined([entry[2] for entry in sink.calls if entry[0] == "tool"]).values()
    assert arguments == expected


def test_the_tag_is_kept_if_the_host_leaks_no_markup():
    """The tag is removed only if `HostAnswerFormat.leaks_markup` is set."""
    [(_, _, arguments)] = joined(tools(*call_in_fragments(ARGUMENTS[0][0]), STOP)).values()
    assert arguments == ARGUMENTS[0][0]


@pytest.mark.parametrize(
    ("deltas", "text"),
    [
        ([{"content": "\n\na\n"}, {"content": "\nb"}], "a\n\nb"),
        ([{"content": "\n"}, {"content": ""}, {"content": "\n  a"}], "  a"),
        ([{"content": "\n\n"}, {"tool_calls": [call(0, "f", "{}")]}], ""),
    ],
)
def test_newlines_after_the_reasoning_are_removed(deltas, text):
    """This is done for hosts that are known to send them (76g)."""
    sink = RecordingSink()
    feed(
        sink,
        chunk({"reasoning": "hm"}),
        *map(chunk, deltas),
        STOP,
        answer_format=HostAnswerFormat(newlines_before_answer=True),
    )
    assert "".join(call[2] for call in sink.calls if call[0] == "content") == text


def test_newlines_without_reasoning_are_kept():
    sink = RecordingSink()
    feed(sink, chunk({"content": "\n\na"}), STOP, answer_format=HostAnswerFormat(newlines_before_answer=True))
    assert ("content", 0, "\n\na") in sink.calls


def test_log_probabilities_of_the_newlines_are_sent():
    """The client receives one for each token of the answer."""
    sink = RecordingSink()
    newline = chunk({"content": "\n"})
    newline["choices"][0]["logprobs"] = {"content": [{"token": "\n", "logprob": 0.0}]}
    feed(sink, chunk({"reasoning": "hm"}), newline, STOP, answer_format=HostAnswerFormat(newlines_before_answer=True))
    assert [call[2] for call in sink.calls if call[0] == "content"] == [""]


def test_an_empty_fragment_is_dropped():
    assert (
        len(tools(chunk({"tool_calls": [call(0, "f", "{}", "a")]}), chunk({"tool_calls": [call(0, None, "")]}), STOP))
        == 1
    )


def test_a_custom_tool_is_passed_on():
    custom = {"index": 0, "id": "a", "type": "custom", "custom": {"name": "run", "input": "ls"}}
    [piece] = tools(chunk({"tool_calls": [custom]}), STOP)
    assert (piece.id, bytes(piece.custom)) == ("a", b'{"name":"run","input":"ls"}')


def test_a_custom_tool_in_fragments_has_its_name_once():
    """As for a function (R-TOOL), repetitions are dropped. A custom call stays one if a function's arguments follow."""
    pieces = tools(
        chunk({"tool_calls": [{"index": 0, "id": "a", "custom": {"name": "run", "format": "x"}}]}),
        chunk({"tool_calls": [{"index": 0, "id": "a", "custom": {"name": "run", "input": "l"}}]}),
        chunk({"tool_calls": [call(0, None, "{}"), {"index": 0, "custom": {"input": "s"}}]}),
        STOP,
    )
    assert [bytes(piece.custom) for piece in pieces] == [
        b'{"name":"run","input":""}',
        b'{"input":"l"}',
        b'{"input":"s"}',
    ]


def test_a_function_does_not_become_a_custom_tool():
    pieces = tools(
        chunk({"tool_calls": [call(0, "f", "{", "a"), {"index": 0, "custom": {"name": "run", "input": "l"}}]}),
        chunk({"tool_calls": [call(0, None, "}")]}),
        STOP,
    )
    assert joined(pieces) == {0: ("a", "f", "{}")}


@pytest.mark.parametrize("custom", [None, {}, {"format": "x"}])
def test_an_empty_custom_is_dropped(custom):
    """Hosts that encode every field send it in addition to a function."""
    [piece] = tools(chunk({"tool_calls": [call(0, "f", "{}", "a", custom=custom)]}), STOP)
    assert piece == ToolPiece(0, "{}", "a", "f")


def test_a_call_may_have_its_name_and_arguments_without_a_function():
    pieces = [{"index": 0, "id": "a", "name": "f", "arguments": '{"x":'}, {"index": 0, "arguments": "1}"}]
    fragments = tools(*[chunk({"tool_calls": [piece]}) for piece in pieces], STOP)
    assert joined(fragments) == {0: ("a", "f", '{"x":1}')}


@pytest.mark.parametrize("empty", [None, []])
def test_an_empty_list_of_calls_is_dropped(empty):
    """The finish reason is not changed by it."""
    assert sent(chunk({"tool_calls": empty, "content": "a"}, finish="stop")) == sent(
        chunk({"content": "a"}, finish="stop")
    )


# --- fields that are passed on ------------------------------------------------------------------------------------


def test_audio_and_function_calls_are_passed_on_in_one_line():
    """A newline would end the event."""
    delta = b'{"function_call":{"name":\n"f"},"audio":{\n"id":\r\n"a"}}'
    body = b'{"choices":[{"index":0,"delta":%b,"finish_reason":"stop"}]}' % delta
    assert [call for call in sent(body) if call[0] == "extra"] == [
        ("extra", 0, "function_call", b'{"name":"f"}'),
        ("extra", 0, "audio", b'{"id":"a"}'),
    ]


def test_annotations_are_passed_on_once_before_the_finish():
    """Accumulators join lists by an `index` that annotations do not have, so a second list would break them."""
    body = b'{"choices":[{"index":0,"delta":{"annotations":[\n{"type": "x"}\n],"content":"a"}}]}'
    assert sent(body, body, STOP)[-2:] == [
        ("extra", 0, "annotations", b'[{"type":"x"},{"type":"x"}]'),
        ("finish", 0, "stop"),
    ]


@pytest.mark.parametrize("value", [None, []])
@pytest.mark.parametrize("name", ["annotations", "audio", "function_call"])
def test_extras_that_are_empty_are_left_out(name, value):
    """Hosts send null for them (contract row 37)."""
    assert sent(chunk({name: value}, finish="stop")) == sent(STOP)


@pytest.mark.parametrize("name", ["annotations", "audio", "function_call"])
@pytest.mark.parametrize("value", [b'["\xff"]', b'{"a":"\xff"}', b'["\\ud83d"]'])
def test_extras_in_invalid_unicode_become_valid_or_are_a_failure(name, value):
    """The decoder does not check the inside of a raw value (contract E.5); the answer to the caller must be UTF-8."""
    sink = RecordingSink()
    feed(sink, b'{"choices":[{"index":0,"delta":{"%b":%b},"finish_reason":"stop"}]}' % (name.encode(), value))
    for entry in sink.calls:
        if entry[0] == "extra":
            entry[3].decode()


DEEP = b"[" * 10**5 + b"]" * 10**5


@pytest.mark.parametrize(
    "delta",
    [
        pytest.param(b'"annotations":' + DEEP, id="annotations"),
        pytest.param(b'"audio":{"a":' + DEEP + b"}", id="audio"),
        pytest.param(b'"tool_calls":[{"index":0,"function":{"name":"f","arguments":' + DEEP + b"}}]", id="arguments"),
        pytest.param(b'"tool_calls":[{"index":0,"custom":' + DEEP + b"}]", id="custom"),
        pytest.param(
            b'"tool_calls":[{"index":0,"function":{"name":"f","arguments":"'
            + DEEP
            + b'"}},{"index":0,"function":{"name":"f","arguments":"1"}}]',
            id="arguments as text",
        ),
    ],
)
def test_deep_json_is_at_most_an_error(delta):
    """Whatever nests too deeply, only Tidegate's own errors are raised (contract E.5)."""
    error = feed(RecordingSink(), b'{"choices":[{"index":0,"delta":{%b},"finish_reason":"stop"}]}' % delta)
    assert error is None or isinstance(error, ProxyError)


@pytest.mark.parametrize("name", ["audio", "function_call"])
def test_extras_that_nest_deeply_are_a_failure(name):
    """The limit is that of requests. Some hundred levels could be read here, but are too many when they are written."""
    value = b'{"name":' + b'{"a":' * 65 + b"1" + b"}" * 66
    error = feed(RecordingSink(), b'{"choices":[{"index":0,"delta":{"%b":%b}}]}' % (name.encode(), value))
    assert isinstance(error, UpstreamFailed)


def test_reasoning_too_long_to_be_kept_does_not_become_the_answer():
    """Rather than a part of it, nothing is sent (row 76i)."""
    thought = chunk({"reasoning": "x" * 1024 * 1024})
    sink = RecordingSink()
    assert feed(sink, *[thought] * 9, STOP, answer_format=HostAnswerFormat(reasoning_may_be_answer=True)) is None
    assert [entry[0] for entry in sink.calls] == ["open", *["reasoning"] * 9, "finish"]


def test_a_name_repeated_many_times_does_not_take_quadratic_time():
    """To see whether a call is complete, all of it is parsed; this is done only up to a limit (R-TOOL)."""
    piece = call(0, "f", " " * 200)
    begun = call(0, "f", '{"a": "')
    pieces = tools(*[chunk({"tool_calls": [begun] + [piece] * 1000})] * 20, STOP)
    assert {piece.index for piece in pieces} == {0}


def test_logprobs_are_sent_with_their_text():
    given = {"content": [{"token": "a", "logprob": -0.5}]}
    assert sent(chunk({"content": "a"}, choice={"logprobs": given}), STOP)[1] == ("content", 0, "a", given)


def test_logprobs_without_text_are_sent():
    """A token may be a part of a character."""
    given = {"content": [{"token": "a", "logprob": -0.5}]}
    assert sent(chunk({"content": ""}, choice={"logprobs": given}), STOP)[1] == ("content", 0, "", given)


def test_the_custom_of_a_fragment_is_raw():
    """The sink receives bytes that can be spliced into the encoded chunk."""
    [piece] = tools(chunk({"tool_calls": [{"index": 0, "custom": {"name": "a"}}]}), STOP)
    assert isinstance(piece.custom, Raw)


# --- deviations of hosts in ids, indexes and messages ---------------------------------------------------------------


def test_an_id_that_changes_with_each_fragment_makes_one_call():
    """The first id is the call's."""
    pieces = tools(
        chunk({"tool_calls": [call(0, "f", "", "a")]}),
        chunk({"tool_calls": [call(0, None, '{"x":', "b")]}),
        chunk({"tool_calls": [call(0, None, "1}", "c")]}),
        STOP,
    )
    assert joined(pieces) == {0: ("a", "f", '{"x":1}')}


def test_a_new_id_and_a_repeated_name_in_each_fragment_make_one_call():
    """This holds as long as the arguments are not complete."""
    pieces = tools(
        chunk({"tool_calls": [call(0, "f", "", "a")]}),
        chunk({"tool_calls": [call(0, "f", '{"x":', "b")]}),
        chunk({"tool_calls": [call(0, "f", "1}", "c")]}),
        chunk({"tool_calls": [call(0, "f", "{}", "d")]}),
        STOP,
    )
    assert joined(pieces) == {0: ("a", "f", '{"x":1}'), 1: ("d", "f", "{}")}


def test_an_index_that_changes_with_each_fragment_makes_one_call():
    """The id identifies the call; without an id the fragment belongs to the last call."""
    pieces = tools(
        chunk({"tool_calls": [call(0, "f", "", "a")]}),
        chunk({"tool_calls": [call(1, None, '{"x":', "a")]}),
        chunk({"tool_calls": [call(2, None, "1}")]}),
        STOP,
    )
    assert joined(pieces) == {0: ("a", "f", '{"x":1}')}


def test_interleaved_calls_without_an_index_are_distinguished_by_their_ids():
    pieces = tools(
        chunk({"tool_calls": [call(None, "f", "{", "a"), call(None, "g", "[", "b")]}),
        chunk({"tool_calls": [call(None, None, "}", "a"), call(None, None, "]", "b")]}),
        STOP,
    )
    assert joined(pieces) == {0: ("a", "f", "{}"), 1: ("b", "g", "[]")}


@pytest.mark.parametrize("index", [1, 7, None])
def test_the_only_choice_may_have_any_index(index):
    """This holds if one choice was requested."""
    sink = RecordingSink()
    given = [chunk({"content": "a"}, index=index), chunk(index=index, finish="stop")]
    assert feed(sink, *given, answer_format=HostAnswerFormat(choices=1)) is None
    assert sink.calls == [("open", 0), ("content", 0, "a"), ("finish", 0, "stop")]


def test_a_choice_that_was_not_requested_is_dropped():
    sink = RecordingSink()
    given = [chunk({"content": "a"}), chunk({"content": "x"}, index=1), STOP, chunk(index=1, finish="stop")]
    assert feed(sink, *given, answer_format=HostAnswerFormat(choices=1)) is None
    assert sink.calls == [("open", 0), ("content", 0, "a"), ("finish", 0, "stop")]


def test_choices_without_an_index_are_numbered_by_position():
    choices = [{"message": {"content": text}, "finish_reason": "stop"} for text in "ab"]
    assert [entry[1:] for entry in sent({"choices": choices}) if entry[0] == "content"] == [(0, "a"), (1, "b")]


def test_the_4096th_choice_is_the_last_one():
    """The limit allows 128 choices for each of 32 prompts."""
    assert feed(RecordingSink(), chunk({"content": "a"}, index=4096, finish="stop")) is not None
    sink = RecordingSink()
    feed(sink, chunk({"content": "a"}, index=4095, finish="stop"))
    assert ("content", 4095, "a") in sink.calls


def test_the_128th_call_is_the_last_one():
    named = [call(number, "f", "{}", f"c{number}") for number in range(129)]
    assert len(tools(chunk({"tool_calls": named[:128]}), STOP)) == 128
    error = feed(RecordingSink(), chunk({"tool_calls": named}), STOP)
    assert (type(error), error.message) == (ToolCallUnparsable, "The model called more than 128 tools in one answer.")


def test_a_whole_message_after_the_deltas_is_ignored():
    """Only its finish reason is used."""
    whole = {"content": "ab", "tool_calls": [call(0, "f", "{}", "a")]}
    end = {"choices": [{"index": 0, "message": whole, "finish_reason": "stop"}]}
    assert sent(chunk({"content": "a"}), chunk({"content": "b"}), end) == [
        ("open", 0),
        ("content", 0, "a"),
        ("content", 0, "b"),
        ("finish", 0, "stop"),
    ]


def test_a_message_beside_an_empty_delta_is_read():
    assert sent({"choices": [{"index": 0, "delta": {}, "message": {"content": "a"}, "finish_reason": "stop"}]}) == [
        ("open", 0),
        ("content", 0, "a"),
        ("finish", 0, "stop"),
    ]


@pytest.mark.parametrize("has_end_marker", [True, False])
def test_a_finish_reason_that_is_not_a_string_counts_if_the_host_marked_the_end(has_end_marker):
    """The host marks the end by `[DONE]`, or by the end of a JSON body."""
    sink = RecordingSink()
    stream = ChoiceStream(sink)
    stream.accept(events.parse(json.dumps(chunk({"content": "a"}, finish={})).encode()))
    if has_end_marker:
        stream.close(has_end_marker=True)
        assert sink.calls[-1] == ("finish", 0, "stop")
    else:
        with pytest.raises(StreamBroken):
            stream.close()


# --- split characters -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["content", "reasoning", "reasoning_content", "refusal"])
def test_a_character_split_over_two_chunks_is_joined(name):
    kind = "reasoning" if name.startswith("reasoning") else name
    calls = sent(chunk({name: "a\ud83d"}), chunk({name: "\ude00b"}), STOP)
    assert "".join(entry[2] for entry in calls if entry[0] == kind) == "a\U0001f600b"


def test_a_character_split_in_arguments_is_joined():
    pieces = call_in_fragments('{"a":"\ud83d', '\ude00"}')
    [(_, _, arguments)] = joined(tools(*pieces, STOP)).values()
    assert arguments == '{"a":"\U0001f600"}'


def test_a_character_split_in_a_completion_is_joined():
    halves = [{"choices": [{"index": 0, "text": text}]} for text in ("a\ud83d", "\ude00")]
    calls = sent(*halves, STOP)
    assert "".join(entry[2] for entry in calls if entry[0] == "content") == "a\U0001f600"


@pytest.mark.parametrize("name", ["content", "reasoning", "refusal"])
def test_a_lone_surrogate_at_the_end_becomes_a_question_mark(name):
    calls = sent(chunk({name: "a\ud83d"}), STOP)
    assert "".join(entry[2] for entry in calls if entry[0] == name) == "a?"


# --- fields beyond OpenAI's -----------------------------------------------------------------------------------------


def test_the_extra_content_of_a_call_is_passed_on_once():
    """Gemini rejects the next turn if it is missing."""
    signed = {"extra_content": {"google": {"thought_signature": "s"}}}
    first, second = tools(
        chunk({"tool_calls": [call(0, "f", "{", "a")]}),
        chunk({"tool_calls": [call(0, None, "}") | signed, call(0, None, "") | signed]}),
        STOP,
    )
    assert first.extra_content is UNSET
    assert (second.arguments, bytes(second.extra_content)) == ("}", b'{"google":{"thought_signature":"s"}}')


def test_reasoning_details_are_sent_at_the_end_and_are_the_reasoning_if_there_is_no_other():
    details = [{"type": "reasoning.text", "text": "H"}], [{"type": "reasoning.text", "text": "m.", "signature": "s"}]
    calls = sent(*[chunk({"reasoning_details": each}) for each in details], chunk({"content": "a"}), STOP)
    assert [entry[2] for entry in calls if entry[0] == "reasoning"] == ["H", "m."]
    assert json.loads(calls[-2][3]) == [{"type": "reasoning.text", "text": "Hm.", "signature": "s"}]
    twice = sent(chunk({"reasoning": "Hm.", "reasoning_details": [{"type": "reasoning.text", "text": "Hm."}]}), STOP)
    assert [entry[2] for entry in twice if entry[0] == "reasoning"] == ["Hm."]


def test_reasoning_details_of_a_whole_answer_are_unchanged():
    details = [{"type": "reasoning.text", "text": "a"}, {"type": "reasoning.text", "text": "b"}]
    message = {"content": "x", "reasoning_details": details}
    calls = sent({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})
    assert json.loads(calls[-2][3]) == details


def test_images_are_sent_at_the_end_and_count_as_an_answer():
    picture = {"type": "image_url", "image_url": {"url": "data:x"}}
    stream = ChoiceStream(sink := RecordingSink())
    stream.accept(events.parse(json.dumps(chunk({"images": [picture]})).encode()))
    assert stream.has_content
    stream.accept(events.parse(json.dumps(STOP).encode()))
    stream.close()
    assert sink.calls[1:] == [
        ("extra", 0, "images", json.dumps([picture], separators=(",", ":")).encode()),
        ("finish", 0, "stop"),
    ]


def test_the_extra_content_of_a_message_is_merged():
    calls = sent(
        chunk({"extra_content": {"google": {"a": True}}}), chunk({"extra_content": {"google": {"b": 1}}}), STOP
    )
    assert calls[-2] == ("extra", 0, "extra_content", b'{"google":{"a":true,"b":1}}')


def test_top_level_fields_are_passed_on_if_requested():
    top_level = frozenset({"service_tier", "system_fingerprint", "moderation"})
    given = [
        chunk({"content": "a"}, service_tier="flex", system_fingerprint="fp_1"),
        chunk({}, service_tier="flex", moderation={"input": {}}),
        STOP,
    ]
    sink = RecordingSink()
    assert feed(sink, *given, answer_format=HostAnswerFormat(top_level=top_level)) is None
    assert [entry[1:] for entry in sink.calls if entry[0] == "top_level"] == [
        ("service_tier", b'"flex"'),
        ("system_fingerprint", b'"fp_1"'),
        ("moderation", b'{"input":{}}'),
    ]
    assert "top_level" not in [entry[0] for entry in sent(*given)]


def test_a_service_tier_that_openai_does_not_have_is_dropped():
    sink = RecordingSink()
    feed(
        sink,
        chunk({}, finish="stop", service_tier="on_demand"),
        answer_format=HostAnswerFormat(top_level=frozenset({"service_tier"})),
    )
    assert sink.calls == [("open", 0), ("finish", 0, "stop")]


# --- reasoning that may become the answer ---------------------------------------------------------------------------


def kept_characters(stream):
    """Return the number of characters of reasoning that are kept."""
    return sum(len(thought) for state in stream._states for thought in state.thoughts)


@pytest.mark.parametrize("repairs", [True, False])
def test_reasoning_is_kept_only_as_long_as_it_may_become_the_answer(repairs):
    """Otherwise 8,000 fragments take half a megabyte until the end of the stream."""
    stream = ChoiceStream(RecordingSink(), HostAnswerFormat(reasoning_may_be_answer=repairs))
    for _ in range(100):
        stream.accept(events.parse(json.dumps(chunk({"reasoning": "x" * 10})).encode()))
    assert kept_characters(stream) == (1000 if repairs else 0)
    stream.accept(events.parse(json.dumps(chunk({"content": "a"})).encode()))
    stream.accept(events.parse(json.dumps(chunk({"reasoning": "more"})).encode()))
    assert kept_characters(stream) == 0


def test_reasoning_does_not_become_the_answer_if_there_is_one():
    """Rows 68 and 76i are only for answers without content, refusal and calls."""
    for answer in ({"content": "a"}, {"refusal": "no"}, {"tool_calls": [call(0, "f", "{}")]}):
        sink = RecordingSink()
        feed(
            sink,
            chunk(answer),
            chunk({"reasoning": "Hm."}),
            STOP,
            answer_format=HostAnswerFormat(reasoning_may_be_answer=True),
        )
        assert [entry for entry in sink.calls if entry[0] == "content" and entry[2] == "Hm."] == []


def test_markup_is_text_if_the_host_sent_a_call():
    """If the host sends a call itself, a block of markup is text. Text that was held back is sent before the call."""
    block = "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
    offered = Raw(b'[{"type":"function","function":{"name":"f"}}]')
    answer_format = HostAnswerFormat(leaks_markup=True, tools=offered)
    for deltas in (
        [{"content": block}, {"tool_calls": [call(0, "f", "{}", "a")]}],
        [{"tool_calls": [call(0, "f", "{}", "a")]}, {"content": block}],
    ):
        sink = RecordingSink()
        assert feed(sink, *map(chunk, deltas), chunk(finish="tool_calls"), answer_format=answer_format) is None
        assert [entry[2] for entry in sink.calls if entry[0] == "content"] == [block]
        assert [entry[2].name for entry in sink.calls if entry[0] == "tool"] == ["f"]
    sink = RecordingSink()
    assert feed(sink, chunk({"content": block}), STOP, answer_format=answer_format) is None
    assert sink.calls[-1] == ("finish", 0, "tool_calls")
    filtered = RecordingSink()
    assert (
        feed(filtered, chunk({"content": block}), chunk(finish="content_filter"), answer_format=answer_format) is None
    )
    assert filtered.calls[1:] == [("content", 0, block), ("finish", 0, "content_filter")]


# --- generated answers, with every kind of reading ----------------------------------------------------------------

markup = st.sampled_from(
    [
        *("", "a", " ", "\n", "<", "<think>", "Hm.</think>\n\n", "a < b"),
        "<｜tool▁calls▁begin｜>",
        "<｜tool▁call▁begin｜>f<｜tool▁sep｜>{}<｜tool▁call▁end｜>",
        "<｜tool▁calls▁end｜>",
        '<｜DSML｜tool_calls><｜DSML｜invoke name="f">{}</｜DSML｜invoke></｜DSML｜tool_calls>',
        "</｜DSML｜",
        "<｜end▁of▁sentence｜>",
    ]
)
some_calls = st.lists(
    st.builds(
        call,
        st.sampled_from([0, 1, 5, None]),
        st.sampled_from(["f", "g", "", None]),
        st.sampled_from(["", "{}", '{"a":', "<｜DSML｜x>", None]),
        st.sampled_from(["x", "y", "", None]),
        custom=st.none() | st.fixed_dictionaries({}, optional={"name": st.just("run"), "input": st.just("ls")}),
    ),
    min_size=1,
    max_size=2,
)
some_deltas = st.fixed_dictionaries(
    {},
    optional={
        "content": markup,
        "reasoning": markup,
        "refusal": st.sampled_from(["", "no"]),
        "tool_calls": some_calls,
        "audio": st.just({"data": "x"}),
        "annotations": st.just([{"type": "url_citation"}]),
        "function_call": st.sampled_from([{"name": "f"}, {"arguments": "{}"}, None]),
    },
)
some_readings = st.builds(
    HostAnswerFormat,
    thought_tags=st.sampled_from([(), ("think",)]),
    begins_in_reasoning=st.booleans(),
    leaks_markup=st.booleans(),
    tools=st.sampled_from([UNSET, Raw(b'[{"type":"function","function":{"name":"f"}}]')]),
    may_call=st.booleans(),
    one_call=st.booleans(),
    reasoning_may_be_answer=st.booleans(),
    has_positional_call_ids=st.booleans(),
)


@settings(max_examples=400)
@given(
    st.lists(st.tuples(st.integers(0, 1), some_deltas), max_size=6),
    st.sampled_from(["stop", "length", "tool_calls"]),
    some_readings,
)
def test_any_answer_is_sent_in_order_or_is_an_error(deltas, finish, answer_format):
    """The order of calls that `Sink` specifies is kept for any answer and any reading."""
    sink = RecordingSink()
    ending = [chunk(index=index, finish=finish) for index in (0, 1)]
    error = feed(sink, *[chunk(delta, index=index) for index, delta in deltas], *ending, answer_format=answer_format)
    assert error is None or isinstance(error, ProxyError)
    for index in (0, 1):
        check_order([entry for entry in sink.calls if entry[1] == index], is_whole=error is None)


def check_order(calls, *, is_whole):
    kinds = [entry[0] for entry in calls]
    assert kinds[:1] in ([], ["open"])
    assert "open" not in kinds[1:]
    assert "finish" not in kinds[:-1]
    assert not is_whole or kinds[-1] == "finish"
    assert all(entry[2] for entry in calls if entry[0] in {"reasoning", "refusal", "content"})
    pieces = [entry[2] for entry in calls if entry[0] == "tool"]
    begun = [piece for piece in pieces if piece.id is not None]
    assert [piece.index for piece in begun] == list(range(len(begun)))
    assert all(piece.name is not None for piece in begun)
    assert all(piece.index < len(begun) and piece.name is None for piece in pieces if piece.id is None)
    if calls and calls[-1] == ("finish", 0, "tool_calls"):
        assert pieces


@settings(max_examples=300)
@given(st.lists(markup, min_size=1, max_size=5), some_readings, st.data())
def test_the_result_does_not_depend_on_the_chunks(texts, answer_format, data):
    text = "".join(texts)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=5)))
    parts = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    whole, cut = RecordingSink(), RecordingSink()
    errors = [
        feed(sink, *[chunk({"content": part}) for part in given], STOP, answer_format=answer_format)
        for sink, given in ((whole, [text]), (cut, parts))
    ]
    assert type(errors[0]) is type(errors[1])
    if errors[0] is None:
        assert assembled(cut) == assembled(whole)


def assembled(sink):
    """Return what a caller assembles, without the ids, which are random."""
    texts = {kind: "".join(entry[2] for entry in sink.calls if entry[0] == kind) for kind in ("content", "reasoning")}
    calls = [(piece.name, piece.arguments) for _, _, piece in (entry for entry in sink.calls if entry[0] == "tool")]
    return texts, calls, sink.calls[-1]
