"""Content parts: which types a host and a model support, and how texts are joined."""

import json

import pytest
from msgspec import Raw

from tidegate.dialects import parts
from tidegate.errors import MalformedRequest, UnsupportedParameter

TEXT = {"type": "text", "text": "a"}


def check(*given, known=frozenset({"text", "image_url"}), has_vision=None):
    parts.check(
        [{"role": Raw(b'"user"'), "content": Raw(json.dumps(given).encode())}], known=known, has_vision=has_vision
    )


def image(url):
    return {"type": "image_url", "image_url": {"url": url}}


def test_images_are_accepted_unless_the_model_has_no_vision():
    check(TEXT, image("https://example.com/a.png"), image("data:image/png;base64,AA=="))


def test_images_are_refused_for_a_model_without_vision():
    with pytest.raises(UnsupportedParameter) as caught:
        check(image("data:,"), has_vision=False)
    assert (caught.value.param, caught.value.code) == ("messages[0].content[0].image_url", "unsupported_content")


def test_unsupported_types_of_parts_are_refused_by_name():
    """Row 53."""
    with pytest.raises(UnsupportedParameter) as caught:
        check({"type": "smell", "smell": {}}, TEXT)
    assert caught.value.param == "messages[0].content[0].type"


@pytest.mark.parametrize("part", [5, {}, {"type": 5}])
def test_a_part_without_a_type_is_refused(part):
    with pytest.raises(MalformedRequest):
        check(part, TEXT)


def test_keys_of_joined_text_parts_are_reported_as_dropped():
    notes = []
    message = {"content": Raw(json.dumps([TEXT | {"citations": [], "prompt_cache_breakpoint": {}}]).encode())}
    parts.adapt(message, lambda *note: notes.append(note), is_answer=False, keeps_cache_control=False, joins_text=True)
    assert bytes(message["content"]) == b'"a"'
    assert notes == [("content.citations", "dropped")]
