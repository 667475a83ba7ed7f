"""Reading credentials from request headers."""

import pytest

from tidegate.entrypoints.credentials import read_credentials

HERE = ("127.0.0.1", 5000)


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ({}, None),
        ({b"authorization": b"Bearer sk-1"}, "sk-1"),
        ({b"authorization": b"bearer  sk-1 "}, "sk-1"),
        ({b"authorization": b"Bearer "}, None),
        ({b"authorization": b"Basic abc"}, None),
        ({b"x-api-key": b"sk-2"}, "sk-2"),
        ({b"api-key": b"sk-3"}, "sk-3"),
        ({b"authorization": b"Bearer sk-1", b"x-api-key": b"sk-2"}, "sk-1"),
        ({b"authorization": b"Bearer \xff"}, "\xff"),
    ],
)
def test_the_key_is_the_first_one_found(headers, key):
    assert read_credentials(headers, HERE).key == key


@pytest.mark.parametrize(
    ("client", "headers", "is_local"),
    [
        (HERE, {}, True),
        (("::1", 1), {}, True),
        (("127.8.8.8", 1), {}, True),
        (("192.168.0.7", 1), {}, False),
        (None, {}, False),
        (("unix", None), {}, False),
        (HERE, {b"x-forwarded-for": b"203.0.113.7"}, False),
        (HERE, {b"forwarded": b"for=203.0.113.7"}, False),
    ],
)
def test_a_request_is_local_if_it_comes_from_loopback_and_no_proxy_forwarded_it(client, headers, is_local):
    assert read_credentials(headers, client).is_local is is_local


def test_the_repr_does_not_show_the_key():
    assert "sk-1" not in repr(read_credentials({b"x-api-key": b"sk-1"}, HERE))
