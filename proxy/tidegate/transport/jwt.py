"""Signs the JWTs that prove who we are (RFC 7523), with the operator's private key.

The library is an extra, `pip install 'tidegate[jwt]'`, and slow to import: only those pay for it who have a key.
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
    """One key and what it says.

    Args:
        config: the claims.
        key: PEM or JWK.
        load: imports a module.

    Raises:
        ValueError: the library is missing, or the key cannot sign so; the message does not show it.
    """

    def __init__(self, config: PrivateKeyJwtConfig, key: str, load: Callable[[str], Any] = import_module) -> None:
        self._config = config
        self._jose = _jose(load)
        self._key = self._import(key)
        self.sign(now_s=0.0)  # a public key, or one of another curve, shows only now

    def sign(self, *, now_s: float) -> str:
        """A JWT that is good from `now_s` (seconds since the epoch) for its lifetime."""
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
            # RFC 9864 would have us write Ed25519; hosts still read EdDSA
            warnings.simplefilter("ignore", self._jose.errors.SecurityWarning)
            try:
                made: str = self._jose.jwt.encode(header, claims, self._key, algorithms=[config.algorithm])
            except (self._jose.errors.JoseError, ValueError) as error:
                raise ValueError(_no_key(config)) from error
        return made

    def _import(self, key: str) -> Any:  # noqa: ANN401 - a key of the library's
        kind = _KEY_TYPES[self._config.algorithm]
        try:
            jwk = msgspec.json.decode(key, type=dict[str, Any]) if key.startswith("{") else None
            made = self._jose.jwk.import_key(key if jwk is None else jwk, kind)
        except (self._jose.errors.JoseError, ValueError, TypeError, AttributeError) as error:
            raise ValueError(_no_key(self._config)) from error
        return made


def _jose(load: Callable[[str], Any]) -> Any:  # noqa: ANN401 - a module
    try:
        for name in ("joserfc.jwt", "joserfc.jwk", "joserfc.errors"):
            load(name)
        return load("joserfc")
    except ImportError as error:
        raise ValueError("signing needs a library that is not installed; pip install 'tidegate[jwt]'") from error


def _no_key(config: PrivateKeyJwtConfig) -> str:
    return (
        f"what {config.key.reference} holds is no private key for {config.algorithm}; it takes an unencrypted PEM or "
        f"JWK ({_KEY_TYPES[config.algorithm]})"
    )
