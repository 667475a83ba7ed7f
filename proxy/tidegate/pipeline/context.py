"""`RequestContext`: what the phases of one request share."""

from collections.abc import Callable
from typing import Protocol

import msgspec

from tidegate.clock import Clock
from tidegate.errors import ProxyError
from tidegate.pipeline.load_progress import Waiting
from tidegate.protocol.reasoning import ReasoningFormat
from tidegate.protocol.routing import Priority, Reach, Task
from tidegate.protocol.usage import Usage
from tidegate.streaming.checks import Checking


class Principal(Protocol):
    """Who is calling."""

    @property
    def name(self) -> str:
        """For logs; never a secret."""

    @property
    def reasoning_format(self) -> ReasoningFormat | None:
        """How thinking is shown to this caller; None: as the model's and the default settings say."""

    @property
    def reach(self) -> Reach | None:
        """Where its requests may go; None: as the model's and the default settings say."""

    @property
    def priority(self) -> Priority:
        """The most urgent that its requests may be."""


class RequestOptions(msgspec.Struct, frozen=True):
    """What a caller says in our own headers; None (or nothing) where it says nothing."""

    drop_params: bool | None = None
    reasoning_format: ReasoningFormat | None = None
    reach: Reach | None = None
    priority: Priority | None = None
    session: str = ""


_NO_OPTIONS = RequestOptions()


class ShownCredential(Protocol):
    """What a host was shown (see `tidegate.transport.credentials`)."""

    def worked(self, model: str) -> None:
        """The host took it."""

    def refused(self, status: int, model: str) -> None:
        """The host did not take it, for that model."""

    def limited(self, seconds: float) -> None:
        """The host asked not to use it, or its account, for so long."""

    def has_other(self, model: str) -> bool:
        """Whether another one may be shown in its place at once."""


class AttemptRecord:
    """One try at one target: written by the attempt, read by settlement and the front door.

    Attributes:
        upstream: the target's upstream or engine, by name.
        model: what the model is called there.
        upstream_id: the target's own id of the request, if it says one.
        adjusted: what was changed in the request, for `x-tidegate-adjusted`.
        credential: what the host was shown.
        checking: what has a verdict on the answer, where it was to be JSON or may call tools.
        sent_s: when it was sent; monotonic seconds, 0 where it was not.
        first_content_s: when the first content came from there; 0 where it has not, or came with all the rest.
        usage: what the target says it was.
        is_whole: the answer has ended in good order.
        failure: what broke it off after it had begun.
        on_first_content: told when the first content came.
    """

    __slots__ = (
        "adjusted",
        "checking",
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
        self.checking: Checking | None = None
        self.credential: ShownCredential | None = None
        self.sent_s = 0.0
        self.first_content_s = 0.0
        self.usage: Usage | None = None
        self.is_whole = False
        self.failure: ProxyError | None = None
        self.on_first_content: Callable[[], None] | None = None

    @property
    def name(self) -> str:
        """Of the target, for people."""
        return f"{self.upstream}/{self.model}" if self.upstream else ""

    def got_content(self, now_s: float) -> None:
        """The first content came."""
        self.first_content_s = now_s
        if self.on_first_content is not None:
            self.on_first_content()


class RequestContext:
    """One request from first byte to settlement; owned by the front door, written by the phases, read by settlement.

    Times are monotonic seconds of `clock`, 0 where the moment has not come.

    Attributes:
        caller_retries: `x-stainless-retry-count`, how often the SDK has tried already.
        tried: the record of the attempt that answers (after a continuation, the last one) or whose failure is
            reported; empty until that is known. Written when failover ends, and by a continuation.
        task: the kind of work it is.
        attempts: how many tries there were.
        first_sent_s: when the first of them was sent.
        wishes: what the caller says in our own headers.
        drops_params: whether to leave out what a host cannot honour.
        reasoning_format: how thinking is shown.
        reach: how far the request may go.
        priority: how urgent it is where there is a queue.
        patience_s: how long the caller says it waits (`x-stainless-read-timeout`); 0: it does not say.
        reading_s: how long the caller took to read what it has been sent so far.
        has_begun: set by the door when a status line has left: errors from now on are told in band.
        is_client_gone: set by the door before it cancels the task.
        is_aborted: set by the server when the grace time is over.
        waiting: shows its caller the progress of an engine that it waits for; None: nothing is shown.
        joined_usage: of all parts of an answer that may go on elsewhere; None where it may not.
    """

    __slots__ = (
        "attempts",
        "caller_retries",
        "clock",
        "created",
        "drops_params",
        "endpoint",
        "first_content_s",
        "first_sent_s",
        "has_begun",
        "id",
        "is_aborted",
        "is_client_gone",
        "is_stream",
        "joined_usage",
        "model",
        "options",
        "patience_s",
        "principal",
        "priority",
        "reach",
        "reading_s",
        "reasoning_format",
        "received_s",
        "record",
        "started_s",
        "task",
        "waiting",
    )

    def __init__(
        self, request_id: str, endpoint: str, clock: Clock, *, caller_retries: int = 0, patience_s: float = 0.0
    ) -> None:
        self.id = request_id
        self.endpoint = endpoint
        self.clock = clock
        self.caller_retries = caller_retries
        self.patience_s = patience_s
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
        self.has_begun = False
        self.is_client_gone = False
        self.is_aborted = False
        self.waiting: Waiting | None = None
        self.joined_usage: Usage | None = None

    def note_sent(self, sent_s: float) -> None:
        """Keep the earliest time at which an attempt was sent; 0: it was not sent. Hedged attempts end in any order."""
        if sent_s and not 0.0 < self.first_sent_s <= sent_s:
            self.first_sent_s = sent_s

    @property
    def usage(self) -> Usage | None:
        """What the answer took, wherever it came from."""
        return self.record.usage if self.joined_usage is None else self.joined_usage

    @property
    def caller(self) -> str:
        """The principal's name; memories are kept under it."""
        return "" if self.principal is None else self.principal.name
