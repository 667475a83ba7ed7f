"""`RequestContext`: what the phases of one request share."""

from collections.abc import Callable
from typing import Protocol

import msgspec

from tidegate.clock import Clock
from tidegate.errors import ProxyError
from tidegate.pipeline.engine_start_progress import EngineStartProgress
from tidegate.protocol.reasoning import ReasoningFormat
from tidegate.protocol.routing import Priority, Reach, Task
from tidegate.protocol.usage import Usage
from tidegate.streaming.checks import AnswerCheck


class Principal(Protocol):
    """The authenticated caller."""

    @property
    def name(self) -> str:
        """The caller's name, as it is written to logs; never a secret."""

    @property
    def reasoning_format(self) -> ReasoningFormat | None:
        """How reasoning is shown to this caller; None: as the model's or the default settings say."""

    @property
    def reach(self) -> Reach | None:
        """How far the caller's requests may go; None: as the model's and the default settings say."""

    @property
    def priority(self) -> Priority:
        """The highest priority that the caller's requests may have."""


class RequestOptions(msgspec.Struct, frozen=True):
    """The options that a caller sends in Tidegate's own headers; None or empty where the header is missing."""

    drop_params: bool | None = None
    reasoning_format: ReasoningFormat | None = None
    reach: Reach | None = None
    priority: Priority | None = None
    session: str = ""


_NO_OPTIONS = RequestOptions()


class SentCredential(Protocol):
    """The credential that was sent to a host with a request (see `tidegate.transport.credentials`)."""

    def worked(self, model: str) -> None:
        """Record that the host accepted the credential."""

    def refused(self, status: int, model: str) -> None:
        """Record that the host refused the credential for this model, with this HTTP status."""

    def limited(self, seconds: float) -> None:
        """Record that the host accepts no requests with the credential, or its account, for this many seconds."""

    def has_other(self, model: str) -> bool:
        """Whether another credential can be used for this model now."""


class AttemptRecord:
    """One attempt at one target: written by the attempt, read by settlement and the front door.

    Times are monotonic seconds.

    Attributes:
        upstream: the name of the target's upstream or engine.
        model: the name of the model at the target.
        upstream_id: the host's own id of the request, for the log; empty if the host sent none.
        adjusted: what was changed in the request, for the header `x-tidegate-adjusted`.
        credential: the credential that was sent to the host; None before a response has arrived.
        answer_check: checks the answer where the request asked for JSON or offered tools; else None.
        sent_s: when the request was sent; 0 if it was not sent.
        first_content_s: when the target's first content arrived; 0 if none has, or if the answer arrived as a whole.
        usage: the usage that the target reported; None if it reported none.
        is_whole: whether the answer has ended completely and correctly.
        failure: the error that ended the answer after it had begun.
        on_first_content: called when the first content has arrived.
    """

    __slots__ = (
        "adjusted",
        "answer_check",
        "credential",
        "failure",
        "first_content_s",
        "is_whole",
        "model",
        "on_first_content",
        "sent_s",
        "upstream",
        "upstream_id",
        "usage",
    )

    def __init__(self, upstream: str = "", model: str = "") -> None:
        self.upstream = upstream
        self.model = model
        self.upstream_id = ""
        self.adjusted: list[str] = []
        self.answer_check: AnswerCheck | None = None
        self.credential: SentCredential | None = None
        self.sent_s = 0.0
        self.first_content_s = 0.0
        self.usage: Usage | None = None
        self.is_whole = False
        self.failure: ProxyError | None = None
        self.on_first_content: Callable[[], None] | None = None

    @property
    def name(self) -> str:
        """The name of the target as `upstream/model`; empty if there is none."""
        return f"{self.upstream}/{self.model}" if self.upstream else ""

    def note_first_content(self, now_s: float) -> None:
        """Record that the first content arrived at `now_s`."""
        self.first_content_s = now_s
        if self.on_first_content is not None:
            self.on_first_content()


class RequestContext:
    """One request from first byte to settlement; owned by the front door, written by the phases, read by settlement.

    Times (`started_s` and the like) are monotonic seconds of `clock`; 0 until the event has happened.

    Attributes:
        caller_retries: how often the caller's SDK has already tried this request (`x-stainless-retry-count`).
        created: Unix time in seconds at which the request arrived, for the field `created` of the answer.
        received_s: when the body had been read and parsed.
        first_content_s: when the first content was passed to the front door for the caller.
        record: the record of the attempt that gave the answer (or its latest part, if it was continued), or of the
            attempt whose failure the caller gets; empty until that is known. Set when failover ends, and at each
            continuation.
        task: the kind of work that the request is, for routing by quality.
        attempts: the number of attempts; one that ended because the target was busy or its engine not available is
            not counted.
        first_sent_s: when the first attempt was sent.
        options: the options that the caller sent in Tidegate's own headers.
        drops_params: whether a parameter that a host cannot honour is left out instead of refused.
        reasoning_format: how reasoning is shown.
        reach: how far the request may go.
        priority: the priority of the request in a target's queue.
        caller_timeout_s: the read timeout that the caller's SDK sends (`x-stainless-read-timeout`); 0 if it sends none.
        reading_s: for how many seconds, so far, Tidegate has waited for the caller to read what was sent.
        has_sent_status: set by the front door when a status line of 200 has been sent; later errors are sent in
            band, as a part of the stream.
        is_client_gone: set by the front door before it cancels the task because the caller has disconnected.
        is_aborted: set by the server when the grace time of its shutdown is over.
        engine_start_progress: shows the caller the progress of an engine that the request waits for; None: nothing is
            shown.
        total_usage: the usage of all parts of an answer that other targets may continue; None until its end, and
            for other answers.
    """

    __slots__ = (
        "attempts",
        "caller_retries",
        "caller_timeout_s",
        "clock",
        "created",
        "drops_params",
        "endpoint",
        "engine_start_progress",
        "first_content_s",
        "first_sent_s",
        "has_sent_status",
        "id",
        "is_aborted",
        "is_client_gone",
        "is_stream",
        "model",
        "options",
        "principal",
        "priority",
        "reach",
        "reading_s",
        "reasoning_format",
        "received_s",
        "record",
        "started_s",
        "task",
        "total_usage",
    )

    def __init__(
        self, request_id: str, endpoint: str, clock: Clock, *, caller_retries: int = 0, caller_timeout_s: float = 0.0
    ) -> None:
        self.id = request_id
        self.endpoint = endpoint
        self.clock = clock
        self.caller_retries = caller_retries
        self.caller_timeout_s = caller_timeout_s
        self.created = int(clock.now_s())
        self.started_s = clock.monotonic_s()
        self.received_s = 0.0
        self.first_content_s = 0.0
        self.model = ""
        self.principal: Principal | None = None
        self.is_stream = False
        self.task: Task = "chat"
        self.record = AttemptRecord()
        self.attempts = 0
        self.first_sent_s = 0.0
        self.options = _NO_OPTIONS
        self.drops_params = False
        self.reasoning_format: ReasoningFormat = "reasoning_content"
        self.reach: Reach = "any"
        self.priority: Priority = "default"
        self.reading_s = 0.0
        self.has_sent_status = False
        self.is_client_gone = False
        self.is_aborted = False
        self.engine_start_progress: EngineStartProgress | None = None
        self.total_usage: Usage | None = None

    def note_sent(self, sent_s: float) -> None:
        """Keep in `first_sent_s` the earliest time at which an attempt was sent: hedged attempts end in any order.

        `sent_s` is 0 if the attempt was not sent.
        """
        if sent_s and not 0.0 < self.first_sent_s <= sent_s:
            self.first_sent_s = sent_s

    @property
    def usage(self) -> Usage | None:
        """The usage of the whole answer, of all its parts if several targets gave it; None if it is not known."""
        return self.record.usage if self.total_usage is None else self.total_usage

    @property
    def caller(self) -> str:
        """The principal's name, empty without one; what is remembered of a caller is stored under it."""
        return "" if self.principal is None else self.principal.name
