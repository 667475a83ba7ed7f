"""How far a request may go."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.errors import NotPermitted
from tidegate.protocol.routing import REACHES
from tidegate.routing import reach

OPTIONAL_REACH = st.sampled_from([None, *REACHES])


@given(st.sampled_from(REACHES), OPTIONAL_REACH, OPTIONAL_REACH)
def test_local_only_holds_if_any_of_the_three_says_it(default, model, key):
    """Otherwise the most specific one holds."""
    combined = reach.combine(default, model, key)
    if "local_only" in {default, model, key}:
        assert combined == "local_only"
    else:
        assert combined == (key or model or default)


@given(st.sampled_from(REACHES), OPTIONAL_REACH)
def test_a_caller_can_only_narrow_the_reach(allowed, chosen):
    if chosen is None or REACHES.index(chosen) <= REACHES.index(allowed):
        assert reach.narrow(allowed, chosen) == (chosen or allowed)
    else:
        with pytest.raises(NotPermitted) as caught:
            reach.narrow(allowed, chosen)
        assert (caught.value.status, caught.value.param) == (403, "x-tidegate-reach")
