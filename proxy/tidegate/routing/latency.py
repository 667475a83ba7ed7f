"""`Latency`: how fast one target answers, learnt from the answers it gives.

Times are peak-EWMAs. Each has its usual value, the mean of late samples, and its peak: a slower sample is believed at
once, and is forgotten by the clock, down to the usual value (tau 10 s). So a target that becomes slow loses its
requests after one answer, and wins them back by itself, though it is sent none meanwhile; and a time is a time, not a
number that sinks while nobody asks. A single bad sample moves the usual value little. After ten minutes without a
sample it is not known any more, and gets tried again.

Time to first token is kept apart for short, middle and long prompts, as reading the prompt is most of it.
"""

from bisect import bisect_left
from collections import deque
from math import exp

from tidegate.clock import Clock

_PEAK_TAU_S = 10.0
_KNOWN_FOR_S = 600.0
_USUAL_GAIN = 0.1
_MOST_SURPRISE = 3.0  # times the usual value: what a single sample counts as in the mean, at most

_BUCKETS = (1_000, 8_000)  # prompt tokens up to which it is a short and a middle one
_NEAREST = ((0, 1, 2), (1, 0, 2), (2, 1, 0))

_FAILURE_GAIN = 0.1
_FAILURE_TAU_S = 30.0  # who is sent nothing for having failed is forgiven
_PENALTY_S = 1.0  # on top of what the failure took: failing at once must not make a target look fast
_MOST_PENALTY_S = 30.0

_READING_SPEED = 50.0  # how many prompt tokens take as long as one token of the answer, as a first guess
_SAMPLES = 200
_FEW_SAMPLES = 20


class Latency:
    """What one target's answers were like; owner of its samples. Everything is O(1) but `p95_wait_s`.

    Tell it only of answers that came from the target, whole: not of cached ones, nor of those a caller left.
    """

    __slots__ = ("_clock", "_failures", "_first", "_penalty_s", "_tokens", "_waits")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._first = (_Peak(), _Peak(), _Peak())
        self._tokens = _Peak()
        self._failures = _Fading(_FAILURE_TAU_S)
        self._penalty_s = _Fading(_PEAK_TAU_S)
        self._waits: dict[bool, deque[float]] = {is_stream: deque(maxlen=_SAMPLES) for is_stream in (True, False)}

    def began(self, prompt_tokens: int, ttft_s: float) -> None:
        """The first token came, so long after the request was sent."""
        self._first[bisect_left(_BUCKETS, prompt_tokens)].add(ttft_s, self._clock.monotonic_s())

    def ended(self, answer_tokens: int, after_first_s: float) -> None:
        """An answer whose first token was told by `began` is whole."""
        now_s = self._clock.monotonic_s()
        if answer_tokens > 1:
            self._tokens.add(after_first_s / (answer_tokens - 1), now_s)
        self._succeeded(now_s)

    def whole(self, prompt_tokens: int, answer_tokens: int, took_s: float) -> float:
        """An answer that came in one piece, so that nobody saw its first token; when that came, about.

        Its time is shared out as streams of this target would have it; where there were none, by the numbers of tokens.
        """
        now_s = self._clock.monotonic_s()
        first = self._first[bisect_left(_BUCKETS, prompt_tokens)]
        further = max(answer_tokens - 1, 0)
        first_s, further_s = first.read(now_s), self._tokens.read(now_s) * further
        if not (first_s and further_s):
            first_s, further_s = 1.0 + prompt_tokens / _READING_SPEED, float(further)
        part = first_s / (first_s + further_s)
        first.add(took_s * part, now_s)
        if further:
            self._tokens.add(took_s * (1.0 - part) / further, now_s)
        self._succeeded(now_s)
        return took_s * part

    def waited(self, wait_s: float, *, is_stream: bool) -> None:
        """Until the caller had something: the first token of a stream, the whole of another answer."""
        self._waits[is_stream].append(wait_s)

    def failed(self, took_s: float) -> None:
        """No answer, or not all of one, for a reason that is the target's; it took so long to find out."""
        now_s = self._clock.monotonic_s()
        penalty_s = min(took_s + _PENALTY_S, _MOST_PENALTY_S)
        self._penalty_s.become(max(penalty_s, self._penalty_s.read(now_s)), now_s)
        rate = self._failures.read(now_s)
        self._failures.become(rate + _FAILURE_GAIN * (1.0 - rate), now_s)

    def ttft_s(self, prompt_tokens: int) -> float:
        """Time to first token of such a prompt now, in seconds; 0 where nothing is known."""
        return self.read(prompt_tokens, self._clock.monotonic_s())[0]

    def read(self, prompt_tokens: int, now_s: float) -> tuple[float, float, float]:
        """`ttft_s`, `per_token_s` and `failure_rate` at once, at what the clock says: plans ask it of every target."""
        known_s = 0.0
        for bucket in _NEAREST[bisect_left(_BUCKETS, prompt_tokens)]:
            if known_s := self._first[bucket].read(now_s):
                break
        per_token_s, failures, penalty = self._tokens.read(now_s), self._failures, self._penalty_s
        if not penalty.value:  # it has never failed
            return known_s, per_token_s, 0.0
        return max(known_s, penalty.read(now_s)), per_token_s, failures.read(now_s)

    @property
    def per_token_s(self) -> float:
        """Seconds for each token after the first; 0 where nothing is known."""
        return self._tokens.read(self._clock.monotonic_s())

    @property
    def failure_rate(self) -> float:
        """Of late, 0 to 1."""
        return self._failures.read(self._clock.monotonic_s())

    def p95_wait_s(self, *, is_stream: bool) -> float | None:
        """What 95 of 100 waits of late (see `waited`) were within; None before there were 20. Sorts: ask seldom."""
        waits = self._waits[is_stream]
        if len(waits) < _FEW_SAMPLES:
            return None
        return sorted(waits)[len(waits) * 95 // 100]

    def _succeeded(self, now_s: float) -> None:
        if self._failures.value:
            self._failures.become((1.0 - _FAILURE_GAIN) * self._failures.read(now_s), now_s)


class _Peak:
    """One peak-EWMA of a time in seconds; see the module."""

    __slots__ = ("_at_s", "_over_s", "_usual_s")

    def __init__(self) -> None:
        self._usual_s = 0.0
        self._over_s = 0.0  # how far the peak stood over the usual value at `_at_s`; never below it
        self._at_s = 0.0

    def add(self, sample_s: float, now_s: float) -> None:
        usual_s, level_s = self._usual_s, self.read(now_s)
        if level_s:
            usual_s += _USUAL_GAIN * (min(sample_s, _MOST_SURPRISE * usual_s) - usual_s)
        else:
            usual_s = sample_s
        self._usual_s, self._over_s, self._at_s = usual_s, max(sample_s, level_s) - usual_s, now_s

    def read(self, now_s: float) -> float:
        """The usual value and what is left of the peak; 0 where nothing is known."""
        age_s = now_s - self._at_s
        if age_s > _KNOWN_FOR_S:
            return 0.0
        return self._usual_s + self._over_s * exp(-age_s / _PEAK_TAU_S)


class _Fading:
    """A number that the clock takes down to nothing."""

    __slots__ = ("_at_s", "_tau_s", "value")

    def __init__(self, tau_s: float) -> None:
        self._tau_s = tau_s
        self.value = 0.0  # when it became that; 0 stays 0
        self._at_s = 0.0

    def become(self, value: float, now_s: float) -> None:
        self.value, self._at_s = value, now_s

    def read(self, now_s: float) -> float:
        return self.value * exp((self._at_s - now_s) / self._tau_s)
