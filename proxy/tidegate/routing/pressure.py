"""`Pressure`: how long a prompt would wait for its first token at a local engine, if it were sent now.

It measures the time between the starts (first tokens) of two requests, while one of Tidegate's requests waits for a
start. A line is fitted to these times:

    time between starts = per start + per token x prompt tokens of the one that started

An engine that is busy with prefill (vLLM) has a large second part. One whose few slots are all busy generating
(llama.cpp) has a large first part: the time until a slot comes free. Requests that start together share their time.
At each start, earlier samples lose weight by the time just observed (time constant 30 s), but at most three tenths of
it: so the fit always rests on about three starts or more. Then

    time to first token = (ahead + 1) x per start + (tokens ahead + own tokens) x per token

Ahead are Tidegate's own requests without a first token, and the requests of other clients in the engine's queue. The
latter come from the engine's metrics (`LoadReport`), which are seconds old when they arrive. So Tidegate counts its own
requests itself, exactly, and takes from the engine's queue only the share that is not its own. The prompts of other
clients are assumed to be as long as the mean prompt. Metrics count fully for 3 s, then less and less, and not at all
from 10 s on.

There are three corrections. If nothing has started for longer than usual, the current wait counts as one more sample:
so an engine that stalls is noticed at once, not only when it continues. KV memory that is nearly full (over 0.9) delays
prompts, whatever the rate was: the time is multiplied by up to five. If nothing was measured here yet, the engine's own
mean time to first token is used, and without that, 0.
"""

from math import exp

from msgspec import Struct, structs

from tidegate.clock import Clock

_TAU_S = 30.0
_MIN_KEPT = 0.7  # the earlier samples keep at least this share of their weight at each start
_SPREAD = 0.01  # variance of the prompts' lengths, relative to their mean squared; below it no line is fitted
_FRESH_S, _STALE_S = 3.0, 10.0
_KV_FULL, _KV_FULL_FACTOR = 0.9, 4.0


class LoadReport(Struct, frozen=True, kw_only=True):
    """The load that an engine's metrics showed.

    Attributes:
        running: requests in progress, of all clients.
        waiting: requests in the engine's queue, of all clients.
        kv_used: the share of its KV memory that is used, 0 to 1; None if unknown.
        ttft_s: its recent mean time to first token, in seconds; 0 if unknown.
        at_s: when the metrics were read, on the monotonic clock.
        tidegate_in_flight: how many of Tidegate's requests it had then.
        others_waiting: about how many of the waiting requests were not Tidegate's.
        kv_slowdown: the additional time for lack of KV memory, as a multiple: 0: none; 1: twice the time.

    The last two are computed once, from the others.
    """

    running: float
    waiting: float
    kv_used: float | None = None
    ttft_s: float = 0.0
    at_s: float
    tidegate_in_flight: int
    others_waiting: float = 0.0
    kv_slowdown: float = 0.0

    def __post_init__(self) -> None:
        all_requests = self.running + self.waiting
        if all_requests > self.tidegate_in_flight:
            others = self.waiting * (1.0 - self.tidegate_in_flight / all_requests)
            structs.force_setattr(self, "others_waiting", others)
        if self.kv_used is not None and self.kv_used > _KV_FULL:
            kv_slowdown = _KV_FULL_FACTOR * (min(self.kv_used, 1.0) - _KV_FULL) / (1.0 - _KV_FULL)
            structs.force_setattr(self, "kv_slowdown", kv_slowdown)

    def other_requests(self, own_requests: int, now_s: float) -> float:
        """The number of other clients' requests in the engine, weighted by the age of its metrics.

        `own_requests` is Tidegate's own count now. Some of the others may be Tidegate's: vLLM counts each prompt of a
        completion and each of `n` answers.
        """
        # Tidegate's requests may have come while the metrics were read, or have ended since
        others = self.running + self.waiting - max(self.tidegate_in_flight, own_requests)
        return others * _freshness(now_s - self.at_s) if others > 0 else 0.0


class Pressure:
    """Tidegate's waiting requests at one engine, and the engine's pace; owns both. Every call is O(1).

    Each `sent` is followed by one `began` or one `ended_without_token`, with the same tokens.
    """

    __slots__ = ("_clock", "_pace", "_since_s", "_waiting", "_waiting_tokens")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._pace = _Pace()
        self._waiting = 0
        self._waiting_tokens = 0
        self._since_s = 0.0  # the time of the last start, or when the first request began to wait

    def sent(self, tokens: int) -> None:
        """A request with a prompt of `tokens` was sent to the engine."""
        if not self._waiting:
            self._since_s = self._clock.monotonic_s()
        self._waiting += 1
        self._waiting_tokens += tokens

    def began(self, tokens: int) -> None:
        """The request's first token came."""
        now_s = self._clock.monotonic_s()
        self._pace.add(tokens, now_s - self._since_s)
        self._since_s = now_s
        self.ended_without_token(tokens)

    def ended_unstreamed(self, tokens: int, first_s: float) -> None:
        """An answer came all at once; `sent` was not called for it, and its first token took about `first_s`."""
        self._pace.add(tokens, first_s)
        if not self._waiting:
            self._since_s = self._clock.monotonic_s()

    def ended_without_token(self, tokens: int) -> None:
        """The request ended without a first token: it failed, or was given up."""
        self._waiting -= 1
        self._waiting_tokens -= tokens

    @property
    def waiting(self) -> int:
        """The number of Tidegate's requests there without a first token."""
        return self._waiting

    def predict_s(self, tokens: int, load_report: LoadReport | None = None, now_s: float | None = None) -> float:
        """Seconds until the first token of a prompt of `tokens`; 0 if unknown.

        `now_s` is the clock's monotonic reading, if the caller has it.
        """
        if now_s is None:
            now_s = self._clock.monotonic_s()
        pace, waiting, for_s = self._pace, self._waiting, now_s - self._since_s
        if load_report is None:
            freshness = others = others_tokens = 0.0
        else:
            freshness = _freshness(now_s - load_report.at_s)
            others = freshness * load_report.others_waiting
            others_tokens = others * (pace.mean_tokens or tokens)
        starts, all_tokens = waiting + others + 1.0, self._waiting_tokens + others_tokens + tokens
        time_s = pace.time_s(starts, all_tokens, for_s if waiting else 0.0)
        if not waiting and for_s > _TAU_S:  # otherwise a high prediction would keep all requests away for good
            time_s *= exp(1.0 - for_s / _TAU_S)
        if load_report is None:
            return time_s
        return (time_s or load_report.ttft_s) * (1.0 + freshness * load_report.kv_slowdown)


class _Pace:
    """The line through (prompt tokens, seconds between starts), stored as sums and fitted anew at each start.

    Attributes:
        mean_tokens: the mean length of the prompts; 0 before there was one.
    """

    __slots__ = (
        "_count",
        "_mean_s",
        "_per_start_s",
        "_per_token_s",
        "_product",
        "_seconds",
        "_squares",
        "_tokens",
        "mean_tokens",
    )

    def __init__(self) -> None:
        self._count = 0.0
        self._tokens = 0.0
        self._seconds = 0.0
        self._squares = 0.0
        self._product = 0.0
        self._mean_s = self._per_start_s = self._per_token_s = 0.0
        self.mean_tokens = 0.0

    def add(self, tokens: int, seconds: float) -> None:
        kept = max(exp(-seconds / _TAU_S), _MIN_KEPT)
        self._count = self._count * kept + 1.0
        self._tokens = self._tokens * kept + tokens
        self._seconds = self._seconds * kept + seconds
        self._squares = self._squares * kept + tokens * tokens
        self._product = self._product * kept + tokens * seconds
        self._mean_s = self._seconds / self._count
        self.mean_tokens = self._tokens / self._count
        self._per_start_s, self._per_token_s = self._line()

    def time_s(self, starts: float, tokens: float, waits_s: float) -> float:
        """Seconds for so many starts with so many tokens together, if nothing has started for `waits_s`."""
        if not self._count:
            return waits_s
        time_s = starts * self._per_start_s + tokens * self._per_token_s
        if waits_s > self._mean_s > 0:
            time_s *= (self._seconds + waits_s) / (self._count + 1.0) / self._mean_s
        return time_s

    def _line(self) -> tuple[float, float]:
        """Seconds per start and per token, neither below 0 (least squares, or the nearest such line)."""
        count, tokens, seconds = self._count, self._tokens, self._seconds
        spread = count * self._squares - tokens * tokens
        if spread <= _SPREAD * tokens * tokens:
            return (0.0, seconds / tokens) if tokens else (seconds / count, 0.0)
        per_token_s = (count * self._product - tokens * seconds) / spread
        if per_token_s <= 0:
            return seconds / count, 0.0
        per_start_s = (seconds - per_token_s * tokens) / count
        return (per_start_s, per_token_s) if per_start_s > 0 else (0.0, seconds / tokens)


def _freshness(age_s: float) -> float:
    """The weight, 1 to 0, of metrics of this age."""
    if age_s <= _FRESH_S:
        return 1.0
    return (_STALE_S - age_s) / (_STALE_S - _FRESH_S) if age_s < _STALE_S else 0.0
