"""`Settlement`: on every exit of a request one log line and the metrics, and never an error of its own."""

import asyncio
from contextlib import contextmanager

import pytest

from tests.fakes.clock import FakeClock
from tidegate import errors
from tidegate.auth import ANONYMOUS
from tidegate.pipeline.context import RequestContext
from tidegate.pipeline.settlement import Settlement
from tidegate.protocol.usage import Usage, parse_usage
from tidegate.telemetry.metrics import Metrics


class Log:
    """Stores each line as (level, event, fields)."""

    def __init__(self) -> None:
        self.lines = []

    def info(self, event, **fields):
        self.lines.append(("info", event, fields))

    def warning(self, event, **fields):
        self.lines.append(("warning", event, fields))

    def error(self, event, **fields):
        self.lines.append(("error", event, fields))

    def exception(self, event, **fields):
        self.lines.append(("exception", event, fields))


@contextmanager
def raises_unchanged(error):
    """Assert that the block raises exactly `error`, as settling suppresses no error."""
    if error is None:
        yield
        return
    with pytest.raises(type(error)) as caught:
        yield
    assert caught.value is error


class SettlementStage:
    """A settlement, its log and metrics, and one request."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.metrics = Metrics(["m"])
        self.log = Log()
        self.settlement = Settlement(self.metrics, self.log)
        self.context = RequestContext("req-1", "chat", self.clock)
        self.context.model = "m"

    def settle(self, error=None):
        """Settle a request that ends with `error`, which passes through; return the one log line."""
        with raises_unchanged(error), self.settlement.settle(self.context):
            if error is not None:
                raise error
        [line] = self.log.lines
        return line

    def sample(self, name, **labels):
        return self.metrics.registry.get_sample_value(f"tidegate_{name}", labels)

    def requests(self, status, upstream="none", model="m"):
        return self.sample("requests_total", endpoint="chat", model=model, upstream=upstream, status=status)


@pytest.fixture
def stage():
    return SettlementStage()


def test_a_good_request_is_one_line(stage):
    stage.clock.advance(0.25)
    assert stage.settle() == (
        "info",
        "request",
        {"request_id": "req-1", "endpoint": "chat", "status": 200, "model": "m", "stream": False, "duration_ms": 250.0},
    )
    assert stage.requests("200") == 1


@pytest.mark.parametrize(
    ("error", "first_content_s", "is_reported"),
    [
        (None, 0.0, True),
        (errors.ClientGone("left"), 2.0, True),
        (errors.ClientGone("left"), 0.0, False),
        (errors.UpstreamFailed("no"), 2.0, False),
    ],
)
def test_answered_requests_are_reported_to_on_answered(stage, error, first_content_s, is_reported):
    """A request whose caller disconnected after the first content counts as answered."""
    reported = []
    stage.settlement.on_answered = reported.append
    stage.context.record.sent_s, stage.context.first_content_s = 1.0, first_content_s
    stage.settle(error)
    assert reported == ([stage.context] if is_reported else [])


def test_the_log_line_has_all_known_fields(stage):
    context = stage.context
    context.principal, context.record.upstream, context.attempts = ANONYMOUS, "far", 2
    context.record.upstream_id = "gen-1"
    context.is_stream, context.caller_retries = True, 1
    context.record.usage = Usage(3, 2, 5)
    stage.clock.advance(0.5)
    context.first_content_s = stage.clock.monotonic_s()
    stage.clock.advance(0.5)
    _, _, fields = stage.settle()
    assert fields == {
        "request_id": "req-1",
        "endpoint": "chat",
        "status": 200,
        "model": "m",
        "stream": True,
        "duration_ms": 1000.0,
        "principal": "anonymous",
        "upstream": "far",
        "attempts": 2,
        "upstream_request_id": "gen-1",
        "ttft_ms": 500.0,
        "prompt_tokens": 3,
        "completion_tokens": 2,
        "caller_retries": 1,
    }


def test_times_and_tokens_are_measured(stage):
    context, labels = stage.context, {"endpoint": "chat", "model": "m", "upstream": "far"}
    context.record.upstream, context.record.usage = "far", Usage(30, 11, 41)
    context.received_s = stage.clock.monotonic_s()
    stage.clock.advance(0.125)
    context.record.sent_s = stage.clock.monotonic_s()
    stage.clock.advance(1.0)
    context.first_content_s = stage.clock.monotonic_s()
    stage.clock.advance(5.0)
    stage.settle()
    assert stage.sample("overhead_seconds_sum", **labels) == 0.125
    assert stage.sample("time_to_first_token_seconds_sum", **labels) == 1.125
    assert stage.sample("time_per_output_token_seconds_sum", **labels) == 0.5
    assert stage.sample("request_duration_seconds_sum", **labels) == 6.125
    assert stage.sample("prompt_tokens_total", **labels) == 30
    assert stage.sample("completion_tokens_total", **labels) == 11


def test_an_unknown_model_name_makes_no_metric_series(stage):
    stage.context.model = "x" * 1000
    _, _, fields = stage.settle()
    assert stage.requests("200", model="other") == 1
    assert fields["model"] == "x" * 128


@pytest.mark.parametrize(
    ("error", "status", "code", "source"),
    [
        (errors.NotAuthenticated("Who?"), 401, "invalid_api_key", "downstream"),
        (errors.ModelNotFound("None."), 404, "model_not_found", "downstream"),
        (errors.UpstreamFailed("Down."), 502, "upstream_failed", "upstream"),
        (errors.EngineUnavailable("Starting."), 503, "engine_unavailable", "internal"),
        (errors.ShuttingDown("Going."), 503, "shutting_down", "internal"),
    ],
)
def test_an_error_is_one_line_and_passes_through(stage, error, status, code, source):
    level, _, fields = stage.settle(error)
    assert level == "info"
    assert (fields["status"], fields["error"], fields["source"]) == (status, code, source)
    assert fields["reason"] == error.message
    assert stage.requests(str(status)) == 1


def test_messages_that_may_quote_the_request_are_not_logged(stage):
    _, _, fields = stage.settle(errors.MalformedRequest("Invalid value: 'my secret'.", param="messages[0].role"))
    assert fields["reason"] == "(not logged: may quote the request)"
    assert fields["param"] == "messages[0].role"
    assert "my secret" not in repr(stage.log.lines)


def test_an_error_in_band_keeps_the_status_that_left(stage):
    """The status line was 200; the log has the error that came after."""
    stage.context.has_sent_status = True
    _, _, fields = stage.settle(errors.StreamBroken("Cut."))
    assert (fields["status"], fields["error"]) == (200, "upstream_disconnected")
    assert stage.requests("200") == 1


@pytest.mark.parametrize("has_begun", [True, False])
@pytest.mark.parametrize("kind", [asyncio.CancelledError, GeneratorExit])
def test_a_disconnect_is_499(stage, kind, has_begun):
    stage.context.has_sent_status = has_begun
    _, _, fields = stage.settle(kind())
    assert (fields["status"], fields["error"]) == (499, "client_gone")
    assert stage.sample("caller_disconnects_total", endpoint="chat") == 1


@pytest.mark.parametrize("is_aborted", [True, False])
@pytest.mark.parametrize(("sent_s", "count"), [(0.0, None), (1000.0, 1)])
def test_requests_cancelled_while_the_upstream_worked_are_counted(stage, is_aborted, sent_s, count):
    """Engines such as vLLM do not count aborted requests."""
    stage.context.is_aborted = is_aborted
    stage.context.record.upstream = "far"
    stage.context.record.sent_s = sent_s
    stage.settle(asyncio.CancelledError())
    assert stage.sample("upstream_aborts_total", upstream="far") == count


def test_a_failure_of_the_upstream_is_no_abort(stage):
    stage.context.record.upstream = "far"
    stage.context.record.sent_s = stage.clock.monotonic_s()
    stage.settle(errors.UpstreamTimeout("Late."))
    assert stage.sample("upstream_aborts_total", upstream="far") is None


def test_a_request_cut_off_by_the_shutdown_is_no_disconnect(stage):
    stage.context.is_aborted = True
    _, _, fields = stage.settle(asyncio.CancelledError())
    assert (fields["status"], fields["error"]) == (503, "shutting_down")
    assert not stage.sample("caller_disconnects_total", endpoint="chat")


def test_an_unexpected_exception_is_logged_with_its_traceback(stage):
    crash = ZeroDivisionError("reason")
    level, event, fields = stage.settle(crash)
    assert (level, event) == ("error", "request")
    assert (fields["status"], fields["error"], fields["exc_info"]) == (500, "internal_error", crash)


def test_requests_in_flight_are_counted_down_on_every_exit(stage):
    for error in (None, errors.UpstreamFailed("x"), asyncio.CancelledError(), ZeroDivisionError()):
        stage.log.lines.clear()
        during = []
        with raises_unchanged(error), stage.settlement.settle(stage.context):
            during.append(stage.sample("requests_in_flight"))
            if error is not None:
                raise error
        assert during == [1]
        assert stage.sample("requests_in_flight") == 0


def test_a_failed_settlement_does_not_break_an_answer(stage):
    """An error inside the settlement is logged, not raised."""

    class BrokenLog(Log):
        def info(self, event, **fields):
            raise OSError("no space left on device")

    stage.settlement.log = BrokenLog()
    with stage.settlement.settle(stage.context):
        pass
    assert [line[:2] for line in stage.settlement.log.lines] == [("exception", "settlement failed")]
    with pytest.raises(errors.UpstreamFailed), stage.settlement.settle(stage.context):
        raise errors.UpstreamFailed("the real reason")


def test_negative_token_counts_of_a_host_do_not_prevent_the_log_line(stage):
    """A Prometheus counter cannot be decreased."""
    stage.context.record.upstream, stage.context.record.sent_s = "far", stage.clock.monotonic_s()
    stage.context.record.usage = parse_usage({"prompt_tokens": -5, "completion_tokens": -1})
    assert stage.settle()[:2] == ("info", "request")


def test_a_failed_attempt_is_a_warning(stage):
    stage.context.record.upstream = "far"
    stage.settlement.record_failed_attempt(stage.context, stage.context.record, errors.UpstreamUnreachable("No route."))
    [(level, event, fields)] = stage.log.lines
    assert (level, event) == ("warning", "upstream failed")
    assert (fields["upstream"], fields["error"], fields["reason"]) == ("far", "upstream_unreachable", "No route.")
    assert (fields["may_try_another"], fields["status"]) == (True, 502)
    assert (
        sum(
            sample.value
            for family in stage.metrics.upstream_errors.collect()
            for sample in family.samples
            if sample.name.endswith("_total")
        )
        == 1
    )


@pytest.mark.parametrize("error", [errors.TargetBusy("Full."), errors.EngineUnavailable("Loading.")])
def test_a_target_that_was_not_free_has_not_failed(stage, error):
    stage.settlement.record_failed_attempt(stage.context, stage.context.record, error)
    assert [line[:2] for line in stage.log.lines] == [("info", "target not free")]


def test_error_codes_of_a_host_are_not_metric_labels(stage):
    """A host chooses the code of its 429 freely; labels come from Tidegate's own classes only."""
    for code in ("a", "b", "c"):
        stage.settlement.record_failed_attempt(
            stage.context, stage.context.record, errors.UpstreamRateLimited("x", code=code)
        )
    [family] = stage.metrics.upstream_errors.collect()
    assert len({sample.labels["error"] for sample in family.samples}) == 1
