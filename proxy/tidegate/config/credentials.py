"""`credentials:` what we show an upstream, where a plain key is not all there is to say."""

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
    """What every credential has."""

    weight: Annotated[
        float, Meta(gt=0, le=1000, description="Its share of the requests, beside those of the others; api_keys: 1.")
    ] = 1.0
    account: Annotated[
        Text | None, Meta(description="Credentials with the same account are limited together; null: on its own.")
    ] = None


class ApiKeyConfig(_Credential, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="api_key"):
    """A key, as in api_keys."""

    key: Annotated[Secret, Meta(description="The key.")]


class OAuth2Config(_Credential, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="oauth2"):
    """OAuth 2.0 client credentials (RFC 6749, 4.4); the token is renewed in time."""

    token_url: Annotated[TokenUrl, Meta(description="Where tokens are to be had.")]
    client_id: Annotated[Text, Meta(description="Our name there.")]
    client_secret: Annotated[Secret, Meta(description="Our secret there.")]
    auth_method: Annotated[AuthMethod, Meta(description="Both go in the header (basic) or in the form (post).")] = (
        "basic"
    )
    scope: Annotated[Text | None, Meta(description="What the token is for, where the endpoint asks.")] = None
    audience: Annotated[Text | None, Meta(description="Who the token is for, where the endpoint asks.")] = None
    extra: Annotated[Mapping[str, str], Meta(description="Further fields of the form; no secrets.")] = {}


class PrivateKeyJwtConfig(_Credential, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="private_key_jwt"):
    """A JWT that we sign (RFC 7523): with token_url it gets a token there, without it goes to the host itself."""

    key: Annotated[Secret, Meta(description="The private key: PEM or JWK, best in a file.")]
    algorithm: Annotated[Algorithm, Meta(description="RS256, ES256 or EdDSA; as the key is.")] = "RS256"
    issuer: Annotated[Text, Meta(description="iss: the client's id, with token_url.")]
    subject: Annotated[Text | None, Meta(description="sub; null: as issuer.")] = None
    audience: Annotated[Text | None, Meta(description="aud; null: token_url.")] = None
    key_id: Annotated[Text | None, Meta(description="kid, which says which of our keys it was.")] = None
    lifetime_s: Annotated[Seconds, Meta(description="How long one is good for.")] = 300.0
    token_url: Annotated[
        TokenUrl | None, Meta(description="Where the JWT gets a token (client_credentials); null: it is the token.")
    ] = None
    scope: Annotated[Text | None, Meta(description="What the token is for; without token_url, a claim.")] = None
    extra: Annotated[Mapping[str, str], Meta(description="With token_url: further fields of the form.")] = {}


CredentialConfig = ApiKeyConfig | OAuth2Config | PrivateKeyJwtConfig
CredentialKindName = Literal["api_key", "oauth2", "private_key_jwt"]


def faults(credentials: Sequence[CredentialConfig]) -> Iterator[str]:
    """What cannot work: key, fault and cure, to be set behind the path of the list."""
    for index, credential in enumerate(credentials):
        if isinstance(credential, PrivateKeyJwtConfig) and credential.token_url is None:
            if credential.audience is None:
                yield f"[{index}].audience: missing; say who reads the JWT, or set token_url"
            if credential.extra:
                yield f"[{index}].extra: these go to a token_url, and there is none; take them out"
