"""From headers to `Credentials`."""

from collections.abc import Mapping
from typing import Any

from tidegate.auth import Credentials

_BEARER = "bearer "
_PROXIED = frozenset({b"x-forwarded-for", b"forwarded", b"x-real-ip"})


def read_credentials(headers: Mapping[bytes, bytes], client: Any) -> Credentials:  # noqa: ANN401 - ASGI's (host, port)
    """The key in `authorization: Bearer`, `x-api-key` or `api-key`, the first that is there; and where from.

    Where a proxy says that it speaks for somebody else, the address cannot be told.
    """
    is_direct = client is not None and _PROXIED.isdisjoint(headers)
    host = headers.get(b"host", b"").decode("latin-1")
    return Credentials(_key(headers), str(client[0]) if is_direct else "", host)


def _key(headers: Mapping[bytes, bytes]) -> str | None:
    authorization = headers.get(b"authorization", b"").decode("latin-1")
    if authorization[: len(_BEARER)].lower() == _BEARER:
        return authorization[len(_BEARER) :].strip() or None
    for name in (b"x-api-key", b"api-key"):
        if key := headers.get(name, b"").decode("latin-1").strip():
            return key
    return None
