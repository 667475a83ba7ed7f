"""Who is calling: static keys from the config, compared in constant time."""

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
    """What a caller showed: a key or none, the address called from (empty where it cannot be told), the host called."""

    key: str | None
    address: str
    host: str

    @property
    def is_local(self) -> bool:
        """Whether the call came from this machine, and meant it."""
        return is_loopback_address(self.address) and self.names_an_address

    @property
    def names_an_address(self) -> bool:
        """Whether the host called is an IP address or `localhost`.

        Any other name may be a page's own, pointed at this machine (DNS rebinding): to the browser the page and we are
        then of one origin, and nothing holds it back.
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
    """A caller known by a key.

    Attributes:
        name: the configured one, `anonymous`, `admin` or the first 8 hex digits of the key's SHA-256.
        reasoning_format: how thinking is shown to it; None: as elsewhere configured.
        reach: where its requests may go; None: as elsewhere configured.
        priority: the most urgent that its requests may be, and what they are unless they say less.
    """

    name: str
    reasoning_format: ReasoningFormat | None = None
    reach: Reach | None = None
    priority: Priority = "default"


ANONYMOUS = KeyPrincipal("anonymous")
ADMIN = KeyPrincipal("admin")


class KeyRing:
    """The keys that are good here; immutable.

    Args:
        keys: what callers may show; without any, everybody is let in.
        callers: the same, with names and settings.
        takes_any_host: where there are no keys, whether the host that is called may be a name.
        admin_key: the one key for `/admin`, and for the details of `/metrics` and `/readyz` off loopback.
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
        """The caller behind `credentials`.

        Digests are compared, so that neither the length nor the bytes of a key show in the time taken.

        Raises:
            NotAuthenticated: no key, or one that is not ours.
            NotPermitted: no keys are configured, and a name was called that may be a hostile page's.
        """
        if not self._digests:
            if not (self._takes_any_host or credentials.names_an_address):
                raise NotPermitted(
                    "Without API keys this server answers to its IP address and to localhost only. Call it so, "
                    "configure a key, or start it with --no-auth."
                )
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
