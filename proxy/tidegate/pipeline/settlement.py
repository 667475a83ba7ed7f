"""`Settlement`: one access-log line and the metrics on every exit of a request. Never raises."""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from tidegate.errors import (
    SHUTTING_DOWN_MESSAGE,
    ClientGone,
    EngineUnavailable,
    InternalError,
    ProxyError,
    ShuttingDown,
    TargetBusy,
    UpstreamError,
)
from tidegate.pipeline.context import AttemptRecord, RequestContext
from tidegate.telemetry.logs import Log
from tidegate.telemetry.metrics import Metrics, Series


class Settlement:
    """Records the outcomes of requests; one object for all requests.

    Args:
        on_answered: called for each request that was answered; a part of the answer is enough if the caller
            disconnected after the first content.
    """

    def __init__(self, metrics: Metrics, log: Log, on_answered: Callable[[RequestContext], None] | None = None) -> None:
        self.metrics = metrics
        self.log = log
        self.on_answered = on_answered

    def settle(self, context: RequestContext) -> "SettlementScope":
        """A context manager around one request."""
        return SettlementScope(self, context)

    def record_failed_attempt(self, context: RequestContext, record: AttemptRecord, error: ProxyError) -> None:
        """Log and count an attempt that failed; another one may follow."""
        self.metrics.upstream_errors.labels(record.upstream, type(error).__name__).inc()
        was_sent = not isinstance(error, EngineUnavailable | TargetBusy)
        write, event = (self.log.warning, "upstream failed") if was_sent else (self.log.info, "target not free")
        write(
            event,
            request_id=context.id,
            status=error.status,
            upstream=record.upstream,
            upstream_request_id=record.upstream_id,
            model=context.model,
            error=error.code or error.type,
            reason=_loggable_message(error),
            may_try_another=error.may_try_another_target,
        )

    def record_continuation(self, context: RequestContext, broken: AttemptRecord, continuing: AttemptRecord) -> None:
        """Log and count a stream that broke at one target and that another one continues."""
        self.metrics.continuations.labels(broken.upstream, continuing.upstream).inc()
        self.log.warning(
            "stream continued",
            request_id=context.id,
            model=context.model,
            broken_upstream=broken.upstream,
            upstream=continuing.upstream,
        )


class SettlementScope:
    """The block around one request, from its first byte to the last one of its answer.

    The exception that leaves the block decides what is recorded; it is not suppressed.
    """

    __slots__ = ("_context", "_settlement")

    def __init__(self, settlement: Settlement, context: RequestContext) -> None:
        self._settlement = settlement
        self._context = context

    def __enter__(self) -> Self:
        self._settlement.metrics.in_flight += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._settlement.metrics.in_flight -= 1
        try:
            self._close(error)
        except Exception:  # a failed settlement must not break an answer
            self._settlement.log.exception("settlement failed", request_id=self._context.id)

    def _close(self, error: BaseException | None) -> None:
        context, metrics, log = self._context, self._settlement.metrics, self._settlement.log
        failure = None if error is None else _to_proxy_error(error, context)
        ended_s = context.clock.monotonic_s()
        is_in_band = context.has_sent_status and not isinstance(failure, ClientGone)
        status = 200 if failure is None or is_in_band else failure.status
        series = metrics.series(context.endpoint, context.model, context.record.upstream or "none")
        series.statuses[status] = series.statuses.get(status, 0) + 1
        if isinstance(failure, ClientGone):
            metrics.disconnects.labels(context.endpoint).inc()
        if context.record.sent_s and isinstance(failure, ClientGone | ShuttingDown):
            metrics.aborts.labels(context.record.upstream).inc()
        fields = _log_fields(context, status, ended_s)
        if failure is not None:
            fields |= _failure_fields(failure)
        if isinstance(failure, InternalError) and status == 500:
            log.error("request", **fields, exc_info=failure.__cause__ or error)
        else:
            log.info("request", **fields)
        if context.record.sent_s:
            _observe(series, context, ended_s)
            is_answered = failure is None or (isinstance(failure, ClientGone) and context.first_content_s > 0)
            if is_answered and self._settlement.on_answered is not None:
                self._settlement.on_answered(context)


def _observe(series: Series, context: RequestContext, ended_s: float) -> None:
    series.duration.observe(ended_s - context.started_s)
    series.overhead.observe((context.first_sent_s or context.record.sent_s) - context.received_s)
    usage = context.usage
    if context.first_content_s:
        series.ttft.observe(context.first_content_s - context.started_s)
        if usage is not None and usage.completion_tokens > 1:
            series.per_token.observe((ended_s - context.first_content_s) / (usage.completion_tokens - 1))
    if usage is not None:
        series.tokens_in += usage.prompt_tokens
        series.tokens_out += usage.completion_tokens


def _to_proxy_error(error: BaseException, context: RequestContext) -> ProxyError:
    if isinstance(error, ProxyError):
        return error
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        if context.is_aborted:
            return ShuttingDown(SHUTTING_DOWN_MESSAGE)
        return ClientGone("The caller left.")
    return InternalError(f"{type(error).__name__}: {error}")


def _log_fields(context: RequestContext, status: int, ended_s: float) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "request_id": context.id,
        "endpoint": context.endpoint,
        "status": status,
        "model": context.model[:128],
        "stream": context.is_stream,
        "duration_ms": round((ended_s - context.started_s) * 1000, 2),
    }
    if context.principal is not None:
        fields["principal"] = context.principal.name
    if context.record.upstream:
        fields["upstream"] = context.record.upstream
        fields["attempts"] = context.attempts
    if context.record.upstream_id:
        fields["upstream_request_id"] = context.record.upstream_id
    if context.first_content_s:
        fields["ttft_ms"] = round((context.first_content_s - context.started_s) * 1000, 2)
    if context.usage is not None:
        fields["prompt_tokens"] = context.usage.prompt_tokens
        fields["completion_tokens"] = context.usage.completion_tokens
    if context.caller_retries:
        fields["caller_retries"] = context.caller_retries
    return fields


def _failure_fields(failure: ProxyError) -> dict[str, Any]:
    fields = {"error": failure.code or failure.type, "source": failure.source, "reason": _loggable_message(failure)}
    if failure.param is not None:
        fields["param"] = failure.param[:128]
    return fields


def _loggable_message(error: ProxyError) -> str:
    if isinstance(error, UpstreamError) and error.original:
        return error.original
    return "(not logged: may quote the request)" if error.is_quoted else error.message
