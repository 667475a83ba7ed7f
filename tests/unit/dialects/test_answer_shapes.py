"""Answers of other shapes are put into OpenAI's shape (contract E.4, step 5)."""

import pytest

from tidegate.dialects.answer_shapes import reshape, reshape_call, text_in


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a", "a"),
        (["a", {"text": "b"}, {"thinking": [{"text": "c"}]}], "abc"),
        ({"text": {"value": "a"}}, "a"),
        ({"summary": "a"}, "a"),
        ({"text": "", "content": "a"}, "a"),
        ({"url": "a"}, ""),
        (None, ""),
        (5, ""),
    ],
)
def test_the_text_in_a_value_is_found(value, text):
    assert text_in(value) == text


@pytest.mark.parametrize(
    ("call", "function"),
    [
        ({"function": "f"}, {"name": "f"}),
        ({"function": '{"name": "f", "arguments": "{}"}'}, {"name": "f", "arguments": "{}"}),
        ({"function": "[1]"}, {"name": "[1]"}),
        ({"name": "f", "arguments": "{}"}, {"name": "f", "arguments": "{}"}),
        ({"name": "f", "parameters": {"a": 1}}, {"name": "f", "arguments": {"a": 1}}),
        ({"function": {"name": "f"}, "name": "g"}, {"name": "f"}),
    ],
)
def test_a_call_has_a_function(call, function):
    reshape_call(call)
    assert call["function"] == function


def test_a_text_that_is_a_list_of_parts_is_joined():
    value = {"choices": [{"text": [{"text": "a"}, "b"]}]}
    reshape(value)
    assert value["choices"][0]["text"] == "ab"


def test_images_of_the_message_are_kept_beside_those_in_parts():
    """The message's `images` win over images among the content parts."""
    message = {"content": [{"type": "image_url", "image_url": {"url": "b"}}], "images": ["a"]}
    reshape({"choices": [{"message": message}]})
    assert message == {"images": ["a"]}
