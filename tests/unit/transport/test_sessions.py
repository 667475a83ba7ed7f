"""What fails at a connection, in our words."""

import errno

import aiohttp
import pytest

from proxy.errors import UpstreamTimeout, UpstreamUnreachable
from proxy.transport.sessions import base_headers, translate


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (aiohttp.ConnectionTimeoutError(), UpstreamTimeout),
        (TimeoutError(), UpstreamTimeout),
        (OSError(errno.EAGAIN, "full"), UpstreamTimeout),
        (OSError(errno.ECONNREFUSED, "10.0.0.7 said no"), UpstreamUnreachable),
        (aiohttp.ServerDisconnectedError(), UpstreamUnreachable),
    ],
)
def test_a_failure_is_one_of_ours_and_names_no_host(error, kind):
    made = translate(error)
    assert type(made) is kind
    assert "10.0.0.7" not in made.message


def test_nobody_is_asked_to_compress_and_each_has_its_own_headers():
    assert base_headers()["accept-encoding"] == "identity"
    assert base_headers() is not base_headers()
