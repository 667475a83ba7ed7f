"""Resolves the keys in the config, and refuses a server that other machines can reach without keys."""

from collections.abc import Sequence

from tidegate import auth
from tidegate.config.auth import CallerConfig
from tidegate.config.engines import ExternalConfig
from tidegate.config.root import Config, is_loopback
from tidegate.config.secret import Secret
from tidegate.errors import ConfigError


def check_exposure(config: Config, *, source: str, no_auth: bool) -> None:
    """Refuse a config that opens the server to other machines by mistake.

    Raises:
        ConfigError: the address is not loopback, no keys are configured, and `--no-auth` was not given.
    """
    if not (is_loopback(config.server.host) or config.auth.keys or config.auth.callers or no_auth):
        raise ConfigError(
            f"{source}: server.host: {config.server.host} can be reached from other machines, and auth.keys is empty; "
            "set TIDEGATE_API_KEY (or auth.keys), or use --no-auth if everybody may use your keys and engines"
        )


def key_ring(config: Config, source: str, *, no_auth: bool) -> auth.KeyRing:
    """The keys that callers may use, and the admin key.

    Raises:
        ConfigError: a secret cannot be read.
    """
    keys = _resolve_all(config.auth.keys, f"{source}: auth.keys")
    admin = config.auth.admin_key
    admin_key = None if admin is None else _resolve(admin, f"{source}: auth.admin_key")
    callers = [
        (_resolve(caller.key, f"{source}: auth.callers.{name}.key"), _principal(name, caller))
        for name, caller in config.auth.callers.items()
    ]
    return auth.KeyRing(keys, admin_key, callers=callers, takes_any_host=no_auth)


def external_keys(config: Config, source: str) -> dict[str, list[str]]:
    """The API keys for engines that Tidegate does not start, by engine.

    Raises:
        ConfigError: a secret cannot be read.
    """
    return {
        name: _resolve_all(engine.api_keys, f"{source}: engines.{name}.api_keys")
        for name, engine in config.engines.items()
        if isinstance(engine, ExternalConfig)
    }


def _principal(name: str, caller: CallerConfig) -> auth.KeyPrincipal:
    return auth.KeyPrincipal(name, caller.reasoning_format, caller.reach, caller.priority)


def _resolve_all(secrets: Sequence[Secret], path: str) -> list[str]:
    return [_resolve(secret, f"{path}[{index}]") for index, secret in enumerate(secrets)]


def _resolve(secret: Secret, path: str) -> str:
    try:
        return secret.resolve()
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error
