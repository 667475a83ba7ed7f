"""`credentials:` how Tidegate authenticates at an upstream, where a plain key in `api_keys` is not enough."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Literal

from msgspec import Meta, Struct

from tidegate.config.secret import Secret
from tidegate.config.server import Seconds

TOKEN_URL = r"^https?://[^\s/@?#]+(/[^\s#]*)?$(?!\n)"  # noqa: S105 - a pattern
Text = Annotated[str, Meta(min_length=1)]
TokenUrl = Annotated[str, Meta(pattern=TOKEN_URL)]
Algorithm = Literal["RS256", "ES256", "EdDSA"]
AuthMethod = Literal["basic", "post"]


class _Credential(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """The keys that every kind of credential has."""

    weight: Annotated[
        float, Meta(gt=0, le=1000, description="Its share of the requests, relative to the others; api_keys have 1.")
    ] = 1.0
    account: Annotated[
        Text | None,
        Meta(description="Credentials with the same account share their rate limits; null: it has its own."),
    ] = None


class ApiKeyConfig(_Credential, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="api_key"):
    """A key, as in api_keys."""

    key: Annotated[Secret, Meta(description="The key.")]


class OAuth2Config(_Credential, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="oauth2"):
    """OAuth 2.0 client credentials (RFC 6749, 4.4); the token is renewed in time."""

    token_url: Annotated[TokenUrl, Meta(description="The token endpoint.")]
    client_id: Annotated[Text, Meta(description="The client id.")]
    client_secret: Annotated[Secret, Meta(description="The client secret.")]
    auth_method: Annotated[
        AuthMethod, Meta(description="Id and secret are sent in the Authorization header (basic) or the form (post).")
    ] = "basic"
    scope: Annotated[Text | None, Meta(description="The scope, if the endpoint requires one.")] = None
    audience: Annotated[Text | None, Meta(description="The audience, if the endpoint requires one.")] = None
    extra: Annotated[Mapping[str, str], Meta(description="Further fields of the form; no secrets.")] = {}


class PrivateKeyJwtConfig(_Credential, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="private_key_jwt"):
    """A JWT that Tidegate signs (RFC 7523): exchanged for a token at token_url or, without it, sent to the host."""

    key: Annotated[Secret, Meta(description="The private key: PEM or JWK, best in a file.")]
    algorithm: Annotated[Algorithm, Meta(description="RS256, ES256 or EdDSA; has to fit the key.")] = "RS256"
    issuer: Annotated[Text, Meta(description="The claim iss; with token_url: the client id.")]
    subject: Annotated[Text | None, Meta(description="The claim sub; null: the issuer.")] = None
    audience: Annotated[Text | None, Meta(description="The claim aud; null: token_url.")] = None
    key_id: Annotated[Text | None, Meta(description="The header kid, by which the host finds the public key.")] = None
    lifetime_s: Annotated[Seconds, Meta(description="How long a JWT is valid.")] = 300.0
    token_url: Annotated[
        TokenUrl | None, Meta(description="The token endpoint (client_credentials); null: the JWT itself is the token.")
    ] = None
    scope: Annotated[Text | None, Meta(description="The scope: a field of the form, or without token_url a claim.")] = (
        None
    )
    extra: Annotated[Mapping[str, str], Meta(description="With token_url: further fields of the form.")] = {}


CredentialConfig = ApiKeyConfig | OAuth2Config | PrivateKeyJwtConfig
CredentialKindName = Literal["api_key", "oauth2", "private_key_jwt"]


def faults(credentials: Sequence[CredentialConfig]) -> Iterator[str]:
    """Yield the settings that cannot work: each as key, fault and cure, to be appended to the path of the list."""
    for index, credential in enumerate(credentials):
        if isinstance(credential, PrivateKeyJwtConfig) and credential.token_url is None:
            if credential.audience is None:
                yield f"[{index}].audience: missing; write the audience of the JWT, or set token_url"
            if credential.extra:
                yield f"[{index}].extra: these are fields for token_url, which is not set; take them out"
