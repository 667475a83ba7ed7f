"""`CredentialSpec`: a credential as it is configured, with its secret read. Two that are equal are the same credential."""

from collections.abc import Sequence

import msgspec

from tidegate.config.credentials import ApiKeyConfig, CredentialConfig, OAuth2Config, PrivateKeyJwtConfig
from tidegate.config.secret import Secret
from tidegate.errors import ConfigError
from tidegate.transport.jwt import Signer


class CredentialSpec(msgspec.Struct, frozen=True):
    """One credential.

    Attributes:
        config: what stands in the file; None: a plain key, with a weight of 1 and an account of its own.
        secret: the key, the client's secret or the private key; never shown.
    """

    config: CredentialConfig | None
    secret: str

    @property
    def weight(self) -> float:
        """Its share of the requests."""
        return 1.0 if self.config is None else self.config.weight

    @property
    def account(self) -> str | None:
        """Who shares its limits; None: nobody."""
        return None if self.config is None else self.config.account

    def __repr__(self) -> str:
        return f"Spec({self.config})"


def of_keys(api_keys: Sequence[str]) -> list[CredentialSpec]:
    """Plain keys."""
    return [CredentialSpec(None, key) for key in api_keys]


def read(api_keys: Sequence[Secret], credentials: Sequence[CredentialConfig], path: str) -> list[CredentialSpec]:
    """Read the secrets of an upstream's config, whose `path` is for refusals.

    Raises:
        ConfigError: a secret cannot be read, or is no key that can sign; the message does not show it.
    """
    plain = [CredentialSpec(None, _read(f"{path}.api_keys[{index}]", key)) for index, key in enumerate(api_keys)]
    return plain + [_spec(f"{path}.credentials[{index}]", config) for index, config in enumerate(credentials)]


def _spec(path: str, config: CredentialConfig) -> CredentialSpec:
    match config:
        case ApiKeyConfig():
            return CredentialSpec(config, _read(f"{path}.key", config.key))
        case OAuth2Config():
            return CredentialSpec(config, _read(f"{path}.client_secret", config.client_secret))
        case PrivateKeyJwtConfig():
            return CredentialSpec(config, _read_private_key(f"{path}.key", config))


def _read(path: str, secret: Secret) -> str:
    try:
        return secret.resolve()
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error


def _read_private_key(path: str, config: PrivateKeyJwtConfig) -> str:
    try:
        text = config.key.read()
        Signer(config, text)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error
    return text
