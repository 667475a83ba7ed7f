"""Authenticates callers by static keys from the config, compared in constant time."""

import hmac
from collections.abc import Sequence
from hashlib import sha256
from ipaddress import ip_address

import msgspec

from tidegate.config.root import is_loopback_address
from tidegate.errors import NotAuthenticated, NotPermitted
from tidegate.protocol.reasoning import ReasoningFormat
from tidegate.protocol.routing import Priority, Reach


class Credentials(msgspec.Struct, frozen=True):
    """What a request shows of its caller.

    Attributes:
        key: the API key, or None.
        address: the IP address that the request came from; empty if it is unknown.
        host: the `Host` header.
    """

    key: str | None
    address: str
    host: str

    @property
    def is_local(self) -> bool:
        """Whether the request came from this machine, and was addressed to an IP address or `localhost`."""
        return is_loopback_address(self.address) and self.names_an_address

    @property
    def names_an_address(self) -> bool:
        """Whether the `Host` header is an IP address, `localhost` or empty.

        Any other name may belong to a web page and resolve to this machine (DNS rebinding). A browser then takes the
        page and this server for one origin, and lets the page send any request.
        """
        before, _, port = self.host.rpartition(":")
        name = before if port.isdigit() else self.host
        try:
            ip_address(name.strip("[]"))
        except ValueError:
            return name in {"", "localhost"}
        return True

    def __repr__(self) -> str:
        """Without the key."""
        return f"Credentials(key={'***' if self.key else None}, address={self.address!r})"


class KeyPrincipal(msgspec.Struct, frozen=True):
    """An authenticated caller.

    Attributes:
        name: the configured name, `anonymous`, `admin`, or the first 8 hex digits of the key's SHA-256.
        reasoning_format: how the model's thinking is shown to this caller; None: the model and `defaults` decide.
        reach: where its requests may go; None: the model and `routing` decide.
        priority: the highest priority of its requests, and the one they have if they do not set a lower one.
    """

    name: str
    reasoning_format: ReasoningFormat | None = None
    reach: Reach | None = None
    priority: Priority = "default"


ANONYMOUS = KeyPrincipal("anonymous")
ADMIN = KeyPrincipal("admin")


class KeyRing:
    """The valid keys; immutable.

    Args:
        keys: the keys of callers. If there are no keys at all, every caller is accepted.
        callers: further keys, each with the caller's name and settings.
        takes_any_host: whether the `Host` header may be any name if there are no keys.
        admin_key: the key for `/admin`, and for the details of `/metrics` and `/readyz` to callers on other machines.
    """

    def __init__(
        self,
        keys: Sequence[str],
        admin_key: str | None,
        *,
        callers: Sequence[tuple[str, KeyPrincipal]] = (),
        takes_any_host: bool = False,
    ) -> None:
        self._takes_any_host = takes_any_host
        self._digests = [(_digest(key), KeyPrincipal(_digest(key).hex()[:8])) for key in keys]
        self._digests += [(_digest(key), principal) for key, principal in callers]
        self._admin = None if admin_key is None else _digest(admin_key)

    def authenticate(self, credentials: Credentials) -> KeyPrincipal:
        """The caller that `credentials` belong to.

        Digests are compared, so that the time taken depends neither on the length nor on the bytes of a key.

        Raises:
            NotAuthenticated: the key is missing or not valid.
            NotPermitted: no keys are configured, and the `Host` header is a name that may belong to a hostile page.
        """
        if not self._digests:
            if not (self._takes_any_host or credentials.names_an_address):
                raise NotPermitted(
                    "Without API keys this server answers to its IP address and to localhost only. Use one of these, "
                    "configure a key, or start it with --no-auth."
                )
            return ANONYMOUS
        if credentials.key is None:
            raise NotAuthenticated(
                "You didn't provide an API key. Provide it in an Authorization header using Bearer auth "
                "(i.e. Authorization: Bearer YOUR_KEY)."
            )
        given_digest = _digest(credentials.key)
        found = None
        for digest, principal in self._digests:
            if hmac.compare_digest(given_digest, digest):
                found = principal
        if found is None:
            raise NotAuthenticated("Incorrect API key provided.")
        return found

    def authenticate_admin(self, credentials: Credentials) -> KeyPrincipal:
        """Authenticate the administrator: by the admin key or, if none is set, by a request from this machine.

        Raises:
            NotAuthenticated: an admin key is set, and the request does not have it.
            NotPermitted: no admin key is set, and the request came from another machine.
        """
        if self._admin is None:
            if credentials.is_local:
                return ADMIN
            raise NotPermitted(
                "This path can be used from the server's own machine only, as no admin key is configured."
            )
        if credentials.key is None or not hmac.compare_digest(_digest(credentials.key), self._admin):
            raise NotAuthenticated("This path takes the admin key.")
        return ADMIN


def _digest(key: str) -> bytes:
    return sha256(key.encode("utf-8", "surrogateescape")).digest()
