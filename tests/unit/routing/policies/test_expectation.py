"""The expected time of a request."""

from math import inf

import pytest

from tests.fakes.candidates import candidate, routing_request
from tidegate.routing.policies.expectation import expected_s

REQUEST = routing_request(answer_tokens=100)


@pytest.mark.parametrize(
    ("known", "time_s"),
    [
        ({}, 0.0),  # unknown: gets tried
        ({"in_flight": 1}, 4.0),  # unknown, with one request in flight
        ({"ttft_s": 0.5, "per_token_s": 0.01}, 1.5),
        ({"ttft_s": 0.5, "in_flight": 8}, 1.0),
        ({"ttft_s": 0.5, "in_flight": 8, "is_local": True}, 0.5),  # the time of a local engine includes its queue
        ({"ttft_s": 0.5, "failure_rate": 0.5}, 1.0),
        ({"ttft_s": 0.5, "failure_rate": 1.0}, 10.0),
        ({"is_local": True, "is_overloaded": True}, inf),  # not ready
        ({"is_local": True, "is_overloaded": True, "ttft_s": 7.0}, 7.0),
    ],
)
def test_time_to_the_last_token(known, time_s):
    assert time_s == pytest.approx(expected_s(candidate(**known), REQUEST.answer_tokens))
