"""The address that the server listens on, and a server that fails."""

import asyncio
import socket

import pytest

from tidegate.entrypoints.server import choose_address, serve
from tidegate.errors import ConfigError


def test_port_0_is_a_free_port():
    host, port = choose_address("127.0.0.1", 0)
    assert host == "127.0.0.1"
    assert port > 0


def test_a_host_name_is_resolved_to_its_address():
    assert choose_address("localhost", 0)[0] in {"127.0.0.1", "::1"}


def test_an_address_in_use_is_refused_even_if_it_is_bound_with_reuseport():
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(ConfigError, match="cannot listen on"):
            choose_address("127.0.0.1", other.getsockname()[1])


def test_an_address_of_another_machine_is_refused():
    with pytest.raises(ConfigError, match="cannot listen on"):
        choose_address("203.0.113.7", 0)


async def test_an_exception_of_the_server_is_raised():
    """Otherwise the command would exit with status 0, as after a signal."""

    async def drain() -> None:
        """Return at once: there are no running requests."""

    with pytest.raises(RuntimeError, match="Cannot assign requested address"):
        await serve(None, host="203.0.113.7", port=9, stop=asyncio.Event(), drain=drain)
