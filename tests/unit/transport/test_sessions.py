"""What fails at a connection, in our words."""

import errno

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey
from tidegate.errors import UpstreamTimeout, UpstreamUnreachable
from tidegate.transport.sessions import base_headers, reason, translate

KEY = ConnectionKey("10.0.0.7", 80, False, True, None, None, None)  # noqa: FBT003 - aiohttp's order


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


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (aiohttp.ClientConnectorDNSError(KEY, OSError(-2, "no such name 10.0.0.7")), "its name is not known"),
        (aiohttp.ClientConnectorError(KEY, ConnectionRefusedError(111, "10.0.0.7")), "no connection came about"),
        (aiohttp.ClientConnectorSSLError(KEY, OSError(1, "10.0.0.7")), "no TLS connection came about"),
        (aiohttp.ClientConnectorCertificateError(KEY, ValueError("10.0.0.7")), "its certificate is not valid"),
        (aiohttp.ServerDisconnectedError("10.0.0.7"), "it hung up"),
        (aiohttp.ClientPayloadError("10.0.0.7"), "the answer was cut short"),
        (ConnectionResetError(104, "10.0.0.7"), "the connection was reset"),
        (aiohttp.ClientError("10.0.0.7"), "it failed"),
    ],
)
def test_it_says_what_happened_and_not_what_a_library_calls_it(error, words):
    assert reason(error) == words


def test_nobody_is_asked_to_compress_and_each_has_its_own_headers():
    assert base_headers()["accept-encoding"] == "identity"
    assert base_headers() is not base_headers()
