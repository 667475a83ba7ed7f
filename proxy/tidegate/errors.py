"""Every error of Tidegate, as one tree of classes.

The class fixes which side is at fault (`source`), the HTTP status, OpenAI's `type` and default `code`, and whether
another target may be tried. `protocol/errors.py` turns any of them into OpenAI's error JSON; each front door has one
place that sends it. An exception of a library is translated into one of these once, where the library is called, with
`raise … from`.
"""

from typing import ClassVar, Literal

Source = Literal["downstream", "upstream", "internal"]
SHUTTING_DOWN_MESSAGE = "The server is going down, and does not wait for this answer. Try again."


class ProxyError(Exception):
    """Base of the tree; never raised itself.

    Args:
        message: the text for the caller; that of an `InternalError` is for the log only, unless its class says
            otherwise.
        param: the request field at fault, as OpenAI writes it (`messages[0].role`).
        code: OpenAI's `code`, on which callers may branch; by default the class's `default_code`.
        retry_after_s: seconds after which a retry makes sense, for the header `Retry-After`; None: not sent.
        status: overrides the class's HTTP status.
        should_retry: the value of the header `x-should-retry`, which the caller's SDK obeys; None: the header is not
            sent, and the SDK decides by the status.
        is_quoted: whether the message holds text of the caller or of a host, which may quote the prompt; it is then
            not logged.
    """

    source: ClassVar[Source]
    default_status: ClassVar[int]
    type: ClassVar[str]
    default_code: ClassVar[str | None] = None
    may_try_another_target: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: float | None = None,
        status: int | None = None,
        should_retry: bool | None = None,
        is_quoted: bool = False,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code if code is not None else self.default_code
        self.retry_after_s = retry_after_s
        self.status = status if status is not None else self.default_status
        self.should_retry = should_retry
        self.is_quoted = is_quoted


def drop_references(error: BaseException) -> None:
    """Remove the traceback, cause and context of an error that has been handled completely.

    An error references the frames that it passed through, and these reference the error, the request and its body. Such
    a reference cycle stays in memory until the cycle collector runs, which is rarely here.
    """
    error.__traceback__ = error.__cause__ = error.__context__ = None


# --- the caller's fault -------------------------------------------------------------------------------------------


class RequestError(ProxyError):
    """The request cannot be served as it is; nothing was sent to an upstream, except before a `ClientGone`."""

    source = "downstream"
    default_status = 400
    type = "invalid_request_error"


class MalformedRequest(RequestError):
    """The body is not what the endpoint accepts. The message may quote the body."""

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message, param=param, code=code, is_quoted=True)


class UnsupportedParameter(RequestError):
    """A field would change the result, and the target cannot honour it."""

    default_code = "unsupported_parameter"


class NotAuthenticated(RequestError):
    """No key, or an unknown one."""

    default_status = 401
    default_code = "invalid_api_key"


class NotPermitted(RequestError):
    """The caller is known, but may not do this."""

    default_status = 403
    type = "permission_error"
    default_code = "not_permitted"


class PathNotFound(RequestError):
    """The path does not exist."""

    default_status = 404
    default_code = "unknown_url"


class ModelNotFound(RequestError):
    """Neither Tidegate nor its upstreams have the model."""

    default_status = 404
    default_code = "model_not_found"


class EngineNotFound(RequestError):
    """The config has no engine of that name."""

    default_status = 404
    default_code = "engine_not_found"


class AnswerNotFound(RequestError):
    """The answer does not exist, is no longer remembered, or belongs to another caller."""

    default_status = 404
    default_code = "answer_not_found"


class MethodNotAllowed(RequestError):
    """The path exists, but does not allow the method."""

    default_status = 405
    default_code = "method_not_allowed"


class RequestTimeout(RequestError):
    """The body did not arrive in time."""

    default_status = 408
    default_code = "request_timeout"


class Conflict(RequestError):
    """The administrator's order is not possible for this engine."""

    default_status = 409
    default_code = "conflict"


class RequestTooLarge(RequestError):
    """The body is over the limit; the rest of it was not read."""

    default_status = 413
    default_code = "request_too_large"


class UnsupportedMediaType(RequestError):
    """The body is not declared to be JSON."""

    default_status = 415
    default_code = "unsupported_media_type"


class ClientGone(RequestError):
    """The caller disconnected before the answer ended; it is not sent to the caller, but logged as 499, as by nginx."""

    default_status = 499
    default_code = "client_gone"


# --- the upstream's fault -----------------------------------------------------------------------------------------


class UpstreamError(ProxyError):
    """A host or engine failed, or refused the request.

    Attributes:
        is_unconnected: whether no connection was made: it was refused, the name is unknown, or it took too long.
        is_stated: whether `retry_after_s` was sent by the host; else Tidegate has estimated it for the caller.
        original: the host's own message, for the log, if `message` was written by Tidegate; else empty.
    """

    is_unconnected: bool = False
    is_stated: bool = False
    original: str = ""

    source = "upstream"
    default_status = 502
    type = "upstream_error"
    default_code: ClassVar[str | None] = "upstream_failed"
    may_try_another_target = True


class UpstreamUnreachable(UpstreamError):
    """There was no connection, or it broke before the answer ended."""

    default_code = "upstream_unreachable"


class UpstreamTimeout(UpstreamError):
    """The connection or the data on it took too long."""

    default_status = 504
    default_code = "upstream_timeout"


class EngineStalled(UpstreamTimeout):
    """The engine hangs, so an attempt without first content was ended; the request goes to another target."""

    default_code = "upstream_timeout"


class UpstreamRateLimited(UpstreamError):
    """The host answered 429.

    Args:
        is_stated: see `UpstreamError`.
    """

    default_status = 429
    type = "rate_limit_error"
    default_code = "rate_limit_exceeded"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        retry_after_s: float | None = None,
        is_quoted: bool = False,
        is_stated: bool = False,
    ) -> None:
        super().__init__(message, code=code, retry_after_s=retry_after_s, is_quoted=is_quoted)
        self.is_stated = is_stated


class UpstreamFailed(UpstreamError):
    """The host answered with an error of its own (5xx), or with something that is no answer."""


class EngineDied(UpstreamFailed):
    """The engine reports that its core process has ended: every request in it has failed."""

    default_code = "upstream_failed"


class SchemaMismatch(UpstreamError):
    """The answer does not fit the caller's schema. It does not count as a failure of the target."""

    default_code = "structured_output_invalid"


class ToolCallUnparsable(UpstreamError):
    """The host could not parse its model's tool call (contract, row 76j). It does not count as a failure of the target.

    It is not retried, neither at another target nor by the caller's SDK: the same prompt tends to fail the same way.
    """

    default_code = "tool_call_unparsable"
    may_try_another_target = False

    def __init__(self, message: str) -> None:
        super().__init__(message, should_retry=False)


class UpstreamRefusedUs(UpstreamError):
    """The host refused Tidegate's key (401, 402, 403). It is not the caller's fault, so the caller gets no 401."""

    default_code = "upstream_auth"


class UpstreamLacksModel(UpstreamError):
    """The host answered 404: it does not have the model, or the endpoint."""

    default_status = 404
    type = "invalid_request_error"
    default_code = "model_not_found"


class UpstreamLacksOperation(UpstreamError):
    """The host has the model, but it cannot serve this request: embeddings of a chat model, tools without a parser."""

    default_status = 400
    type = "invalid_request_error"
    default_code = "unsupported_operation"


class UpstreamRejected(UpstreamError):
    """The host answered 4xx, as the request is at fault; another host would refuse it too."""

    default_status = 400
    type = "invalid_request_error"
    default_code: ClassVar[str | None] = None
    may_try_another_target = False


class StreamBroken(UpstreamError):
    """The upstream's stream ended before it was complete, or a continuation is not plain text; sent in band."""

    default_code = "upstream_disconnected"
    may_try_another_target = False


# --- Tidegate's own fault -----------------------------------------------------------------------------------------


class InternalError(ProxyError):
    """An error inside Tidegate. The message is for the log; the caller gets the request id instead."""

    source = "internal"
    default_status = 500
    type = "server_error"
    default_code = "internal_error"


class EngineUnavailable(InternalError):
    """A local engine is starting, restarting or cannot start; the message says which. It is shown to the caller."""

    default_status = 503
    default_code = "engine_unavailable"
    may_try_another_target = True


class TargetBusy(ProxyError):
    """The target has no free slot, and the request could not wait, or no longer. Shown to the caller."""

    source = "internal"
    default_status = 429
    type = "rate_limit_error"
    default_code = "target_busy"
    may_try_another_target = True


class LocalModelUnavailable(EngineUnavailable):
    """The request may go to local engines only, and none can take it. The message is shown to the caller."""

    default_code = "local_model_unavailable"
    may_try_another_target = False


class NoTarget(EngineUnavailable):
    """The model has targets, but none may take the request now; the message says why. It is shown to the caller."""

    default_code = "no_target"
    may_try_another_target = False


class ShuttingDown(InternalError):
    """The server shuts down, and no longer waits for this request. The message is shown to the caller."""

    default_status = 503
    default_code = "shutting_down"


class ConfigError(InternalError):
    """The config is wrong; at start and reload only. The message names the file, the key, the fault and the remedy."""
