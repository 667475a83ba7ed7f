"""How far a request may go."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tidegate.errors import NotPermitted
from tidegate.protocol.routing import REACHES
from tidegate.routing import reach

SAID = st.sampled_from([None, *REACHES])


@given(st.sampled_from(REACHES), SAID, SAID)
def test_local_only_holds_whoever_says_it(default, model, key):
    """Of the others, the most specific one holds."""
    found = reach.combine(default, model, key)
    if "local_only" in {default, model, key}:
        assert found == "local_only"
    else:
        assert found == (key or model or default)


@given(st.sampled_from(REACHES), SAID)
def test_a_caller_only_narrows(allowed, wished):
    if wished is None or REACHES.index(wished) <= REACHES.index(allowed):
        assert reach.narrow(allowed, wished) == (wished or allowed)
    else:
        with pytest.raises(NotPermitted) as caught:
            reach.narrow(allowed, wished)
        assert (caught.value.status, caught.value.param) == (403, "x-tidegate-reach")
