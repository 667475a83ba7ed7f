"""`Latency`: how fast one target answers, learnt from its answers.

Times are peak-EWMAs. Each has a mean of recent samples, and a peak: a slower sample raises the peak at once, and the
peak decays by the clock, down to the mean (tau 10 s). So a target that becomes slow loses its requests after one
answer, and wins them back by itself, though it is sent none meanwhile; and the time does not sink below the mean while
no samples come. A single bad sample moves the mean little. Ten minutes after the last sample the time is unknown again,
so that the target gets tried.

Time to first token is stored separately for short, middle and long prompts, as prefill is most of it.
"""

from bisect import bisect_left
from collections import deque
from math import exp

from tidegate.clock import Clock

_PEAK_TAU_S = 10.0
_MAX_AGE_S = 600.0
_MEAN_GAIN = 0.1
_MAX_SAMPLE_FACTOR = 3.0  # times the mean: the most that a single sample counts as in the mean

_BUCKETS = (1_000, 8_000)  # prompts up to so many tokens are short, and middle
_NEAREST = ((0, 1, 2), (1, 0, 2), (2, 1, 0))  # for each bucket, all buckets from the nearest to the farthest

_FAILURE_GAIN = 0.1
_FAILURE_TAU_S = 30.0  # so a target that gets no requests because it failed gets some again
_PENALTY_S = 1.0  # added to the time until the failure: a target that fails at once must not look fast
_MAX_PENALTY_S = 30.0

_PREFILL_SPEED = 50.0  # prompt tokens that take as long as one token of the answer, as a first guess
_SAMPLES = 200
_MIN_SAMPLES = 20


class Latency:
    """The times of one target's answers; owns its samples. Everything is O(1) but `p95_wait_s`.

    Report only complete answers of the target: no cached ones, and none that the caller did not read to the end.
    """

    __slots__ = ("_clock", "_failures", "_first_token", "_further_token", "_penalty_s", "_waits")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._first_token = (_PeakAverage(), _PeakAverage(), _PeakAverage())
        self._further_token = _PeakAverage()
        self._failures = _DecayingValue(_FAILURE_TAU_S)
        self._penalty_s = _DecayingValue(_PEAK_TAU_S)
        self._waits: dict[bool, deque[float]] = {is_stream: deque(maxlen=_SAMPLES) for is_stream in (True, False)}

    def began(self, prompt_tokens: int, ttft_s: float) -> None:
        """Record that the first token came, `ttft_s` seconds after the request was sent."""
        self._first_token[bisect_left(_BUCKETS, prompt_tokens)].add(ttft_s, self._clock.monotonic_s())

    def ended(self, answer_tokens: int, after_first_s: float) -> None:
        """Record that an answer is whole, after `began` has reported its first token."""
        now_s = self._clock.monotonic_s()
        if answer_tokens > 1:
            self._further_token.add(after_first_s / (answer_tokens - 1), now_s)
        self._succeeded(now_s)

    def ended_unstreamed(self, prompt_tokens: int, answer_tokens: int, took_s: float) -> float:
        """Record an answer that came all at once; returns an estimate of its time to first token, in seconds.

        The answer's time is divided as streams of this target would divide it; without any, by the numbers of tokens.
        """
        now_s = self._clock.monotonic_s()
        first_token = self._first_token[bisect_left(_BUCKETS, prompt_tokens)]
        further_tokens = max(answer_tokens - 1, 0)
        first_s, further_s = first_token.read(now_s), self._further_token.read(now_s) * further_tokens
        if not (first_s and further_s):
            first_s, further_s = 1.0 + prompt_tokens / _PREFILL_SPEED, float(further_tokens)
        first_share = first_s / (first_s + further_s)
        first_token.add(took_s * first_share, now_s)
        if further_tokens:
            self._further_token.add(took_s * (1.0 - first_share) / further_tokens, now_s)
        self._succeeded(now_s)
        return took_s * first_share

    def waited(self, wait_s: float, *, is_stream: bool) -> None:
        """Record the caller's wait: until the first token of a stream, or until the whole of another answer."""
        self._waits[is_stream].append(wait_s)

    def failed(self, took_s: float) -> None:
        """Record that the answer is missing or incomplete by the target's fault; the attempt took `took_s` seconds."""
        now_s = self._clock.monotonic_s()
        penalty_s = min(took_s + _PENALTY_S, _MAX_PENALTY_S)
        self._penalty_s.set(max(penalty_s, self._penalty_s.read(now_s)), now_s)
        rate = self._failures.read(now_s)
        self._failures.set(rate + _FAILURE_GAIN * (1.0 - rate), now_s)

    def ttft_s(self, prompt_tokens: int) -> float:
        """Expected time to first token of such a prompt now, in seconds; 0 if unknown."""
        return self.read(prompt_tokens, self._clock.monotonic_s())[0]

    def read(self, prompt_tokens: int, now_s: float) -> tuple[float, float, float]:
        """`ttft_s`, `per_token_s` and `failure_rate` in one call, at the time `now_s`.

        Each plan reads them of every target, so they come in one call.
        """
        known_s = 0.0
        for bucket in _NEAREST[bisect_left(_BUCKETS, prompt_tokens)]:
            if known_s := self._first_token[bucket].read(now_s):
                break
        per_token_s, failures, penalty = self._further_token.read(now_s), self._failures, self._penalty_s
        if not penalty.value:  # the target has never failed
            return known_s, per_token_s, 0.0
        return max(known_s, penalty.read(now_s)), per_token_s, failures.read(now_s)

    @property
    def per_token_s(self) -> float:
        """Seconds for each token after the first; 0 if unknown."""
        return self._further_token.read(self._clock.monotonic_s())

    @property
    def failure_rate(self) -> float:
        """The recent share of failed requests, 0 to 1."""
        return self._failures.read(self._clock.monotonic_s())

    def p95_wait_s(self, *, is_stream: bool) -> float | None:
        """The 95th percentile of recent waits, in seconds; None before there are 20 waits.

        Waits are those of `waited`. This sorts them, so call it seldom.
        """
        waits = self._waits[is_stream]
        if len(waits) < _MIN_SAMPLES:
            return None
        return sorted(waits)[len(waits) * 95 // 100]

    def _succeeded(self, now_s: float) -> None:
        if self._failures.value:
            self._failures.set((1.0 - _FAILURE_GAIN) * self._failures.read(now_s), now_s)


class _PeakAverage:
    """One peak-EWMA of a time in seconds; see the module."""

    __slots__ = ("_at_s", "_excess_s", "_mean_s")

    def __init__(self) -> None:
        self._mean_s = 0.0
        self._excess_s = 0.0  # how far the peak was over the mean at `_at_s`; never below 0
        self._at_s = 0.0

    def add(self, sample_s: float, now_s: float) -> None:
        mean_s, peak_s = self._mean_s, self.read(now_s)
        if peak_s:
            mean_s += _MEAN_GAIN * (min(sample_s, _MAX_SAMPLE_FACTOR * mean_s) - mean_s)
        else:
            mean_s = sample_s
        self._mean_s, self._excess_s, self._at_s = mean_s, max(sample_s, peak_s) - mean_s, now_s

    def read(self, now_s: float) -> float:
        """The mean and what is left of the peak; 0 if unknown."""
        age_s = now_s - self._at_s
        if age_s > _MAX_AGE_S:
            return 0.0
        return self._mean_s + self._excess_s * exp(-age_s / _PEAK_TAU_S)


class _DecayingValue:
    """A number that decays to 0 by the clock."""

    __slots__ = ("_at_s", "_tau_s", "value")

    def __init__(self, tau_s: float) -> None:
        self._tau_s = tau_s
        self.value = 0.0  # the value at `_at_s`; 0 stays 0
        self._at_s = 0.0

    def set(self, value: float, now_s: float) -> None:
        self.value, self._at_s = value, now_s

    def read(self, now_s: float) -> float:
        return self.value * exp((self._at_s - now_s) / self._tau_s)
