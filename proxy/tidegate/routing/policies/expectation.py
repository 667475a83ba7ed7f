"""How long a request is expected to take at a candidate: what times are compared by."""

from math import inf

from tidegate.routing.candidate import Candidate

_GUESS_S = 2.0  # to the first token, where all we know is that others of ours are waiting there
_AT_ONCE = 8  # requests that a host is taken to work on at once; from tests/benchmarks/simulation.py
_MOST_FAILURES = 0.95  # beyond it nothing more can be told; at it, twenty times the time


def expected_s(candidate: Candidate, answer_tokens: int) -> float:
    """Seconds to the last token, failures counted in; only good for comparing.

    What has failed with probability f takes 1 / (1 - f) tries, so that much longer.

    To the first token it is the board's word. At an engine of ours that is a prediction, which has the queue in it
    (`pressure`). At hosts elsewhere it is the peak of late, which tells of the load only once first tokens have come;
    by what is in flight there it tells at once, so that a burst does not all go to whoever was fastest a moment ago.
    Finagle's rule, times one more for each in flight, is for servers that do one thing at a time: hosts do many, and it
    would send requests to slow ones that the fast one had room for. Without any, the fast one drowns.
    """
    first_s, failures = candidate.ttft_s, candidate.failure_rate
    if not first_s:
        first_s = _unknown_s(candidate)
    elif not candidate.target.is_local:
        first_s *= 1.0 + candidate.in_flight / _AT_ONCE
    time_s = first_s + candidate.per_token_s * answer_tokens
    return time_s / (1.0 - min(failures, _MOST_FAILURES)) if failures else time_s


def _unknown_s(candidate: Candidate) -> float:
    """Of whom nothing is known, 0: it gets tried.

    Once: while that one is on its way, it is middling. An engine that is not ready comes last.
    """
    if candidate.is_pressed:
        return inf
    return _GUESS_S * (candidate.in_flight + 1) if candidate.in_flight else 0.0
