"""Errors as OpenAI's JSON, and the header that tells clients when to retry (contract A.4)."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate import errors
from tidegate.protocol.errors import to_headers, to_json


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            errors.MalformedRequest("Wrong.", param="stop", code="invalid_type"),
            {"message": "Wrong.", "type": "invalid_request_error", "param": "stop", "code": "invalid_type"},
        ),
        (
            errors.MalformedRequest("Wrong."),
            {"message": "Wrong.", "type": "invalid_request_error", "param": None, "code": None},
        ),
        (
            errors.NotAuthenticated("Who?"),
            {"message": "Who?", "type": "invalid_request_error", "param": None, "code": "invalid_api_key"},
        ),
        (
            errors.ModelNotFound("None.", param="model"),
            {"message": "None.", "type": "invalid_request_error", "param": "model", "code": "model_not_found"},
        ),
        (
            errors.UpstreamRateLimited("Slow.", code=None),
            {"message": "Slow.", "type": "rate_limit_error", "param": None, "code": "rate_limit_exceeded"},
        ),
        (
            errors.StreamBroken("Cut."),
            {"message": "Cut.", "type": "upstream_error", "param": None, "code": "upstream_disconnected"},
        ),
        (
            errors.EngineUnavailable("tiny is starting"),
            {"message": "tiny is starting", "type": "server_error", "param": None, "code": "engine_unavailable"},
        ),
        (
            errors.TargetBusy("gpu is full"),
            {"message": "gpu is full", "type": "rate_limit_error", "param": None, "code": "target_busy"},
        ),
    ],
)
def test_every_error_has_the_nested_form(error, expected):
    assert json.loads(to_json(error, "req-1")) == {"error": expected}


def test_fields_are_in_openais_order():
    body = to_json(errors.MalformedRequest("m"), "r")
    assert body == b'{"error":{"message":"m","type":"invalid_request_error","param":null,"code":null}}'


@pytest.mark.parametrize("kind", [errors.InternalError, errors.ConfigError])
def test_the_message_of_an_internal_error_is_not_sent(kind):
    """The caller gets the request id to quote."""
    error = json.loads(to_json(kind("the secret reason"), "req-1"))["error"]
    assert "secret" not in error["message"]
    assert "req-1" in error["message"]
    assert error["type"] == "server_error"


@pytest.mark.parametrize("kind", [errors.EngineUnavailable, errors.NoTarget, errors.ShuttingDown])
def test_some_internal_errors_are_written_for_callers(kind):
    assert json.loads(to_json(kind("It is loading."), "req-1"))["error"]["message"] == "It is loading."


@pytest.mark.parametrize(
    ("retry_after_s", "headers"),
    [
        (None, []),
        (0.0, [(b"retry-after", b"1")]),
        (0.2, [(b"retry-after", b"1")]),
        (1.0, [(b"retry-after", b"1")]),
        (1.1, [(b"retry-after", b"2")]),
        (119.5, [(b"retry-after", b"120")]),
        (3600.0, [(b"retry-after", b"120")]),
    ],
)
def test_retry_after_is_whole_seconds_that_sdks_honour(retry_after_s, headers):
    """openai-python does not retry at all if the value is over 120."""
    assert to_headers(errors.UpstreamRateLimited("m", retry_after_s=retry_after_s)) == headers


@given(st.text(), st.none() | st.text(), st.none() | st.text())
def test_any_text_can_be_a_message(message, param, code):
    error = json.loads(to_json(errors.UpstreamRejected(message, param=param, code=code), "r"))["error"]
    assert error == {"message": message, "type": "invalid_request_error", "param": param, "code": code}


def classes(base=errors.ProxyError):
    for kind in base.__subclasses__():
        yield kind
        yield from classes(kind)


@pytest.mark.parametrize("kind", list(classes()))
def test_every_class_has_a_status_a_type_and_a_source(kind):
    """The class fixes them all; an instance may override the status."""
    error = kind("m")
    assert error.source in {"downstream", "upstream", "internal"}
    assert 400 <= error.status <= 599
    assert error.type.endswith("_error")
    assert error.code is None or error.code == error.code.lower()
    assert not (error.source == "downstream" and error.may_try_another_target)


@pytest.mark.parametrize(
    ("kind", "status", "may_try_another_target"),
    [
        (errors.MalformedRequest, 400, False),
        (errors.UnsupportedParameter, 400, False),
        (errors.NotAuthenticated, 401, False),
        (errors.NotPermitted, 403, False),
        (errors.ModelNotFound, 404, False),
        (errors.RequestTooLarge, 413, False),
        (errors.UpstreamUnreachable, 502, True),
        (errors.UpstreamTimeout, 504, True),
        (errors.UpstreamRateLimited, 429, True),
        (errors.UpstreamFailed, 502, True),
        (errors.UpstreamRejected, 400, False),
        (errors.UpstreamRefusedUs, 502, True),
        (errors.StreamBroken, 502, False),
        (errors.EngineUnavailable, 503, True),
        (errors.TargetBusy, 429, True),
    ],
)
def test_the_classes_are_those_of_the_design(kind, status, may_try_another_target):
    error = kind("m")
    assert (error.status, error.may_try_another_target) == (status, may_try_another_target)
