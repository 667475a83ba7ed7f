"""The closing bracket: on every exit one log line and the metrics; never an error of its own."""

import asyncio
from contextlib import contextmanager

import pytest
from tidegate import errors
from tidegate.auth import ANONYMOUS
from tidegate.pipeline.context import RequestContext
from tidegate.pipeline.settlement import Settlement
from tidegate.protocol.usage import Usage, parse_usage
from tidegate.telemetry.metrics import Metrics

from tests.fakes.clock import FakeClock


class Log:
    """Writes down each line as (level, event, fields)."""

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
def passing(error):
    """Settling holds no error back."""
    if error is None:
        yield
        return
    with pytest.raises(type(error)) as caught:
        yield
    assert caught.value is error


class Books:
    """A settlement, its log and metrics, and one request."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.metrics = Metrics(["m"])
        self.log = Log()
        self.settlement = Settlement(self.metrics, self.log)
        self.context = RequestContext("req-1", "chat", self.clock)
        self.context.model = "m"

    def settle(self, error=None):
        """Close the books over `error`, which goes on its way; the one line that was written."""
        with passing(error), self.settlement.settle(self.context):
            if error is not None:
                raise error
        [line] = self.log.lines
        return line

    def sample(self, name, **labels):
        return self.metrics.registry.get_sample_value(f"tidegate_{name}", labels)

    def requests(self, status, upstream="none", model="m"):
        return self.sample("requests_total", endpoint="chat", model=model, upstream=upstream, status=status)


@pytest.fixture
def books():
    return Books()


def test_a_good_request_is_one_line(books):
    books.clock.advance(0.25)
    assert books.settle() == (
        "info",
        "request",
        {"request_id": "req-1", "endpoint": "chat", "status": 200, "model": "m", "stream": False, "duration_ms": 250.0},
    )
    assert books.requests("200") == 1


@pytest.mark.parametrize(
    ("error", "first_content_s", "is_told"),
    [
        (None, 0.0, True),
        (errors.ClientGone("left"), 2.0, True),
        (errors.ClientGone("left"), 0.0, False),
        (errors.UpstreamFailed("no"), 2.0, False),
    ],
)
def test_who_remembers_answers_is_told_of_those_that_came(books, error, first_content_s, is_told):
    """Also of one that the caller had seen enough of."""
    told = []
    books.settlement.on_answered = told.append
    books.context.record.sent_s, books.context.first_content_s = 1.0, first_content_s
    books.settle(error)
    assert told == ([books.context] if is_told else [])


def test_what_is_known_is_in_the_line(books):
    context = books.context
    context.principal, context.record.upstream, context.attempts = ANONYMOUS, "far", 2
    context.record.upstream_id = "gen-1"
    context.is_stream, context.caller_retries = True, 1
    context.record.usage = Usage(3, 2, 5)
    books.clock.advance(0.5)
    context.first_content_s = books.clock.monotonic_s()
    books.clock.advance(0.5)
    _, _, fields = books.settle()
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


def test_times_and_tokens_are_measured(books):
    context, labels = books.context, {"endpoint": "chat", "model": "m", "upstream": "far"}
    context.record.upstream, context.record.usage = "far", Usage(30, 11, 41)
    context.received_s = books.clock.monotonic_s()
    books.clock.advance(0.125)
    context.record.sent_s = books.clock.monotonic_s()
    books.clock.advance(1.0)
    context.first_content_s = books.clock.monotonic_s()
    books.clock.advance(5.0)
    books.settle()
    assert books.sample("overhead_seconds_sum", **labels) == 0.125
    assert books.sample("time_to_first_token_seconds_sum", **labels) == 1.125
    assert books.sample("time_per_output_token_seconds_sum", **labels) == 0.5
    assert books.sample("request_duration_seconds_sum", **labels) == 6.125
    assert books.sample("prompt_tokens_total", **labels) == 30
    assert books.sample("completion_tokens_total", **labels) == 11


def test_a_model_of_the_callers_invention_makes_no_series(books):
    books.context.model = "x" * 1000
    _, _, fields = books.settle()
    assert books.requests("200", model="other") == 1
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
def test_an_error_is_one_line_and_goes_on(books, error, status, code, source):
    level, _, fields = books.settle(error)
    assert level == "info"
    assert (fields["status"], fields["error"], fields["source"]) == (status, code, source)
    assert fields["reason"] == error.message
    assert books.requests(str(status)) == 1


def test_words_that_may_quote_the_request_are_not_logged(books):
    _, _, fields = books.settle(errors.MalformedRequest("Invalid value: 'my secret'.", param="messages[0].role"))
    assert fields["reason"] == "(not logged: may quote the request)"
    assert fields["param"] == "messages[0].role"
    assert "my secret" not in repr(books.log.lines)


def test_an_error_in_band_keeps_the_status_that_left(books):
    """The status line said 200; the log says what came after."""
    books.context.has_begun = True
    _, _, fields = books.settle(errors.StreamBroken("Cut."))
    assert (fields["status"], fields["error"]) == (200, "upstream_disconnected")
    assert books.requests("200") == 1


@pytest.mark.parametrize("has_begun", [True, False])
@pytest.mark.parametrize("kind", [asyncio.CancelledError, GeneratorExit])
def test_a_caller_who_left_is_499(books, kind, has_begun):
    books.context.has_begun = has_begun
    _, _, fields = books.settle(kind())
    assert (fields["status"], fields["error"]) == (499, "client_gone")
    assert books.sample("caller_disconnects_total", endpoint="chat") == 1


@pytest.mark.parametrize("is_aborted", [True, False])
@pytest.mark.parametrize(("sent_s", "count"), [(0.0, None), (1000.0, 1)])
def test_what_was_given_up_while_the_upstream_was_at_it_is_counted(books, is_aborted, sent_s, count):
    """An engine such as vLLM counts aborted requests nowhere."""
    books.context.is_aborted = is_aborted
    books.context.record.upstream = "far"
    books.context.record.sent_s = sent_s
    books.settle(asyncio.CancelledError())
    assert books.sample("upstream_aborts_total", upstream="far") == count


def test_a_failure_of_the_upstreams_is_no_abort(books):
    books.context.record.upstream = "far"
    books.context.record.sent_s = books.clock.monotonic_s()
    books.settle(errors.UpstreamTimeout("Late."))
    assert books.sample("upstream_aborts_total", upstream="far") is None


def test_what_was_cut_by_our_own_end_is_not_the_callers_doing(books):
    books.context.is_aborted = True
    _, _, fields = books.settle(asyncio.CancelledError())
    assert (fields["status"], fields["error"]) == (503, "shutting_down")
    assert not books.sample("caller_disconnects_total", endpoint="chat")


def test_a_crash_of_ours_is_logged_with_its_traceback(books):
    crash = ZeroDivisionError("reason")
    level, event, fields = books.settle(crash)
    assert (level, event) == ("error", "request")
    assert (fields["status"], fields["error"], fields["exc_info"]) == (500, "internal_error", crash)


def test_requests_in_flight_are_counted_down_on_every_exit(books):
    for error in (None, errors.UpstreamFailed("x"), asyncio.CancelledError(), ZeroDivisionError()):
        books.log.lines.clear()
        with_it = []
        with passing(error), books.settlement.settle(books.context):
            with_it.append(books.sample("requests_in_flight"))
            if error is not None:
                raise error
        assert with_it == [1]
        assert books.sample("requests_in_flight") == 0


def test_books_that_cannot_be_written_do_not_break_an_answer(books):
    """One of the three broad clauses."""

    class BrokenLog(Log):
        def info(self, event, **fields):
            raise OSError("no space left on device")

    books.settlement.log = BrokenLog()
    with books.settlement.settle(books.context):
        pass
    assert [line[:2] for line in books.settlement.log.lines] == [("exception", "settlement failed")]
    with pytest.raises(errors.UpstreamFailed), books.settlement.settle(books.context):
        raise errors.UpstreamFailed("the real reason")


def test_odd_counts_of_a_host_do_not_cost_the_line(books):
    """Counters only go up."""
    books.context.record.upstream, books.context.record.sent_s = "far", books.clock.monotonic_s()
    books.context.record.usage = parse_usage({"prompt_tokens": -5, "completion_tokens": -1})
    assert books.settle()[:2] == ("info", "request")


def test_a_failed_attempt_is_a_warning(books):
    books.context.record.upstream = "far"
    books.settlement.failed_attempt(books.context, books.context.record, errors.UpstreamUnreachable("No route."))
    [(level, event, fields)] = books.log.lines
    assert (level, event) == ("warning", "upstream failed")
    assert (fields["upstream"], fields["error"], fields["reason"]) == ("far", "upstream_unreachable", "No route.")
    assert (fields["may_try_another"], fields["status"]) == (True, 502)
    assert (
        sum(
            sample.value
            for family in books.metrics.upstream_errors.collect()
            for sample in family.samples
            if sample.name.endswith("_total")
        )
        == 1
    )


@pytest.mark.parametrize("error", [errors.TargetBusy("Full."), errors.EngineUnavailable("Loading.")])
def test_a_target_that_was_not_free_has_not_failed(books, error):
    books.settlement.failed_attempt(books.context, books.context.record, error)
    assert [line[:2] for line in books.log.lines] == [("info", "target not free")]


def test_a_hosts_own_words_are_not_labels(books):
    """A 429's code is the host's to invent; labels come from our own code only."""
    for code in ("a", "b", "c"):
        books.settlement.failed_attempt(books.context, books.context.record, errors.UpstreamRateLimited("x", code=code))
    [family] = books.metrics.upstream_errors.collect()
    assert len({sample.labels["error"] for sample in family.samples}) == 1
