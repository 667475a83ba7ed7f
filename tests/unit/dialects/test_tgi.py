"""Text Generation Inference (contract B.7): behaviour that its scenarios cannot show."""

import json

import pytest
from msgspec import Raw

from tidegate.dialects.tgi import DIALECT
from tidegate.errors import UpstreamFailed, UpstreamRateLimited, UpstreamRejected
from tidegate.protocol import chat, completions
from tidegate.protocol.request import ModelRequest


def test_ids_of_calls_are_replaced():
    """TGI gives every call of every turn the id 0, but stored reasoning is found by the calls' ids."""
    request = ModelRequest(endpoint="chat", model="m", fields={"messages": Raw(b'[{"role":"user","content":"hi"}]')})
    assert DIALECT.build_request(request, model="m", is_stream=True).answer_format.has_positional_call_ids


PICTURE = "![](http://10.0.0.1/a.png)"
TOOL = {"type": "function", "function": {"name": "f", "description": PICTURE, "parameters": {"title": PICTURE}}}
DATA = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [{"role": "user", "content": f"See {PICTURE}!"}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": PICTURE}, DATA]}]},
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": text} for text in ("![", "](http://x)")] + [DATA]}
            ]
        },
        {"messages": [{"role": "user", "content": "hi"}], "tools": [TOOL]},
    ],
    ids=["text", "picture", "cut in two", "tool"],
)
def test_no_text_contains_an_image_to_fetch(fields):
    """TGI searches the whole prompt for images, including the text of other parties."""
    request = chat.parse_request(json.dumps({"model": "m"} | fields).encode().replace(b"!", b"\\u0021"))
    sent = json.loads(DIALECT.build_request(request, model="m", is_stream=False).body)
    for message in sent["messages"]:
        if isinstance(message["content"], list):
            message["content"] = "".join(part.get("text", "") + str(part) for part in message["content"])
    assert "![](" not in str(sent)
    assert "!" in str(sent)
    prompted = completions.parse_request(json.dumps({"model": "m", "prompt": [PICTURE]}).encode())
    assert json.loads(DIALECT.build_request(prompted, model="m", is_stream=False).body)["prompt"] == [
        "![ ](http://10.0.0.1/a.png)"
    ]


def test_an_image_in_its_own_part_stays():
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    messages = [{"role": "user", "content": [{"type": "text", "text": "Hi!"}, image, {"type": "text", "text": "See?"}]}]
    request = chat.parse_request(json.dumps({"model": "m", "messages": messages}).encode())
    assert json.loads(DIALECT.build_request(request, model="m", is_stream=False).body)["messages"] == messages


@pytest.mark.parametrize(
    ("message", "error", "may_try_another"),
    [
        ("Input validation error: `top_p` must be > 0.0 and < 1.0", UpstreamRejected, False),
        ("Template error: no template", UpstreamRejected, False),
        ("Model is overloaded", UpstreamRateLimited, True),
        ("Request failed during generation: out of memory", UpstreamFailed, True),
        ("Incomplete generation", UpstreamFailed, True),
    ],
)
def test_the_message_of_an_error_decides_whether_another_target_may_be_tried(message, error, may_try_another):
    """In a stream, the status of all of them is 422."""
    event = json.dumps({"error": {"message": message, "http_status_code": 422}}).encode()
    with pytest.raises(error) as caught:
        DIALECT.parse(event)
    assert caught.value.message == message
    assert caught.value.may_try_another_target is may_try_another
