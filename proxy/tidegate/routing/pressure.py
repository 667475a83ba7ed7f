"""`Pressure`: how long a prompt would wait for its first token at an engine of ours, if it were sent now.

What is measured is the time between the starts (first tokens) of two requests, while something of ours waits for one.
A line is fitted to it:

    time between starts = per start + per token x prompt tokens of the one that started

An engine that is busy reading prompts (vLLM) shows a large second part; one that has few slots, all busy writing
(llama.cpp), shows a large first part: the time until a slot comes free. Several that start together share their time.
The fit forgets by the time that it has watched (tau 30 s), and keeps three starts or so at least. Then

    time to first token = (ahead + 1) x per start + (tokens ahead + own tokens) x per token

Ahead are our own requests without a first token, and those of others in the engine's queue. The latter are told by its
metrics (`LoadReport`), which are seconds old when they come: so ours are counted by ourselves, to the moment, and of the
scraped queue only the share of those that are not ours counts. Their prompts are taken to be as long as the usual one.
What the metrics say is believed whole for 3 s, then less and less, from 10 s on not at all.

Three corrections. Where nothing has started for longer than usual, the wait that is going on counts as one more
sample: an engine that stalls is seen at once, not when it goes on. Nearly full KV memory (over 0.9) keeps prompts out,
whatever the rate was: up to five times the time. What was never measured here is taken from the engine's own mean time
to first token, and without that, is 0.
"""

from math import exp

from msgspec import Struct, structs

from tidegate.clock import Clock

_TAU_S = 30.0
_LEAST_KEPT = 0.7  # of the weight of what was seen before, at each start
_SPREAD = 0.01  # of the prompts' lengths (variance by mean squared), below which no line can be fitted
_FRESH_S, _STALE_S = 3.0, 10.0
_FULL, _FULL_FACTOR = 0.9, 4.0


class LoadReport(Struct, frozen=True, kw_only=True):
    """What an engine's metrics said.

    Attributes:
        running: requests that it worked on, everybody's.
        waiting: requests in its queue, everybody's.
        kv_used: share of its KV memory, 0 to 1; None where it does not say.
        ttft_s: its mean time to first token of late, in seconds; 0 where it does not say.
        at_s: when it was asked, on the monotonic clock.
        our_in_flight: how many of ours it had then.
        others_waiting: of those that waited, how many were not ours, about.
        crowding: by how many times longer everything takes for want of KV memory; 0 where there is enough.

    The last two follow from the others, and are worked out once.
    """

    running: float
    waiting: float
    kv_used: float | None = None
    ttft_s: float = 0.0
    at_s: float
    our_in_flight: int
    others_waiting: float = 0.0
    crowding: float = 0.0

    def __post_init__(self) -> None:
        there = self.running + self.waiting
        if there > self.our_in_flight:
            others = self.waiting * (1.0 - self.our_in_flight / there)
            structs.force_setattr(self, "others_waiting", others)
        if self.kv_used is not None and self.kv_used > _FULL:
            crowding = _FULL_FACTOR * (min(self.kv_used, 1.0) - _FULL) / (1.0 - _FULL)
            structs.force_setattr(self, "crowding", crowding)

    def not_ours(self, ours: int, now_s: float) -> float:
        """How many requests of others are in the engine, weighted by the age of its metrics; `ours` is our count now.

        Some of them may be ours: vLLM counts each prompt of a completion and each of `n` answers.
        """
        # our requests may have come while the metrics were read, or have ended since
        others = self.running + self.waiting - max(self.our_in_flight, ours)
        return others * _belief(now_s - self.at_s) if others > 0 else 0.0


class Pressure:
    """What of ours waits at one engine, and how fast it starts things; owner of both. Every call is O(1).

    Each `sent` is followed by one `began` or one `left`, with the same tokens.
    """

    __slots__ = ("_clock", "_pace", "_since_s", "_waiting", "_waiting_tokens")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._pace = _Pace()
        self._waiting = 0
        self._waiting_tokens = 0
        self._since_s = 0.0  # of the last start, or when something began to wait

    def sent(self, tokens: int) -> None:
        """A request with a prompt of so many tokens went there."""
        if not self._waiting:
            self._since_s = self._clock.monotonic_s()
        self._waiting += 1
        self._waiting_tokens += tokens

    def began(self, tokens: int) -> None:
        """Its first token came."""
        now_s = self._clock.monotonic_s()
        self._pace.add(tokens, now_s - self._since_s)
        self._since_s = now_s
        self.left(tokens)

    def came_whole(self, tokens: int, first_s: float) -> None:
        """An answer whose wait nobody could see, and which was not `sent`; its first token took about so long."""
        self._pace.add(tokens, first_s)
        if not self._waiting:
            self._since_s = self._clock.monotonic_s()

    def left(self, tokens: int) -> None:
        """It is over without a first token: failed, or given up."""
        self._waiting -= 1
        self._waiting_tokens -= tokens

    @property
    def waiting(self) -> int:
        """Requests of ours there without a first token."""
        return self._waiting

    def predict_s(self, tokens: int, told: LoadReport | None = None, now_s: float | None = None) -> float:
        """Seconds until the first token of a prompt of so many tokens; 0 where nothing is known.

        `now_s` is what the clock says, where the caller has looked.
        """
        if now_s is None:
            now_s = self._clock.monotonic_s()
        pace, waiting, for_s = self._pace, self._waiting, now_s - self._since_s
        if told is None:
            belief = others = others_tokens = 0.0
        else:
            belief = _belief(now_s - told.at_s)
            others = belief * told.others_waiting
            others_tokens = others * (pace.usual_tokens or tokens)
        starts, all_tokens = waiting + others + 1.0, self._waiting_tokens + others_tokens + tokens
        time_s = pace.time_s(starts, all_tokens, for_s if waiting else 0.0)
        if not waiting and for_s > _TAU_S:  # who is believed to be slow is asked for nothing: time alone can mend it
            time_s *= exp(1.0 - for_s / _TAU_S)
        if told is None:
            return time_s
        return (time_s or told.ttft_s) * (1.0 + belief * told.crowding)


class _Pace:
    """The line through (prompt tokens, seconds between starts), kept as sums; it is drawn anew at each start.

    Attributes:
        usual_tokens: the mean length of the prompts; 0 before there was one.
    """

    __slots__ = (
        "_count",
        "_per_start_s",
        "_per_token_s",
        "_product",
        "_seconds",
        "_squares",
        "_tokens",
        "_usual_s",
        "usual_tokens",
    )

    def __init__(self) -> None:
        self._count = 0.0
        self._tokens = 0.0
        self._seconds = 0.0
        self._squares = 0.0
        self._product = 0.0
        self._usual_s = self._per_start_s = self._per_token_s = 0.0
        self.usual_tokens = 0.0

    def add(self, tokens: int, seconds: float) -> None:
        kept = max(exp(-seconds / _TAU_S), _LEAST_KEPT)
        self._count = self._count * kept + 1.0
        self._tokens = self._tokens * kept + tokens
        self._seconds = self._seconds * kept + seconds
        self._squares = self._squares * kept + tokens * tokens
        self._product = self._product * kept + tokens * seconds
        self._usual_s = self._seconds / self._count
        self.usual_tokens = self._tokens / self._count
        self._per_start_s, self._per_token_s = self._line()

    def time_s(self, starts: float, tokens: float, waits_s: float) -> float:
        """Seconds for so many starts with so many tokens together, where nothing has started for `waits_s`."""
        if not self._count:
            return waits_s
        time_s = starts * self._per_start_s + tokens * self._per_token_s
        if waits_s > self._usual_s > 0:
            time_s *= (self._seconds + waits_s) / (self._count + 1.0) / self._usual_s
        return time_s

    def _line(self) -> tuple[float, float]:
        """Seconds per start and per token, neither below 0 (least squares; the nearest such line)."""
        count, tokens, seconds = self._count, self._tokens, self._seconds
        spread = count * self._squares - tokens * tokens
        if spread <= _SPREAD * tokens * tokens:
            return (0.0, seconds / tokens) if tokens else (seconds / count, 0.0)
        per_token_s = (count * self._product - tokens * seconds) / spread
        if per_token_s <= 0:
            return seconds / count, 0.0
        per_start_s = (seconds - per_token_s * tokens) / count
        return (per_start_s, per_token_s) if per_start_s > 0 else (0.0, seconds / tokens)


def _belief(age_s: float) -> float:
    """How far a picture of such an age is still true: 1 to 0."""
    if age_s <= _FRESH_S:
        return 1.0
    return (_STALE_S - age_s) / (_STALE_S - _FRESH_S) if age_s < _STALE_S else 0.0
