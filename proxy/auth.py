"""Who is calling: static keys from the config, compared in constant time."""

import hmac
from collections.abc import Sequence
from hashlib import sha256
from ipaddress import ip_address

import msgspec

from proxy.errors import NotAuthenticated, NotPermitted


class Credentials(msgspec.Struct, frozen=True):
    """What a caller showed: a key or none, and the address called from, empty where it cannot be told."""

    key: str | None
    address: str

    @property
    def is_local(self) -> bool:
        """Whether the call came from this machine."""
        try:
            return ip_address(self.address).is_loopback
        except ValueError:
            return False

    def __repr__(self) -> str:
        """Without the key."""
        return f"Credentials(key={'***' if self.key else None}, address={self.address!r})"


class KeyPrincipal(msgspec.Struct, frozen=True):
    """A caller known by a key; the name is `anonymous`, `admin` or the first 8 hex digits of the key's SHA-256."""

    name: str


ANONYMOUS = KeyPrincipal("anonymous")
ADMIN = KeyPrincipal("admin")


class KeyRing:
    """The keys that are good here; immutable.

    Args:
        keys: what callers may show; none means that everybody is let in.
        admin_key: the one key for `/admin`, and for the details of `/metrics` and `/readyz` off loopback.
    """

    def __init__(self, keys: Sequence[str], admin_key: str | None) -> None:
        self._digests = [(_digest(key), KeyPrincipal(_digest(key).hex()[:8])) for key in keys]
        self._admin = None if admin_key is None else _digest(admin_key)

    def authenticate(self, credentials: Credentials) -> KeyPrincipal:
        """The caller behind `credentials`.

        Digests are compared, so that neither the length nor the bytes of a key show in the time taken.

        Raises:
            NotAuthenticated: no key, or one that is not ours.
        """
        if not self._digests:
            return ANONYMOUS
        if credentials.key is None:
            raise NotAuthenticated(
                "You didn't provide an API key. Provide it in an Authorization header using Bearer auth "
                "(i.e. Authorization: Bearer YOUR_KEY)."
            )
        shown = _digest(credentials.key)
        found = None
        for digest, principal in self._digests:
            if hmac.compare_digest(shown, digest):
                found = principal
        if found is None:
            raise NotAuthenticated("Incorrect API key provided.")
        return found

    def authenticate_admin(self, credentials: Credentials) -> KeyPrincipal:
        """The administrator: by the admin key alone or, where none is set, by calling from this machine.

        Raises:
            NotAuthenticated: an admin key is set and was not shown.
            NotPermitted: none is set, and the call came from elsewhere.
        """
        if self._admin is None:
            if credentials.is_local:
                return ADMIN
            raise NotPermitted("This path is open to the machine itself only, as no admin key is configured.")
        if credentials.key is None or not hmac.compare_digest(_digest(credentials.key), self._admin):
            raise NotAuthenticated("This path takes the admin key.")
        return ADMIN


def _digest(key: str) -> bytes:
    return sha256(key.encode("utf-8", "surrogateescape")).digest()
