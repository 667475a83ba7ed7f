"""Authentication of callers and of the administrator."""

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.auth import ADMIN, ANONYMOUS, Credentials, KeyRing
from tidegate.errors import NotAuthenticated, NotPermitted


def show(key, *, is_local=False, host="127.0.0.1:8000"):
    return Credentials(key=key, address="127.0.0.1" if is_local else "192.0.2.7", host=host)


@pytest.mark.parametrize("key", [None, "", "anything"])
def test_without_keys_every_caller_is_accepted(key):
    assert KeyRing([], None).authenticate(show(key)) == ANONYMOUS


def test_each_key_is_a_caller_of_its_own():
    """The caller's name is the beginning of the key's digest, which can be logged."""
    ring = KeyRing(["sk-a", "sk-b"], None)
    first, second = ring.authenticate(show("sk-a")), ring.authenticate(show("sk-b"))
    assert first.name == sha256(b"sk-a").hexdigest()[:8]
    assert first != second


def test_the_error_for_a_missing_key_explains_how_to_send_one():
    with pytest.raises(NotAuthenticated, match="Authorization: Bearer YOUR_KEY") as caught:
        KeyRing(["sk-a"], None).authenticate(show(None, is_local=True))
    assert (caught.value.status, caught.value.code) == (401, "invalid_api_key")


@pytest.mark.parametrize("key", ["", "sk-", "sk-aa", "SK-A", " sk-a", "sk-a\n", "é"])
def test_a_wrong_key_is_refused_and_not_repeated(key):
    with pytest.raises(NotAuthenticated, match=r"^Incorrect API key provided.$"):
        KeyRing(["sk-a"], "sk-admin").authenticate(show(key))


def test_the_admin_key_is_not_a_key_for_callers():
    with pytest.raises(NotAuthenticated):
        KeyRing(["sk-a"], "sk-admin").authenticate(show("sk-admin"))


@pytest.mark.parametrize("is_local", [True, False])
def test_the_admin_key_is_accepted_from_any_address(is_local):
    assert KeyRing(["sk-a"], "sk-admin").authenticate_admin(show("sk-admin", is_local=is_local)) == ADMIN


@pytest.mark.parametrize("key", [None, "", "sk-a", "sk-admi"])
@pytest.mark.parametrize("is_local", [True, False])
def test_if_an_admin_key_is_set_nothing_else_is_accepted(key, is_local):
    """A request from this machine is refused too: a reverse proxy may have forwarded it."""
    with pytest.raises(NotAuthenticated, match="takes the admin key"):
        KeyRing(["sk-a"], "sk-admin").authenticate_admin(show(key, is_local=is_local))


def test_without_an_admin_key_requests_from_this_machine_are_the_administrators():
    ring = KeyRing(["sk-a"], None)
    assert ring.authenticate_admin(show(None, is_local=True)) == ADMIN
    with pytest.raises(NotPermitted) as caught:
        ring.authenticate_admin(show("sk-a"))
    assert caught.value.status == 403


def test_credentials_do_not_show_their_key():
    assert repr(show("sk-a")) == "Credentials(key=***, address='192.0.2.7')"
    assert repr(show(None)) == "Credentials(key=None, address='192.0.2.7')"


@pytest.mark.parametrize(
    ("address", "is_local"),
    [
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("192.0.2.7", False),
        ("2001:db8::1", False),
        ("localhost", False),
        ("127.0.0.1, 192.0.2.7", False),
        ("", False),
    ],
)
def test_a_request_is_local_if_its_address_is_loopback(address, is_local):
    """An unknown address is not local, because access to the administrator's paths depends on it."""
    assert Credentials(key=None, address=address, host="localhost").is_local is is_local


HOSTS = [
    ("127.0.0.1:8000", True),
    ("192.0.2.7", True),
    ("[::1]:8000", True),
    ("[2001:db8::1]", True),
    ("localhost", True),
    ("localhost:8000", True),
    ("", True),
    ("evil.example", False),
    ("evil.example:8000", False),
    ("localhost.evil.example", False),
    ("127.0.0.1.evil.example:80", False),
]


@pytest.mark.parametrize(("host", "is_address"), HOSTS)
def test_without_keys_only_requests_to_an_address_are_accepted(host, is_address):
    """A page's own name may resolve to this machine (DNS rebinding); no other check would then stop the page."""
    assert show(None, host=host).names_an_address is is_address
    assert KeyRing([], None, takes_any_host=True).authenticate(show(None, host=host)) == ANONYMOUS
    if is_address:
        assert KeyRing([], None).authenticate(show(None, host=host)) == ANONYMOUS
    else:
        with pytest.raises(NotPermitted, match="IP address and to localhost only"):
            KeyRing([], None).authenticate(show(None, host=host))


@pytest.mark.parametrize(("host", "is_address"), HOSTS)
def test_a_key_is_accepted_under_any_host_name(host, is_address):
    """A hostile page does not have the key."""
    assert KeyRing(["sk-a"], None).authenticate(show("sk-a", host=host)) != ANONYMOUS


@pytest.mark.parametrize(("host", "is_address"), HOSTS)
def test_a_request_from_this_machine_to_a_host_name_is_not_local(host, is_address):
    assert show(None, is_local=True, host=host).is_local is is_address


def test_a_key_ring_does_not_store_its_keys():
    """It stores only their digests."""
    assert "sk-secret" not in repr(vars(KeyRing(["sk-secret"], "sk-secret")))


@given(st.text(), st.lists(st.text(st.characters(codec="ascii"), min_size=1), min_size=1))
def test_a_key_is_accepted_exactly_if_it_is_on_the_ring(key, keys):
    try:
        KeyRing(keys, None).authenticate(show(key))
    except NotAuthenticated:
        assert key not in keys
    else:
        assert key in keys
