"""Signs the JWTs that prove Tidegate's identity to a host (RFC 7523), with the operator's private key.

The library is an extra, `pip install 'tidegate[jwt]'`. It is slow to import, so it is imported only if there is a key.
"""

import secrets
import warnings
from collections.abc import Callable
from importlib import import_module
from typing import Any

import msgspec

from tidegate.config.credentials import Algorithm, PrivateKeyJwtConfig

_KEY_TYPES: dict[Algorithm, str] = {"RS256": "RSA", "ES256": "EC", "EdDSA": "OKP"}


class Signer:
    """Signs JWTs with one key.

    Args:
        config: the claims and the algorithm.
        key: the private key, as PEM or JWK.
        load: imports a module by its name.

    Raises:
        ValueError: the library is missing, or the key cannot sign with this algorithm; the message does not show it.
    """

    def __init__(self, config: PrivateKeyJwtConfig, key: str, load: Callable[[str], Any] = import_module) -> None:
        self._config = config
        self._jose = _jose(load)
        self._key = self._import(key)
        self.sign(now_s=0.0)  # fails for a public key or a key of another curve, which can be imported all the same

    def sign(self, *, now_s: float) -> str:
        """Return a JWT that is valid from `now_s` (seconds since the epoch) for the configured lifetime."""
        config = self._config
        header = {"alg": config.algorithm} | ({} if config.key_id is None else {"kid": config.key_id})
        claims = {
            "iss": config.issuer,
            "sub": config.subject or config.issuer,
            "aud": config.audience or config.token_url,
            "iat": int(now_s),
            "exp": int(now_s + config.lifetime_s),
            "jti": secrets.token_hex(16),
        }
        if config.token_url is None and config.scope is not None:
            claims["scope"] = config.scope
        with warnings.catch_warnings():
            # RFC 9864 replaces EdDSA by Ed25519, and the library warns of the old name; hosts still expect EdDSA
            warnings.simplefilter("ignore", self._jose.errors.SecurityWarning)
            try:
                encoded: str = self._jose.jwt.encode(header, claims, self._key, algorithms=[config.algorithm])
            except (self._jose.errors.JoseError, ValueError) as error:
                raise ValueError(_unusable_key(config)) from error
        return encoded

    def _import(self, key: str) -> Any:  # noqa: ANN401 - the library's key
        kind = _KEY_TYPES[self._config.algorithm]
        try:
            jwk = msgspec.json.decode(key, type=dict[str, Any]) if key.startswith("{") else None
            imported = self._jose.jwk.import_key(key if jwk is None else jwk, kind)
        except (self._jose.errors.JoseError, ValueError, TypeError, AttributeError) as error:
            raise ValueError(_unusable_key(self._config)) from error
        return imported


def _jose(load: Callable[[str], Any]) -> Any:  # noqa: ANN401 - a module
    try:
        for name in ("joserfc.jwt", "joserfc.jwk", "joserfc.errors"):
            load(name)
        return load("joserfc")
    except ImportError as error:
        raise ValueError("signing needs a library that is not installed; pip install 'tidegate[jwt]'") from error


def _unusable_key(config: PrivateKeyJwtConfig) -> str:
    return (
        f"what {config.key.reference} holds is no private key for {config.algorithm}; it takes an unencrypted PEM or "
        f"JWK ({_KEY_TYPES[config.algorithm]})"
    )
