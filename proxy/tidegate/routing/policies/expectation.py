"""The expected time of a request at a candidate, by which policies compare times."""

from math import inf

from tidegate.routing.candidate import Candidate

_ASSUMED_TTFT_S = 2.0  # time to first token per request in flight, as long as no time was measured there
_PARALLEL_REQUESTS = 8  # requests that a host is assumed to work on at once; from tests/benchmarks/simulation.py
_MAX_FAILURE_RATE = 0.95  # the most that counts; at it, the time is twenty times as long


def expected_s(candidate: Candidate, answer_tokens: int) -> float:
    """Seconds to the last token, failures included; only for comparing candidates.

    With a failure rate of f, a request needs 1 / (1 - f) tries on average, and so much more time.

    The time to first token comes from the target's stats. For a local engine it is a prediction that includes the queue
    (`pressure`). For a hosted upstream it is the recent peak, which shows a higher load only after the next first
    tokens. So it is raised at once by the number of requests in flight there; otherwise a whole burst would go to the
    target that was fastest a moment ago. Finagle's rule, one more time for each request in flight, is for servers that
    do one thing at a time. Hosts do many at once, and that rule would send requests to slow ones although the fast one
    had room. Without any such rule, the fast one is overloaded.
    """
    first_s, failure_rate = candidate.ttft_s, candidate.failure_rate
    if not first_s:
        first_s = _unknown_s(candidate)
    elif not candidate.target.is_local:
        first_s *= 1.0 + candidate.in_flight / _PARALLEL_REQUESTS
    time_s = first_s + candidate.per_token_s * answer_tokens
    return time_s / (1.0 - min(failure_rate, _MAX_FAILURE_RATE)) if failure_rate else time_s


def _unknown_s(candidate: Candidate) -> float:
    """The time to first token of a candidate without any measurement: 0, so that it gets tried.

    While requests are in flight there, it is `_ASSUMED_TTFT_S` for each of them and for this one. An overloaded engine
    comes last.
    """
    if candidate.is_overloaded:
        return inf
    return _ASSUMED_TTFT_S * (candidate.in_flight + 1) if candidate.in_flight else 0.0
