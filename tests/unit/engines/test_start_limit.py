"""How long a start may take."""

import pytest

from tidegate.engines.start_limit import start_limit_s


@pytest.mark.parametrize(
    ("model_bytes", "may_download", "limit_s"),
    [(0, False, 300.0), (5_000_000_000, False, 400.0), (0, True, 7500.0), (5_000_000_000, True, 7600.0)],
)
def test_the_limit_grows_with_the_model_and_with_a_download(model_bytes, may_download, limit_s):
    assert start_limit_s(300.0, model_bytes, may_download=may_download) == limit_s
