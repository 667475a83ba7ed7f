"""OpenAI's error JSON, and the headers by which SDKs decide when to retry.

Contract A.4: the body is nested, `code` is a string or null. SDKs honour `retry-after` between 0 and 120 s. With a
larger value openai-python does not retry at all, so `retry-after` is limited to 120 s.
"""

import math

import msgspec

from tidegate.errors import EngineUnavailable, InternalError, ProxyError, ShuttingDown

_MAX_RETRY_AFTER_S = 120
_SHOWN_TO_CALLERS = (EngineUnavailable, ShuttingDown)  # internal errors whose messages are written for callers
_encode = msgspec.json.Encoder().encode


class ErrorDetail(msgspec.Struct, frozen=True):
    """The object inside `{"error": …}`, with the fields in OpenAI's order."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(msgspec.Struct, frozen=True):
    """The whole body, `{"error": {…}}`."""

    error: ErrorDetail


def to_json(error: ProxyError, request_id: str) -> bytes:
    """Return the body of the answer for `error`.

    The message of an internal error is never sent, because it may hold internal details; the caller gets the request id
    to quote instead. The exceptions are the errors in `_SHOWN_TO_CALLERS`.
    """
    message = error.message
    if isinstance(error, InternalError) and not isinstance(error, _SHOWN_TO_CALLERS):
        message = f"The server had an error while processing your request. Quote request id {request_id} for help."
    return _encode(ErrorBody(ErrorDetail(message, error.type, error.param, error.code)))


def to_headers(error: ProxyError) -> list[tuple[bytes, bytes]]:
    """Return `retry-after` in whole seconds (at least 1) and `x-should-retry`, each only if the error has a value."""
    headers = []
    if error.retry_after_s is not None:
        seconds = min(max(math.ceil(error.retry_after_s), 1), _MAX_RETRY_AFTER_S)
        headers.append((b"retry-after", b"%d" % seconds))
    if error.should_retry is not None:
        headers.append((b"x-should-retry", b"true" if error.should_retry else b"false"))
    return headers
