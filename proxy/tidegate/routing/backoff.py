"""How long to wait before the same target is tried again: full jitter, so that those who failed together part."""

from random import Random

_MOST_DOUBLINGS = 64  # beyond it no pause is finite in practice, and floats end


def delay_s(tries: int, base_s: float, max_s: float, rng: Random) -> float:
    """A random time from 0 to `base_s`, doubled for each of the `tries` again before this one, at most to `max_s`."""
    return rng.uniform(0.0, min(max_s, base_s * 2.0 ** min(tries, _MOST_DOUBLINGS)))
