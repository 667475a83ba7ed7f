"""Text that is not only text: thinking between tags, tool calls in markup (contract R-THINK, C.9, rows 69-76j)."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import UpstreamFailed
from proxy.protocol.chat import Reading
from proxy.streaming.markup import Call, TextReader, begun_markup, without_markup

THINKS = Reading(thought_tags=("think", "reasoning"), looks_for_calls=True)
PREFILLED = Reading(thought_tags=("think",), begins_in_thought=True, looks_for_calls=True)
NO_TOOLS = Reading(thought_tags=("think",), looks_for_calls=True, may_call=False)

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
PARIS, ROME = Call("weather", '{"city": "Paris"}'), Call("weather", '{"city": "Rome"}')
SAID = [
    ("Hello.", THINKS, [("content", "Hello.")]),
    ("<think>Hm.</think>\n\nYes.", THINKS, [("reasoning", "Hm."), ("content", "Yes.")]),
    (" \n<think>\nHm.\n</think>Yes.", THINKS, [("reasoning", "Hm.\n"), ("content", "Yes.")]),
    ("<reasoning>Hm.</reasoning>Yes.", THINKS, [("reasoning", "Hm."), ("content", "Yes.")]),
    ("<think></think>\n\nYes.", THINKS, [("content", "Yes.")]),
    ("<think>Hm, for ever", THINKS, [("reasoning", "Hm, for ever")]),
    ("Hm.</think>\n\nYes.", PREFILLED, [("reasoning", "Hm."), ("content", "Yes.")]),
    ("<think>Hm.</think>Yes.", PREFILLED, [("reasoning", "Hm."), ("content", "Yes.")]),
    ("So <think> is a tag, </think> too.", THINKS, [("content", "So <think> is a tag, </think> too.")]),
    ("<thinker> a < b </think>", THINKS, [("content", "<thinker> a < b </think>")]),
    ("<think>a</think>b<think>c</think>", THINKS, [("reasoning", "a"), ("content", "b<think>c</think>")]),
    (V3, THINKS, [PARIS, ROME]),
    (V31, THINKS, [PARIS, ROME]),
    (DSML, THINKS, [Call("weather", '{"city":"Paris","days":[1,2]}')]),
    (f"Let me see.\n\n{V31}\n", THINKS, [("content", "Let me see.\n\n"), PARIS, ROME]),
    (f"<think>Hm.</think>{V31}<｜end▁of▁sentence｜>", THINKS, [("reasoning", "Hm."), PARIS, ROME]),
    (f"<think>Hm. {V31}", THINKS, [("reasoning", "Hm. "), PARIS, ROME]),
    ("Yes.<｜end▁of▁sentence｜>", THINKS, [("content", "Yes.")]),
    (
        "<|tool_calls_begin|><|tool_call_begin|>f<|tool_sep|>{}<|tool_call_end|><|tool_calls_end|>",
        THINKS,
        [Call("f", "{}")],
    ),
    ("a <", THINKS, [("content", "a <")]),
    ("a <｜tool▁c", THINKS, [("content", "a <｜tool▁c")]),
    ("   ", THINKS, [("content", "   ")]),
    ("<thi", THINKS, [("content", "<thi")]),
]


def joined(pieces):
    """Neighbours of one kind together, as a caller sees them; calls by value."""
    result = []
    for piece in pieces:
        if isinstance(piece, tuple) and result and isinstance(result[-1], tuple) and result[-1][0] == piece[0]:
            result[-1] = (piece[0], result[-1][1] + piece[1])
        else:
            result.append(piece)
    return result


def read(reading, *texts, kind="content", is_cut=False):
    reader = TextReader(reading)
    pieces = [piece for text in texts for piece in reader.read(text, kind)]
    return joined(pieces + reader.close(is_cut=is_cut))


@pytest.mark.parametrize(("text", "reading", "expected"), SAID)
def test_a_text_is_taken_apart(text, reading, expected):
    assert read(reading, text) == expected


@pytest.mark.parametrize(("text", "reading", "expected"), SAID)
def test_however_it_is_cut(text, reading, expected):
    """Into single characters; hypothesis tries the rest below."""
    assert read(reading, *text) == expected


@given(said=st.sampled_from(SAID), data=st.data())
def test_no_cut_makes_a_difference(said, data):
    text, reading, expected = said
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=6)))
    texts = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert read(reading, *texts) == expected


@given(st.lists(st.text(alphabet=st.sampled_from("<>/｜|▁_thinktoolcalsbeginDSML \n"), max_size=12), max_size=12))
def test_no_text_is_lost_or_held_for_ever(texts):
    """What is no markup comes out as it went in, in order; or an error says why not."""
    try:
        pieces = read(NO_TOOLS, *texts)
    except UpstreamFailed as error:
        assert error.code == "tool_call_unparsable"  # noqa: PT017 - either way is right
        return
    told = "".join(text for _, text in pieces)
    left = iter("".join(texts))
    assert all(letter in left for letter in told)


def test_reasoning_of_the_hosts_own_is_looked_through_for_calls():
    """Row 69: the end of thinking was missing, so the call is in there."""
    assert read(THINKS, "I shall look. ", V31, kind="reasoning") == [("reasoning", "I shall look. "), PARIS, ROME]


def test_a_host_that_takes_thinking_apart_needs_no_tags():
    """Although the card says that the template opens one."""
    reader = TextReader(PREFILLED)
    assert reader.read("Hm.", "reasoning") + reader.read("Yes.", "content") == [
        ("reasoning", "Hm."),
        ("content", "Yes."),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "<｜tool▁calls▁begin｜>nonsense<｜tool▁calls▁end｜>",
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{broken<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>[1]<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f",
        "<｜DSML｜parameter>\n</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>",
        "</｜DSML｜invoke>",
    ],
)
def test_markup_that_cannot_be_read_is_an_error_and_never_text(text):
    with pytest.raises(UpstreamFailed) as caught:
        read(THINKS, "Well. ", text)
    assert caught.value.code == "tool_call_unparsable"


@pytest.mark.parametrize("text", [V3, V31, DSML])
def test_a_call_that_nobody_may_make_is_an_error(text):
    with pytest.raises(UpstreamFailed, match="was not asked for"):
        read(NO_TOOLS, text)


def test_half_a_call_of_an_answer_that_was_cut_is_dropped():
    """Its arguments are not completed (76m)."""
    half = V31[: V31.index("Rome")]
    assert read(THINKS, half, is_cut=True) == [PARIS]
    assert read(THINKS, "Well. ", V31[:30], is_cut=True) == [("content", "Well. ")]


def test_markup_without_an_end_is_bounded():
    with pytest.raises(UpstreamFailed, match="too long"):
        read(THINKS, "<｜tool▁calls▁begin｜>", *["x" * 1024 * 1024] * 5)


@pytest.mark.parametrize(
    ("begin", "end"),
    [
        ('<｜DSML｜invoke name="f">', ""),
        ('<｜DSML｜invoke name="f">', "</｜DSML｜invoke>"),
        ('<｜DSML｜parameter name="a">', "</｜DSML｜invoke>"),
    ],
)
def test_what_is_opened_again_and_again_takes_no_quadratic_time(begin, end):
    """Minutes, where each beginning looks for an end of its own."""
    with pytest.raises(UpstreamFailed, match="cannot be read"):
        read(THINKS, '<｜DSML｜invoke name="f">' + begin * 100_000 + end + "</｜DSML｜tool_calls>")


def test_tags_again_and_again_in_one_text_take_no_quadratic_time():
    """Minutes, where the rest of the text is copied for each."""
    assert read(THINKS, "<｜end▁of▁sentence｜>" * 400_000) == []
    assert without_markup("<｜DSML｜ " * 200_000) == " " * 200_000


def test_white_space_before_a_tag_is_not_waited_for_without_end():
    space = " " * 257
    assert (
        read(THINKS, space, "<think>Hm.") == read(THINKS, f"{space}<think>Hm.") == [("content", f"{space}<think>Hm.")]
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ('{"city": "Paris</｜DSML｜parameter>"}', '{"city": "Paris"}'),
        ('{"city": "Paris"}</｜DSML｜parameter', '{"city": "Paris"}'),
        ('{"city": "Paris</｜DSML｜parameter"}', '{"city": "Paris"}'),
        ('{"city": "<｜DSML｜parameter name=\\"city\\">Paris"}', '{"city": "Paris"}'),
        ('{"a": "<b>"}', '{"a": "<b>"}'),
    ],
)
def test_tags_that_a_parser_left_in_arguments_are_taken_out(arguments, expected):
    """Row 70."""
    assert without_markup(arguments) == expected
    json.loads(expected)


@pytest.mark.parametrize(
    ("arguments", "begun"),
    [
        ("Paris", ""),
        ("Paris<", "<"),
        ("Paris</", "</"),
        ("Paris<｜", "<｜"),
        ("Paris</｜DSM", "</｜DSM"),
        ("Paris</｜DSML｜param", "</｜DSML｜param"),
        ("<｜DSML｜parameter name=", "<｜DSML｜parameter name="),
        ("Paris</｜DSML｜parameter>", ""),
        ("</｜DSML｜parameter>\n<", "<"),
        ("a < b", ""),
        ("<b", ""),
        ("<｜DSML｜parameter " + "x" * 300, ""),
    ],
)
def test_the_beginning_of_such_a_tag_is_known(arguments, begun):
    """It may come in pieces; what is too long is none."""
    assert begun_markup(arguments) == len(begun)
