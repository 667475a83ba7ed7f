"""Everything that can go wrong, as one tree.

The class fixes who is at fault (`source`), the HTTP status, OpenAI's `type` and default `code`, and whether another
target may be tried. `protocol/errors.py` turns any of them into OpenAI's error JSON; each front door has one place that
renders it. Foreign exceptions become ours once, at the edge, with `raise … from`.
"""

from typing import ClassVar, Literal

Source = Literal["downstream", "upstream", "internal"]
GOING_DOWN = "The server is going down, and does not wait for this answer. Try again."


class ProxyError(Exception):
    """Base of the tree; never raised itself.

    Args:
        message: for the caller to read, except for internal errors, whose message stays in the log.
        param: the request field at fault, as OpenAI writes it (`messages[0].role`).
        code: a slug that callers may branch on; the class's own where omitted.
        retry_after_s: seconds until a retry is worth while.
        status: overrides the class's HTTP status.
        should_retry: what the caller's SDK is told of that (`x-should-retry`); None: nothing, it decides by the status.
        is_quoted: the message holds somebody else's words, which may quote the prompt: it is not logged.
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


def forget_way(error: BaseException) -> None:
    """Drop where it was raised, when all that is to be said of it has been said.

    An error knows the frames that it came through, and these know the error, the request and its body: such a circle
    stays until the collector comes, which is seldom here.
    """
    error.__traceback__ = error.__cause__ = error.__context__ = None


# --- the caller's fault -------------------------------------------------------------------------------------------


class RequestError(ProxyError):
    """The caller sent, showed or asked for something that cannot be served; nothing went upstream."""

    source = "downstream"
    default_status = 400
    type = "invalid_request_error"


class MalformedRequest(RequestError):
    """The body is not what the endpoint takes. The message may quote it."""

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message, param=param, code=code, is_quoted=True)


class UnsupportedParameter(RequestError):
    """A field changes the result and the target cannot honour it."""

    default_code = "unsupported_parameter"


class NotAuthenticated(RequestError):
    """No key, or a key that nobody issued."""

    default_status = 401
    default_code = "invalid_api_key"


class NotPermitted(RequestError):
    """A known caller, but not for this."""

    default_status = 403
    type = "permission_error"
    default_code = "not_permitted"


class PathNotFound(RequestError):
    """No such path."""

    default_status = 404
    default_code = "unknown_url"


class ModelNotFound(RequestError):
    """No such model here or upstream."""

    default_status = 404
    default_code = "model_not_found"


class EngineNotFound(RequestError):
    """No such engine here."""

    default_status = 404
    default_code = "engine_not_found"


class AnswerNotFound(RequestError):
    """No such answer, or another caller's."""

    default_status = 404
    default_code = "answer_not_found"


class MethodNotAllowed(RequestError):
    """The path exists, but not for this method."""

    default_status = 405
    default_code = "method_not_allowed"


class RequestTimeout(RequestError):
    """The body did not arrive in time."""

    default_status = 408
    default_code = "request_timeout"


class Conflict(RequestError):
    """What is asked cannot be done to this engine."""

    default_status = 409
    default_code = "conflict"


class RequestTooLarge(RequestError):
    """The body is over the limit; it was not read."""

    default_status = 413
    default_code = "request_too_large"


class UnsupportedMediaType(RequestError):
    """The body is not declared to be JSON."""

    default_status = 415
    default_code = "unsupported_media_type"


class ClientGone(RequestError):
    """The caller left before the answer ended; nobody reads this, it is logged as 499 (nginx's number)."""

    default_status = 499
    default_code = "client_gone"


# --- the upstream's fault -----------------------------------------------------------------------------------------


class UpstreamError(ProxyError):
    """A host or engine failed us.

    Attributes:
        is_unconnected: there was no connection at all: refused, no such host, nobody there in time.
        is_told: `retry_after_s` is what the host itself said; else it is made up, for the caller.
        original: the host's own message, for the log, where `message` is ours; else empty.
    """

    is_unconnected: bool = False
    is_told: bool = False
    original: str = ""

    source = "upstream"
    default_status = 502
    type = "upstream_error"
    default_code: ClassVar[str | None] = "upstream_failed"
    may_try_another_target = True


class UpstreamUnreachable(UpstreamError):
    """No connection, or it broke before an answer."""

    default_code = "upstream_unreachable"


class UpstreamTimeout(UpstreamError):
    """Connected, but silent for too long."""

    default_status = 504
    default_code = "upstream_timeout"


class EngineStalled(UpstreamTimeout):
    """The request left an engine that hangs before an answer had begun, as another target was left."""

    default_code = "upstream_timeout"


class UpstreamRateLimited(UpstreamError):
    """The host's 429.

    Args:
        is_told: see `UpstreamError`.
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
        is_told: bool = False,
    ) -> None:
        super().__init__(message, code=code, retry_after_s=retry_after_s, is_quoted=is_quoted)
        self.is_told = is_told


class UpstreamFailed(UpstreamError):
    """The host answered with a failure of its own, or with something that is no answer."""


class EngineDied(UpstreamFailed):
    """The engine reports that its core has ended: every request in it has failed."""

    default_code = "upstream_failed"


class AnswerMisfit(UpstreamError):
    """The host's answer does not fit the caller's schema: nobody says that the host is at fault."""

    default_code = "structured_output_invalid"


class ToolCallUnparsable(UpstreamError):
    """The host could not parse its model's tool call (row 76j); what a model writes is no fault of the target.

    It is not retried, neither at another target nor by the caller's SDK: the same prompt tends to end the same way.
    """

    default_code = "tool_call_unparsable"
    may_try_another_target = False

    def __init__(self, message: str) -> None:
        super().__init__(message, should_retry=False)


class UpstreamRefusedUs(UpstreamError):
    """The host does not take our key (401, 402, 403): our trouble, not the caller's, so never a 401."""

    default_code = "upstream_auth"


class UpstreamLacksModel(UpstreamError):
    """The host's 404: it does not have the model (or the endpoint)."""

    default_status = 404
    type = "invalid_request_error"
    default_code = "model_not_found"


class UpstreamLacksOperation(UpstreamError):
    """The host has the model, but not for this request: embeddings of a chat model, or tools without their parser."""

    default_status = 400
    type = "invalid_request_error"
    default_code = "unsupported_operation"


class UpstreamRejected(UpstreamError):
    """The host's 4xx for the caller's fault; another host would say the same."""

    default_status = 400
    type = "invalid_request_error"
    default_code: ClassVar[str | None] = None
    may_try_another_target = False


class StreamBroken(UpstreamError):
    """An upstream stream that ended wrongly after content had left; told in band."""

    default_code = "upstream_disconnected"
    may_try_another_target = False


# --- our own fault ------------------------------------------------------------------------------------------------


class InternalError(ProxyError):
    """Ours. The message is for the log; the caller gets the request id."""

    source = "internal"
    default_status = 500
    type = "server_error"
    default_code = "internal_error"


class EngineUnavailable(InternalError):
    """A local engine is starting, restarting or cannot start. The message says which and is shown to the caller."""

    default_status = 503
    default_code = "engine_unavailable"
    may_try_another_target = True


class TargetBusy(ProxyError):
    """A target has as many requests as it may have, and this one could not wait (any longer). Shown to the caller."""

    source = "internal"
    default_status = 429
    type = "rate_limit_error"
    default_code = "target_busy"
    may_try_another_target = True


class LocalModelUnavailable(EngineUnavailable):
    """The request may not leave the house, and no engine in it can take it. Shown to the caller."""

    default_code = "local_model_unavailable"
    may_try_another_target = False


class NoTarget(EngineUnavailable):
    """There are targets, and none may take the request now. The message says why and is shown to the caller."""

    default_code = "no_target"
    may_try_another_target = False


class ShuttingDown(InternalError):
    """The server is going down, and does not wait for this request any longer. Shown to the caller."""

    default_status = 503
    default_code = "shutting_down"


class ConfigError(InternalError):
    """What the operator set cannot work; start-up only. The message names file, key path, fault and cure."""
