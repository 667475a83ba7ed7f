"""How long to wait before the same target is tried again: full jitter, so that requests that failed together spread."""

from random import Random

_MAX_DOUBLINGS = 64  # more doublings make the pause longer than any in practice, and overflow a float


def delay_s(repeats: int, base_s: float, max_s: float, rng: Random) -> float:
    """A random time from 0 to `base_s`, doubled once per earlier repeat (`repeats`), and at most from 0 to `max_s`."""
    return rng.uniform(0.0, min(max_s, base_s * 2.0 ** min(repeats, _MAX_DOUBLINGS)))
