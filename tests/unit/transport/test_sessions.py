"""Exceptions of aiohttp as errors of Tidegate, and their texts."""

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
def test_a_failure_becomes_an_upstream_error_that_names_no_host(error, kind):
    translated = translate(error)
    assert type(translated) is kind
    assert "10.0.0.7" not in translated.message


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            aiohttp.ClientConnectorDNSError(KEY, OSError(-2, "no such name 10.0.0.7")),
            "its host name cannot be resolved",
        ),
        (aiohttp.ClientConnectorError(KEY, ConnectionRefusedError(111, "10.0.0.7")), "no connection could be opened"),
        (aiohttp.ClientConnectorSSLError(KEY, OSError(1, "10.0.0.7")), "no TLS connection could be opened"),
        (aiohttp.ClientConnectorCertificateError(KEY, ValueError("10.0.0.7")), "its certificate is not valid"),
        (aiohttp.ServerDisconnectedError("10.0.0.7"), "it closed the connection"),
        (aiohttp.ClientPayloadError("10.0.0.7"), "the answer was cut short"),
        (ConnectionResetError(104, "10.0.0.7"), "the connection was reset"),
        (aiohttp.ClientError("10.0.0.7"), "it failed"),
    ],
)
def test_the_reason_is_a_fixed_text_and_not_the_librarys(error, text):
    assert reason(error) == text


def test_no_compression_is_requested_and_each_call_returns_new_headers():
    assert base_headers()["accept-encoding"] == "identity"
    assert base_headers() is not base_headers()
