"""OpenAI's error JSON, and the headers that tell SDKs when to try again.

Contract A.4: the body is nested, `code` is a string or null. SDKs honour `retry-after` between 0 and 120 s; above that
openai-python does not retry at all, so it is clamped.
"""

import math

import msgspec

from tidegate.errors import EngineUnavailable, InternalError, ProxyError, ShuttingDown

_MAX_RETRY_AFTER_S = 120
_SHOWN = (EngineUnavailable, ShuttingDown)  # internal ones whose messages are written for callers
_encode = msgspec.json.Encoder().encode


class ErrorDetail(msgspec.Struct, frozen=True):
    """The inside of `{"error": …}`, in OpenAI's order."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(msgspec.Struct, frozen=True):
    """`{"error": {…}}`."""

    error: ErrorDetail


def to_json(error: ProxyError, request_id: str) -> bytes:
    """The body for `error`.

    The message of an internal error never leaves the house, but for a few that are written for the caller: the caller
    gets the request id to quote instead.
    """
    message = error.message
    if isinstance(error, InternalError) and not isinstance(error, _SHOWN):
        message = f"The server had an error while processing your request. Quote request id {request_id} for help."
    return _encode(ErrorBody(ErrorDetail(message, error.type, error.param, error.code)))


def to_headers(error: ProxyError) -> list[tuple[bytes, bytes]]:
    """`retry-after` in whole seconds (at least 1) and `x-should-retry`, where the error knows them."""
    headers = []
    if error.retry_after_s is not None:
        seconds = min(max(math.ceil(error.retry_after_s), 1), _MAX_RETRY_AFTER_S)
        headers.append((b"retry-after", b"%d" % seconds))
    if error.should_retry is not None:
        headers.append((b"x-should-retry", b"true" if error.should_retry else b"false"))
    return headers
