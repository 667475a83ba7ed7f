"""Reads `Credentials` from the request headers."""

from collections.abc import Mapping
from typing import Any

from tidegate.auth import Credentials

_BEARER = "bearer "
_FORWARDING_HEADERS = frozenset({b"x-forwarded-for", b"forwarded", b"x-real-ip"})


def read_credentials(headers: Mapping[bytes, bytes], client: Any) -> Credentials:  # noqa: ANN401 - ASGI's (host, port)
    """The caller's key, its address and the host it called.

    The key is the first found of `authorization: Bearer`, `x-api-key` and `api-key`. If a header shows that a proxy
    forwarded the request, the caller's address is unknown, and left empty.
    """
    is_direct = client is not None and _FORWARDING_HEADERS.isdisjoint(headers)
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
