"""Messages for engines are rebuilt from allowed keys and content parts."""

import json

import pytest
from msgspec import Raw

from tidegate.config.cards import Card
from tidegate.dialects import engine_messages
from tidegate.dialects.request_draft import RequestDraft
from tidegate.errors import MalformedRequest

PNG = "data:image/png;base64,AA=="
EVIL = "http://10.0.0.1/a"


def restrict(*given):
    """Return the messages that are sent, and what is reported as adjusted."""
    messages = [{name: Raw(json.dumps(value).encode()) for name, value in message.items()} for message in given]
    draft = RequestDraft({}, Card(), messages=messages)
    engine_messages.restrict(draft)
    sent = [{name: json.loads(bytes(value)) for name, value in message.items()} for message in draft.messages]
    return sent, draft.adjusted


def restrict_content(*content):
    return restrict({"role": "user", "content": content})


def test_allowed_values_are_unchanged():
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"url": "http://a"}'}}
    given = [
        {"role": "system", "content": "See http://a"},
        {"role": "user", "content": "hi", "name": "ann"},
        {"role": "assistant", "content": None, "tool_calls": [call], "reasoning": "hm"},
        {"role": "tool", "content": "1", "tool_call_id": "c1"},
    ]
    assert restrict(*given) == (given, [])


@pytest.mark.parametrize(
    "part",
    [
        {"type": "text", "text": EVIL},
        {"type": "image_url", "image_url": {"url": PNG, "detail": "low"}},
        {"type": "image_url", "image_url": {"url": PNG, "max_dynamic_patch": 4}, "modalities": "multi-images"},
        {"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AA=="}},
        {"type": "audio_url", "audio_url": {"url": "data:audio/wav;base64,AA=="}},
        {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
        {"type": "input_video", "input_video": {"data": "AA=="}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AA=="}},
    ],
)
def test_a_part_is_rebuilt_from_the_key_of_its_type(part):
    assert restrict_content(part) == ([{"role": "user", "content": [part]}], [])
    beside = part | {"uuid": "u1", "video": EVIL, "cache_control": {}}
    adjusted = ["content.cache_control=dropped", "content.uuid=dropped", "content.video=dropped"]
    assert restrict_content(beside) == ([{"role": "user", "content": [part]}], adjusted)


@pytest.mark.parametrize("kind", ["video_url", "audio_url"])
def test_an_image_beside_another_part_is_dropped(kind):
    """If a part's own key is missing or null, vLLM would read any other key that it supports."""
    part = {"type": kind, kind: {"url": "data:video/mp4;base64,AA=="}}
    sent, adjusted = restrict_content(part | {"uuid": "u1", "image_url": {"url": EVIL}})
    assert sent[0]["content"] == [part]
    assert adjusted == ["content.image_url=dropped", "content.uuid=dropped"]


@pytest.mark.parametrize(
    ("part", "param"),
    [
        ({"type": "image_url"}, "image_url"),
        ({"type": "video_url", "uuid": "u1", "image_url": {"url": EVIL}}, "video_url"),
        ({"type": "video_url", "uuid": "u1", "video_url": None, "image_url": {"url": PNG}}, "video_url"),
        ({"type": "image_url", "image_url": EVIL}, "image_url"),
        ({"type": "image_url", "image_url": {"url": {"url": PNG}}}, "image_url"),
        ({"type": "input_audio", "input_audio": {"data": EVIL, "format": "wav"}}, "input_audio.data"),
        ({"type": "input_audio", "input_audio": {"url": EVIL, "data": "file:///a"}}, "input_audio.data"),
        ({"type": "input_video", "input_video": {"data": "file:///a"}}, "input_video.data"),
        ({"type": "input_video", "input_video": EVIL}, "input_video"),
        ({"type": "file", "file": {"file_id": "file-1"}}, "file"),
        ({"type": "file", "file": {"file_id": "f", "file_data": PNG}}, "file"),
        ({"type": "file", "file": {"file_data": EVIL}}, "file.file_data"),
        ({"type": "file", "file": {"file_data": PNG, "filename": "/etc/passwd"}}, "file"),
        ({"type": "text", "text": {"url": EVIL}}, "text"),
    ],
)
def test_a_part_without_bytes_is_refused(part, param):
    with pytest.raises(MalformedRequest) as caught:
        restrict_content({"type": "text", "text": "a"}, part)
    assert caught.value.param == f"messages[0].content[1].{param}"


def test_unknown_keys_of_messages_and_calls_are_dropped_and_reported():
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    odd = call | {"path": EVIL, "function": call["function"] | {"file": EVIL}}
    given = {"role": "assistant", "content": "a", "tool_calls": [call, odd], "images": [EVIL], "name": {"url": EVIL}}
    assert restrict(given) == (
        [{"role": "assistant", "content": "a", "tool_calls": [call, call]}],
        [f"messages.{name}=dropped" for name in ("file", "images", "name", "path")],
    )
