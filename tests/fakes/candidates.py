"""Short ways to make targets, candidates and requests for routing tests."""

import json
from collections.abc import Sequence

from hypothesis import strategies as st

from tidegate.protocol import chat
from tidegate.routing.candidate import Candidate, RankedCandidate
from tidegate.routing.request import RoutingRequest
from tidegate.routing.targets import Target


def candidate(name="a", *, is_local=False, weight=1.0, **known) -> Candidate:
    return Candidate(target=Target(name, "m", is_local=is_local, weight=weight), **known)


def routing_request(system="You are helpful.", *, session="", caller="", answer_tokens=100, **fields) -> RoutingRequest:
    messages = [{"role": "system", "content": system}, {"role": "user", "content": "Hi."}]
    body = {"model": "m", "messages": messages, "max_tokens": answer_tokens} | fields
    return RoutingRequest(chat.parse_request(json.dumps(body).encode()), session=session, caller=caller)


def names(order: Sequence[RankedCandidate] | Sequence[Candidate]) -> str:
    """The upstream names, of one letter each, in order."""
    return "".join((each.candidate if isinstance(each, RankedCandidate) else each).target.upstream for each in order)


def ranked(*candidates: Candidate) -> list[RankedCandidate]:
    return [RankedCandidate(each) for each in candidates]


_UNIT = st.floats(0, 1)
_SECONDS = st.one_of(st.just(0.0), st.floats(0.001, 100))


@st.composite
def candidate_lists(draw, *, least=1, most=6):
    """Lists of candidates with different names and any values."""
    return [
        candidate(
            chr(ord("a") + number),
            is_local=draw(st.booleans()),
            weight=draw(st.one_of(st.just(0.0), st.floats(0.001, 1000))),
            in_flight=draw(st.integers(0, 100)),
            ttft_s=draw(_SECONDS),
            per_token_s=draw(_SECONDS),
            failure_rate=draw(_UNIT),
            price_usd=draw(st.none() | st.floats(0, 10)),
            quality=draw(_UNIT),
            share=draw(st.sampled_from([1.0, 1.0, 0.5, 0.1])),
            is_overloaded=draw(st.booleans()),
        )
        for number in range(draw(st.integers(least, most)))
    ]
