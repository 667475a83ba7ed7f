"""`credentials:` of an upstream; every error message names the key and the cure."""

import pytest

from tidegate.config.credentials import ApiKeyConfig, OAuth2Config, PrivateKeyJwtConfig
from tidegate.config.load import parse
from tidegate.config.reference import dump
from tidegate.config.secret import Secret
from tidegate.errors import ConfigError

OAUTH = "kind: oauth2, token_url: https://t/x, client_id: c, client_secret: env:S"
JWT = "kind: private_key_jwt, key: file:/k.pem, issuer: c"


def config_of(*credentials: str):
    listed = ", ".join(f"{{{credential}}}" for credential in credentials)
    return parse(f"upstreams: {{a: {{base_url: https://h/v1, credentials: [{listed}]}}}}", "f")


def test_each_kind_is_read():
    config = config_of("kind: api_key, key: env:K, weight: 2.5, account: x", OAUTH, f"{JWT}, audience: h")
    assert config.upstreams["a"].credentials == (
        ApiKeyConfig(key=Secret("env:K"), weight=2.5, account="x"),
        OAuth2Config(token_url="https://t/x", client_id="c", client_secret=Secret("env:S")),
        PrivateKeyJwtConfig(key=Secret("file:/k.pem"), issuer="c", audience="h"),
    )
    assert parse(dump(config), "dumped") == config


@pytest.mark.parametrize(
    ("credential", "message"),
    [
        ("kind: api_kye, key: env:K", "[1].kind: 'api_kye' is not a known value; did you mean api_key?"),
        ("kind: api_key, kye: env:K", "[1].kye: unknown key; did you mean key?"),
        (f"{OAUTH}, scoop: x", "[1].scoop: unknown key; did you mean scope?"),
        (f"{OAUTH}, auth_method: bsaic", "[1].auth_method: 'bsaic' is not a known value; did you mean basic?"),
        ("kind: api_key, key: env:K, weight: 0", "[1].weight: must be a number, more than 0"),
        ("kind: api_key, key: env:K, weight: .nan", "[1].weight: "),
        ("kind: api_key, key: env:K, account: ''", "[1].account: "),
        (
            f"{OAUTH}, token_url: 't/x'".replace("token_url: https://t/x, ", ""),
            "[1].token_url: must be text in another format; write it as https://HOST/PATH",
        ),
        (f"{JWT}", "[1].audience: missing; write the audience of the JWT, or set token_url"),
        (f"{JWT}, audience: h, extra: {{a: b}}", "[1].extra: these are fields for token_url, which is not set; take"),
        (f"{JWT}, audience: h, algorithm: RS265", "[1].algorithm: 'RS265' is not a known value; did you mean RS256?"),
        (f"{JWT}, audience: h, lifetime_s: 0", "[1].lifetime_s: must be a number, more than 0"),
        ("key: env:K", "[1]: kind is missing"),
        ("kind: api_key, key: sk-abc", "[1].key: a secret is not written in the config"),
        (
            f"{JWT}, audience: h, key: sk-abc".replace("key: file:/k.pem, ", ""),
            "[1].key: a secret is not written in the config",
        ),
    ],
)
def test_a_setting_that_cannot_work_is_refused_with_its_key_and_the_cure(credential, message):
    with pytest.raises(ConfigError) as caught:
        config_of("kind: api_key, key: env:K", credential)
    assert caught.value.message.startswith(f"f: upstreams.a.credentials{message}")
    assert "sk-abc" not in caught.value.message


@pytest.mark.parametrize("url", ["https://user:sk-abc@t/x", "https://sk-abc@t/x", "ftp://sk-abc", "https://t/x#sk-abc"])
def test_a_token_url_with_a_secret_in_it_is_refused_and_not_repeated(url):
    with pytest.raises(ConfigError, match="write it as https://HOST/PATH") as caught:
        config_of(f"{OAUTH}, scope: x".replace("https://t/x", f"'{url}'"))
    assert "sk-abc" not in caught.value.message
