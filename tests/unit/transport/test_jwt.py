"""A signed JWT can be verified with the public key, and holds the configured claims."""

import json

import pytest
from joserfc import jwk, jwt

from tidegate.config.credentials import PrivateKeyJwtConfig
from tidegate.config.secret import Secret
from tidegate.transport.jwt import Signer

KEYS = {
    "RS256": jwk.RSAKey.generate_key(2048),
    "ES256": jwk.ECKey.generate_key("P-256"),
    "EdDSA": jwk.OKPKey.generate_key("Ed25519"),
}
NOW_S = 1_700_000_000.5


def config(**fields) -> PrivateKeyJwtConfig:
    return PrivateKeyJwtConfig(**{"key": Secret("file:key.pem"), "issuer": "us", "audience": "them"} | fields)


def pem(key) -> str:
    return key.as_pem(private=True).decode()


@pytest.mark.filterwarnings("ignore:EdDSA is deprecated")
@pytest.mark.parametrize("algorithm", KEYS)
@pytest.mark.parametrize("write", [pem, lambda key: json.dumps(key.as_dict(private=True))], ids=["pem", "jwk"])
def test_each_algorithm_signs_with_its_key(algorithm, write):
    key = KEYS[algorithm]
    signed = Signer(config(algorithm=algorithm, key_id="k1"), write(key)).sign(now_s=NOW_S)
    public = jwk.import_key(key.as_dict(private=False))
    token = jwt.decode(signed, public, algorithms=[algorithm])
    assert (token.header["alg"], token.header["kid"]) == (algorithm, "k1")
    jti = token.claims.pop("jti")
    assert (len(jti), token.claims) == (
        32,
        {"iss": "us", "sub": "us", "aud": "them", "iat": 1_700_000_000, "exp": 1_700_000_300},
    )


@pytest.mark.parametrize(
    ("fields", "claims"),
    [
        ({"subject": "me", "scope": "read"}, {"sub": "me", "scope": "read", "aud": "them"}),
        ({"audience": None, "token_url": "https://t/x"}, {"sub": "us", "aud": "https://t/x"}),
        ({"token_url": "https://t/x", "scope": "read"}, {"sub": "us", "aud": "them"}),  # the scope is sent in the form
    ],
)
def test_the_claims_are_those_of_the_config(fields, claims):
    signed = Signer(config(algorithm="ES256", **fields), pem(KEYS["ES256"])).sign(now_s=NOW_S)
    signed_claims = jwt.decode(signed, KEYS["ES256"], algorithms=["ES256"]).claims
    assert {name: value for name, value in signed_claims.items() if name in {"sub", "aud", "scope"}} == claims


def test_each_jwt_has_an_id_of_its_own():
    signer = Signer(config(algorithm="ES256"), pem(KEYS["ES256"]))
    first, second = (jwt.decode(signer.sign(now_s=NOW_S), KEYS["ES256"]).claims["jti"] for _ in range(2))
    assert first != second


@pytest.mark.parametrize(
    "key",
    [
        "x",
        "sk-abc",
        "{",
        "{}",
        '{"kty":"RSA","n":5}',
        '{"kty":"oct","k":"c2stYWJj"}',
        '{"kty":"EC","crv":"P-256","x":"sk-abc","y":"b","d":"c"}',
        "-----BEGIN PRIVATE KEY-----\nsk-abc\n-----END PRIVATE KEY-----",
        pem(KEYS["RS256"]),
        pem(jwk.ECKey.generate_key("P-384")),
        KEYS["ES256"].as_pem(private=False).decode(),
    ],
)
def test_a_key_that_cannot_sign_is_refused_and_not_repeated(key):
    with pytest.raises(ValueError, match=r"what file:key.pem holds is no private key for ES256; it takes") as caught:
        Signer(config(algorithm="ES256"), key)
    assert "sk-abc" not in str(caught.value)


def test_if_the_library_is_missing_the_error_says_how_to_install_it():
    def load(name: str):
        raise ImportError(name)

    with pytest.raises(ValueError, match=r"not installed; pip install 'tidegate\[jwt\]'"):
        Signer(config(), pem(KEYS["RS256"]), load)
