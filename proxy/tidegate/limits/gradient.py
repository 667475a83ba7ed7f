"""How many requests a target bears at once, learnt from its times to first token.

This is Netflix's Gradient2, changed where language models want it. Every so many answers (a round) the limit becomes
`gradient * limit + sqrt(limit)`, half of the way. The gradient is what the times usually are by what they were in this
round, between a half and one, with half as much again tolerated. So the limit rests where a few requests queue at the
target: at twice the usual time with 16 at once, at less with more. It is about the time to the first token, as the
whole time says how long the answers are.

- **By length of the prompt.** Prefill rules the time to first token, and a run of long prompts is no overload. Each
  time is divided by the usual one of prompts of about the same length (powers of two); that ratio, the slowness, is
  averaged.
- **What is usual is learnt where there is no queue**: while the target is used to less than half of its limit. As
  Netflix's average of the last 600 also learns under full use, a target that is always full makes its own queue the
  usual thing, and the limit climbs to its maximum.
- **A target that stays full and slow is measured anew.** Nobody can tell a queue from a target that became slower for
  good but by taking load off: after `_PATIENCE` slow rounds in a row the limit is halved, and the first times after
  that are the usual ones (Envoy does the same every minute, down to a few requests).
"""

from math import sqrt

_TOLERANCE = 1.5
_SMOOTHING = 0.5
_ROUND = 10  # answers, at least
_WINDOW = 100  # answers that the usual time is an average of
_PATIENCE = 20  # rounds


class Gradient2:
    """A limit between `least` and `most`, both at least 1. Owned by one gate.

    With a gradient of a half the limit rests at four: a `least` under that is seldom reached.
    """

    def __init__(self, initial: int, least: int, most: int) -> None:
        self._limit = float(min(max(initial, least), most))
        self._least = least
        self._most = most
        self._usual: dict[int, tuple[float, int]] = {}  # by length of the prompt: seconds, answers learnt from
        self._slowness = 1.0  # of the last round
        self._slow_rounds = 0
        self._is_draining = False  # the limit was halved, and more are still there
        self._samples, self._sum, self._busiest = 0, 0.0, 0  # of this round

    @property
    def limit(self) -> int:
        """Requests at once."""
        return int(self._limit)

    def sample(self, ttft_s: float, in_flight: int, prompt_tokens: int = 1) -> None:
        """A first token has come.

        Args:
            ttft_s: since the request was sent; what is not positive is not counted.
            in_flight: requests there now, this one too.
            prompt_tokens: about how many it had.
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
        """What was usual for such a prompt before this one, in seconds."""
        unqueued_s = ttft_s / self._slowness if is_used else ttft_s
        usual_s, seen = self._usual.get(size, (unqueued_s, 0))
        if seen < _ROUND or not is_used:
            learnt_s = usual_s + (unqueued_s - usual_s) / min(seen + 1, _WINDOW)
            self._usual[size] = (learnt_s, seen + 1)
        return usual_s

    def _end_round(self) -> None:
        slowness = self._sum / self._samples
        is_slow = self._busiest * 2 >= self._limit and slowness > _TOLERANCE
        self._slow_rounds = self._slow_rounds + 1 if is_slow else 0
        self._slowness = max(1.0, slowness)
        if slowness < 0.5:  # what seemed usual was a queue
            self._usual = {size: (usual_s * slowness, seen) for size, (usual_s, seen) in self._usual.items()}
        if self._busiest * 2 >= self._limit:  # else nothing is known of so many at once
            gradient = max(0.5, min(1.0, _TOLERANCE / slowness))
            wanted = self._limit * gradient + sqrt(self._limit)
            self._set(self._limit + (wanted - self._limit) * _SMOOTHING)
        if self._slow_rounds >= _PATIENCE:
            self._measure_anew()
        self._samples, self._sum, self._busiest = 0, 0.0, 0

    def _measure_anew(self) -> None:
        self._set(self._limit / 2)
        self._usual.clear()
        self._slowness = 1.0
        self._slow_rounds = 0
        self._is_draining = True

    def _set(self, limit: float) -> None:
        self._limit = min(max(limit, self._least), self._most)
