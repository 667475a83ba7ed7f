"""`CredentialSpec`: a credential as it is configured, with its secret read. Equal specs are the same credential."""

from collections.abc import Sequence

import msgspec

from tidegate.config.credentials import ApiKeyConfig, CredentialConfig, OAuth2Config, PrivateKeyJwtConfig
from tidegate.config.secret import Secret
from tidegate.errors import ConfigError
from tidegate.transport.jwt import Signer


class CredentialSpec(msgspec.Struct, frozen=True):
    """One configured credential.

    Attributes:
        config: the entry in the config file; None: a plain key (`api_keys`), with a weight of 1 and its own limits.
        secret: the key, the client's secret or the private key; `repr` does not show it.
    """

    config: CredentialConfig | None
    secret: str

    @property
    def weight(self) -> float:
        """The share of the requests that this credential is used for, relative to the other weights."""
        return 1.0 if self.config is None else self.config.weight

    @property
    def account(self) -> str | None:
        """The account, whose credentials share their rate limits; None: this credential has its own limits."""
        return None if self.config is None else self.config.account

    def __repr__(self) -> str:
        return f"CredentialSpec({self.config})"


def of_keys(api_keys: Sequence[str]) -> list[CredentialSpec]:
    """Return a spec for each plain key."""
    return [CredentialSpec(None, key) for key in api_keys]


def read(api_keys: Sequence[Secret], credentials: Sequence[CredentialConfig], path: str) -> list[CredentialSpec]:
    """Read the secrets of an upstream's config.

    Args:
        api_keys: the upstream's `api_keys`.
        credentials: the upstream's `credentials`.
        path: the file and key of the upstream, for error messages.

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
