"""Tool calls in DeepSeek's markup become calls only under strict conditions; other text is unchanged."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET, Raw

from tests.fakes.sink import RecordingSink
from tests.unit.chunks import chunk, feed
from tidegate.dialects.registry import DIALECTS
from tidegate.protocol import chat
from tidegate.streaming.markup import MarkupCall, MarkupReader, is_tag, names_of, trailing_tag

TOOLS = Raw(json.dumps([{"type": "function", "function": {"name": name}} for name in ("weather", "f")]).encode())
V3 = (
    "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```json\n"
    '{"city": "Paris"}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```json\n'
    '{"city": "Rome"}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>'
)
V31 = (
    '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>{"city": "Paris"}<｜tool▁call▁end｜>'
    '<｜tool▁call▁begin｜>weather<｜tool▁sep｜>{"city": "Rome"}<｜tool▁call▁end｜><｜tool▁calls▁end｜>'
)
DSML = (
    '<｜DSML｜tool_calls>\n<｜DSML｜invoke name="weather">\n<｜DSML｜parameter name="city" string="true">Paris'
    '</｜DSML｜parameter>\n<｜DSML｜parameter name="days" string="false">[1, 2]</｜DSML｜parameter>\n'
    "</｜DSML｜invoke>\n</｜DSML｜tool_calls>"
)
PARIS, ROME = MarkupCall("weather", '{"city": "Paris"}'), MarkupCall("weather", '{"city": "Rome"}')
DAYS = MarkupCall("weather", '{"city":"Paris","days":[1,2]}')
END = "<｜end▁of▁sentence｜>"

CALLED = [  # the host's content, the part of it that is text, and the calls
    (V3, "", [PARIS, ROME]),
    (V31, "", [PARIS, ROME]),
    (DSML, "", [DAYS]),
    (DSML.replace("tool_calls", "function_calls"), "", [DAYS]),
    (f"Let me see.\n\n{V31}\n", "Let me see.\n\n", [PARIS, ROME]),
    (f"\n{DSML}  \n ", "\n", [DAYS]),
    (f"{V31}{END}", "", [PARIS, ROME]),
    (f"```py\nx = 1\n```\n{DSML}", "```py\nx = 1\n```\n", [DAYS]),
    (f"~~~\n```\n~~~\n{DSML}", "~~~\n```\n~~~\n", [DAYS]),
    (f"inline ``` x ``` code\n{DSML}", "inline ``` x ``` code\n", [DAYS]),
    (f"1 < 2\n< 3\n{V31}", "1 < 2\n< 3\n", [PARIS, ROME]),
    (
        "<|tool_calls_begin|><|tool_call_begin|>f<|tool_sep|>{}<|tool_call_end|><|tool_calls_end|>",
        "",
        [MarkupCall("f", "{}")],
    ),
    (
        '<｜DSML｜tool_calls><｜DSML｜invoke name="f"></｜DSML｜invoke></｜DSML｜tool_calls>',
        "",
        [MarkupCall("f", "{}")],
    ),
    (
        '<｜DSML｜tool_calls><｜DSML｜invoke name="f">{"a": 1}</｜DSML｜invoke></｜DSML｜tool_calls>',
        "",
        [MarkupCall("f", '{"a": 1}')],
    ),
]
QUOTED = [  # content that must be passed on as text, byte for byte
    f"I look.{V31}",
    f"  {DSML}",
    f"`{DSML}`",
    f"> {DSML}",
    f"```\n{DSML}\n```",
    f"```\n{DSML}",
    f"````\n```\n{DSML}",
    f"```xml\n{V31}\n```\nAnything else?",
    f"{DSML}\nThat is all.",
    f"{V31} x",
    f"{DSML}\n{END}x",
    f"{DSML}<",
    DSML.replace("weather", "rm"),
    V31.replace("weather", "rm", 1),
    DSML.removesuffix(">"),
    DSML.replace("</｜DSML｜tool_calls>", "</｜DSML｜function_calls>"),
    DSML.replace("\n</｜DSML｜invoke>", "\nx</｜DSML｜invoke>"),
    DSML.replace("<｜DSML｜invoke", "x<｜DSML｜invoke"),
    V31.replace('{"city": "Paris"}', '{"city": Paris'),
    V31.replace('{"city": "Paris"}', "[1]"),
    V31.replace("<｜tool▁sep｜>", ""),
    "<｜DSML｜tool_calls></｜DSML｜tool_calls>",
    "<｜tool▁calls▁begin｜><｜tool▁calls▁end｜>",
    '<｜DSML｜invoke name="f"></｜DSML｜invoke>',
    "<｜tool▁call▁begin｜>f<｜tool▁sep｜>{}<｜tool▁call▁end｜>",
    "</｜DSML｜invoke>",
    f"The end token is {END}, and <｜ is a bar.",
    "a <",
    "<｜tool▁c",
]


def read(*texts, tools=TOOLS, may_convert=True):
    reader = MarkupReader(tools)
    text_sent = "".join([reader.read(text) for text in texts])
    held, calls = reader.close(may_convert=may_convert)
    return text_sent + held, calls


@pytest.mark.parametrize(("given_text", "text", "calls"), CALLED)
def test_a_block_at_the_end_becomes_calls(given_text, text, calls):
    assert read(given_text) == (text, calls)
    assert read(*given_text) == (text, calls)


@pytest.mark.parametrize("text", QUOTED)
def test_text_that_is_no_block_at_the_end_is_unchanged(text):
    assert read(text) == (text, [])
    assert read(*text) == (text, [])


@given(st.sampled_from([*CALLED, *((text, text, []) for text in QUOTED)]), st.data())
def test_the_result_does_not_depend_on_the_chunks(sample, data):
    text, text_sent, calls = sample
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=8)))
    assert read(*[text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]) == (text_sent, calls)


@pytest.mark.parametrize("text", [V3, V31, DSML])
def test_a_block_that_does_not_meet_all_conditions_is_text(text):
    """No tools were offered, or only others, or calls are not allowed (a filtered answer, a call of the host's)."""
    other = Raw(b'[{"type":"function","function":{"name":"other"}}]')
    assert read(text, tools=UNSET) == read(text, tools=other) == read(text, may_convert=False) == (text, [])


PIECES = st.sampled_from(
    [
        V31,
        DSML,
        "```\n",
        "````",
        "~~~\n",
        "\n",
        "\n\n",
        " ",
        "x",
        "<",
        "```json",
        END,
        "<｜DSML｜",
        "<｜tool▁calls▁begin｜>",
    ]
)


@settings(max_examples=500)
@given(st.lists(PIECES | st.text(st.characters(codec="utf-8"), max_size=5), max_size=8), st.data())
def test_text_is_unchanged_and_only_a_block_at_the_end_is_a_call(pieces, data):
    """This holds for any text around the block, and for any split into chunks."""
    text = "".join(pieces)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=6)))
    text_sent, calls = read(*[text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)])
    assert (text_sent, calls) == read(text)
    if not calls:
        assert text_sent == text
        return
    block = text[len(text_sent) :].strip().removesuffix(END).strip()
    assert text.startswith(text_sent)
    assert text_sent == "" or text_sent.endswith("\n")
    assert block in (V31, DSML)


def test_at_most_64_kb_are_held_back():
    """Longer text is passed on unchanged, and so is all text after it."""
    reader = MarkupReader(TOOLS)
    head = "<｜tool▁calls▁begin｜>"
    assert reader.read(head) == ""
    assert reader.read("x" * (64 * 1024 - len(head))) == ""
    assert reader.read("y") == head + "x" * (64 * 1024 - len(head)) + "y"
    assert reader.read("z") == "z"


def test_too_much_white_space_after_a_block_is_passed_on():
    reader = MarkupReader(TOOLS)
    assert reader.read(V31) == ""
    pieces = [reader.read(" " * 1000) for _ in range(100)]
    assert "".join(pieces) == V31 + " " * 100_000
    assert reader.close(may_convert=True) == ("", [])


@pytest.mark.parametrize("text", [V31.replace('{"city"', "{" + " " * 70_000 + '"city"', 1), V31 + "\n" * 70_000])
def test_a_longer_block_is_text_however_it_is_split(text):
    assert read(text) == (text, [])
    assert read(*[text[at : at + 999] for at in range(0, len(text), 999)]) == (text, [])


def test_many_blocks_do_not_take_quadratic_time():
    """Each block may be the last one, so the reader stops after 16 of them; otherwise this test would take minutes."""
    text = "<｜tool▁calls▁begin｜>\n" * 200_000
    reader = MarkupReader(TOOLS)
    text_sent = "".join(reader.read(text[at : at + 100]) for at in range(0, len(text), 100))
    assert text_sent + reader.close(may_convert=True)[0] == text


@pytest.mark.parametrize(
    ("begin", "end"),
    [
        ('<｜DSML｜invoke name="f">', ""),
        ('<｜DSML｜invoke name="f">', "</｜DSML｜invoke>"),
        ('<｜DSML｜parameter name="a">', "</｜DSML｜invoke>"),
    ],
)
def test_many_opening_tags_do_not_take_quadratic_time(begin, end):
    """It would take minutes if an end were searched for each beginning."""
    block = "<｜DSML｜tool_calls>" + '<｜DSML｜invoke name="f">' + begin * 2000 + end + "</｜DSML｜tool_calls>"
    assert read(block) == (block, [])


@pytest.mark.parametrize(
    ("tools", "names"),
    [
        (UNSET, set()),
        (Raw(b"[]"), set()),
        (Raw(b'[{"type":"custom","custom":{"name":"a"}},{"function":{"name":"f"}},{"function":{}},5]'), {"f"}),
    ],
)
def test_only_functions_can_be_called(tools, names):
    assert names_of(tools) == names


@pytest.mark.parametrize(
    ("arguments", "tail", "is_whole"),
    [
        ("Paris", "", False),
        ("Paris<", "<", False),
        ("Paris</｜DSM", "</｜DSM", False),
        ("Paris</｜DSML｜parameter", "</｜DSML｜parameter", True),
        ("Paris</｜DSML｜parameter>\n", "</｜DSML｜parameter>\n", True),
        ("</｜DSML｜parameter>x", "", False),
        ("a < b", "", False),
        ("<b", "", False),
        (
            "<" + " " * 100,
            "",
            False,
        ),  # a possible tag is held back and read again with each fragment, so its length is limited
        ("<" + "|" * 100, "", False),
    ],
)
def test_a_tag_at_the_end_of_arguments_is_recognised(arguments, tail, is_whole):
    assert arguments[trailing_tag(arguments) :] == tail
    assert is_tag(tail) is is_whole


# --- through every dialect ----------------------------------------------------------------------------------------

CHAT_DIALECTS = [dialect for dialect in DIALECTS.values() if dialect.name != "meta_llama_native"]
ASK = chat.parse_request(b'{"model":"m","messages":[{"role":"user","content":"hi"}]}')


@settings(max_examples=300)
@given(
    dialect=st.sampled_from(CHAT_DIALECTS),
    pieces=st.lists(PIECES | st.text(st.characters(codec="utf-8"), max_size=8), min_size=1, max_size=6),
    is_stream=st.booleans(),
    data=st.data(),
)
def test_a_text_without_tools_is_passed_on_byte_for_byte(dialect, pieces, is_stream, data):
    """The text is valid Unicode without a reasoning tag; any split, every dialect, whole or streamed."""
    text = "".join(pieces)
    answer_format = dialect.build_request(ASK, model="m", is_stream=is_stream).answer_format
    sink = RecordingSink()
    if is_stream:
        cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=5)))
        parts = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        sent = [*(chunk({"content": part}) for part in parts), chunk(finish="stop")]
    else:
        sent = [{"choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}]}]
    assert feed(sink, *sent, answer_format=answer_format, parse=dialect.parse) is None
    assert "".join(entry[2] for entry in sink.calls if entry[0] == "content") == text
    assert {entry[0] for entry in sink.calls} <= {"open", "content", "finish"}
