"""The credentials of a config, with their secrets read."""

import pytest
from joserfc import jwk

from tidegate.config.load import parse
from tidegate.errors import ConfigError
from tidegate.transport import credential_specs as specs


def read(text: str) -> list[specs.CredentialSpec]:
    host = parse(f"upstreams: {{h: {{base_url: https://h/v1, {text}}}}}", "f").upstreams["h"]
    return specs.read(host.api_keys, host.credentials, "f: upstreams.h")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "key").write_text("sk-abc\n")
    (tmp_path / "pem").write_bytes(jwk.ECKey.generate_key("P-256").as_pem(private=True))
    (tmp_path / "spaced").write_text("sk abc")
    return tmp_path


def test_each_kind_has_its_secret(folder):
    found = read(
        f"api_keys: [file:{folder}/key], credentials: ["
        f"{{kind: api_key, key: file:{folder}/key, weight: 3, account: x}},"
        f"{{kind: oauth2, token_url: https://t/x, client_id: c, client_secret: file:{folder}/key}},"
        f"{{kind: private_key_jwt, key: file:{folder}/pem, algorithm: ES256, issuer: c, audience: h}}]"
    )
    assert [spec.secret for spec in found[:3]] == ["sk-abc"] * 3
    assert found[3].secret.startswith("-----BEGIN PRIVATE KEY-----\n")
    assert [(spec.weight, spec.account) for spec in found] == [(1, None), (3, "x"), (1, None), (1, None)]
    assert not any("sk-abc" in repr(spec) or "BEGIN" in repr(spec) for spec in found)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("api_keys: [file:FOLDER/key, file:FOLDER/none]", "api_keys[1]: the file FOLDER/none cannot be read"),
        (
            "credentials: [{kind: api_key, key: file:FOLDER/spaced}]",
            "credentials[0].key: what file:FOLDER/spaced holds cannot be sent in a header",
        ),
        (
            "credentials: [{kind: oauth2, token_url: https://t/x, client_id: c, client_secret: file:FOLDER/none}]",
            "credentials[0].client_secret: the file FOLDER/none cannot be read",
        ),
        (
            "credentials: [{kind: private_key_jwt, key: file:FOLDER/key, issuer: c, audience: h}]",
            "credentials[0].key: what file:FOLDER/key holds is no private key for RS256",
        ),
        (
            "credentials: [{kind: private_key_jwt, key: file:FOLDER/none, issuer: c, audience: h}]",
            "credentials[0].key: the file FOLDER/none cannot be read",
        ),
    ],
)
def test_a_secret_that_cannot_be_read_is_refused_with_the_path_of_its_key(folder, text, message):
    with pytest.raises(ConfigError) as caught:
        read(text.replace("FOLDER", str(folder)))
    assert caught.value.message.startswith(f"f: upstreams.h.{message}".replace("FOLDER", str(folder)))
    assert "sk-abc" not in caught.value.message


def test_specs_are_equal_if_their_config_and_secret_are(folder):
    text = f"credentials: [{{kind: api_key, key: file:{folder}/key}}]"
    before = read(text)
    assert read(text) == before
    (folder / "key").write_text("sk-def")
    assert read(text) != before
