"""Text Generation Inference (contract B.7): what its scenarios cannot show."""

import json

import pytest
from msgspec import Raw

from proxy.dialects.tgi import DIALECT
from proxy.errors import UpstreamFailed, UpstreamRateLimited, UpstreamRejected
from proxy.protocol.request import ModelRequest


def test_ids_of_calls_are_ours():
    """Every call of every turn has the id 0, and a memory of turns goes by their ids."""
    request = ModelRequest(endpoint="chat", model="m", fields={"messages": Raw(b'[{"role":"user","content":"hi"}]')})
    assert DIALECT.build_request(request, model="m", is_stream=True).reading.numbers_calls


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
def test_the_words_of_an_error_tell_whether_another_target_may_be_tried(message, error, may_try_another):
    """In a stream all of them say 422."""
    event = json.dumps({"error": {"message": message, "http_status_code": 422}}).encode()
    with pytest.raises(error) as caught:
        DIALECT.parse(event)
    assert caught.value.message == message
    assert caught.value.may_try_another_target is may_try_another
