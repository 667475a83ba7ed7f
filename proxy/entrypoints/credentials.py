"""From headers to `Credentials`."""

from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any

from proxy.auth import Credentials

_BEARER = "bearer "
_PROXIED = (b"x-forwarded-for", b"forwarded", b"x-real-ip")


def read_credentials(headers: Mapping[bytes, bytes], client: Any) -> Credentials:  # noqa: ANN401 - ASGI's (host, port)
    """The key in `authorization: Bearer`, `x-api-key` or `api-key`, the first that is there; and where from.

    A call is local if it comes over loopback and no proxy says that it speaks for somebody else.
    """
    is_local = _is_loopback(client) and not any(name in headers for name in _PROXIED)
    return Credentials(_key(headers), is_local)


def _key(headers: Mapping[bytes, bytes]) -> str | None:
    authorization = headers.get(b"authorization", b"").decode("latin-1")
    if authorization[: len(_BEARER)].lower() == _BEARER:
        return authorization[len(_BEARER) :].strip() or None
    for name in (b"x-api-key", b"api-key"):
        if key := headers.get(name, b"").decode("latin-1").strip():
            return key
    return None


def _is_loopback(client: Any) -> bool:  # noqa: ANN401
    try:
        return ip_address(client[0]).is_loopback
    except (TypeError, ValueError, IndexError):
        return False
