"""An adaptive limit: how many requests a target can work on at once, learnt from its times to first token.

This is Netflix's Gradient2, changed for language models. After each round (a number of answers) the limit moves half of
the way to `gradient * limit + sqrt(limit)`. The gradient is the baseline time divided by the time in this round. The
round's time may be 1.5 times the baseline before the gradient falls below one; the gradient is between a half and one.
So the limit settles where a few requests queue at the target: with 16 requests at once the time is then twice the
baseline, with more requests a smaller multiple. The time to first token is used because the time of the whole answer
depends on the answer's length.

- **By length of the prompt.** The time to first token depends mostly on prefill, and a run of long prompts is no
  overload. Each time is divided by the baseline of prompts of about the same length (powers of two). The average of
  these ratios is the slowness.
- **The baseline is learnt only where there is no queue**: while the target is used to less than half of its limit.
  Netflix's average of the last 600 answers also learns under full use. With it, a target that is always full makes its
  own queue the baseline, and the limit climbs to its maximum.
- **A target that stays full and slow is measured anew.** Only less load can show whether there is a queue or the target
  has become slower for good. After `_MAX_SLOW_ROUNDS` slow rounds in a row the limit is halved, and the first times
  after that are the new baselines (Envoy does the same every minute, down to a few requests).
"""

from math import sqrt

_TOLERANCE = 1.5
_SMOOTHING = 0.5
_ROUND = 10  # the least number of answers in a round
_WINDOW = 100  # answers; a baseline is an average over as many
_MAX_SLOW_ROUNDS = 20  # rounds


class Gradient2:
    """A limit between `minimum` and `maximum`, both at least 1. Owned by one `ConcurrencyLimit`.

    With a gradient of a half the limit settles at four, so a `minimum` below four is seldom reached.
    """

    def __init__(self, initial: int, minimum: int, maximum: int) -> None:
        self._limit = float(min(max(initial, minimum), maximum))
        self._minimum = minimum
        self._maximum = maximum
        self._baselines: dict[int, tuple[float, int]] = {}  # by bit length of the token count: seconds, samples
        self._slowness = 1.0  # of the last round; see the module
        self._slow_rounds = 0
        self._is_draining = False  # the limit was halved, but more are still in flight
        self._samples, self._sum, self._busiest = 0, 0.0, 0  # of this round

    @property
    def limit(self) -> int:
        """The number of requests at once."""
        return int(self._limit)

    def sample(self, ttft_s: float, in_flight: int, prompt_tokens: int = 1) -> None:
        """Record the first token of an answer.

        Args:
            ttft_s: seconds since the request was sent; a value of 0 or less is ignored.
            in_flight: requests at the target now, this one included.
            prompt_tokens: about how many tokens the prompt had.
        """
        self._is_draining &= in_flight > self._limit
        if ttft_s <= 0 or self._is_draining:
            return
        self._sum += ttft_s / self._learn(prompt_tokens.bit_length(), ttft_s, is_used=in_flight * 2 >= self._limit)
        self._samples += 1
        self._busiest = max(self._busiest, in_flight)
        if self._samples >= max(_ROUND, self._limit / 2):
            self._end_round()

    def _learn(self, size: int, ttft_s: float, *, is_used: bool) -> float:
        """Update the baseline for this prompt size; returns the baseline from before this sample, in seconds.

        `is_used`: at least half of the limit is in flight. Such a sample is divided by the last round's slowness, and
        changes the baseline only while that has few samples.
        """
        unqueued_s = ttft_s / self._slowness if is_used else ttft_s
        baseline_s, samples = self._baselines.get(size, (unqueued_s, 0))
        if samples < _ROUND or not is_used:
            learnt_s = baseline_s + (unqueued_s - baseline_s) / min(samples + 1, _WINDOW)
            self._baselines[size] = (learnt_s, samples + 1)
        return baseline_s

    def _end_round(self) -> None:
        slowness = self._sum / self._samples
        is_slow = self._busiest * 2 >= self._limit and slowness > _TOLERANCE
        self._slow_rounds = self._slow_rounds + 1 if is_slow else 0
        self._slowness = max(1.0, slowness)
        if slowness < 0.5:  # the baselines were measured with a queue
            self._baselines = {
                size: (baseline_s * slowness, samples) for size, (baseline_s, samples) in self._baselines.items()
            }
        if self._busiest * 2 >= self._limit:  # a round with less load does not show whether the limit is right
            gradient = max(0.5, min(1.0, _TOLERANCE / slowness))
            target = self._limit * gradient + sqrt(self._limit)
            self._set_limit(self._limit + (target - self._limit) * _SMOOTHING)
        if self._slow_rounds >= _MAX_SLOW_ROUNDS:
            self._reset_baselines()
        self._samples, self._sum, self._busiest = 0, 0.0, 0

    def _reset_baselines(self) -> None:
        self._set_limit(self._limit / 2)
        self._baselines.clear()
        self._slowness = 1.0
        self._slow_rounds = 0
        self._is_draining = True

    def _set_limit(self, limit: float) -> None:
        self._limit = min(max(limit, self._minimum), self._maximum)
