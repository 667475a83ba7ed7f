"""Bearer tokens: from a token endpoint (RFC 6749, 4.4; RFC 7523, 2.2), or a JWT signed with the operator's key."""

import asyncio
import base64
import math
import re
from collections.abc import Mapping
from urllib.parse import quote_plus, urlencode

import aiohttp
import msgspec
from aiohttp import hdrs
from yarl import URL

from tidegate.clock import Clock
from tidegate.config.credentials import OAuth2Config, PrivateKeyJwtConfig
from tidegate.errors import ProxyError, UpstreamFailed, UpstreamRefusedUs, UpstreamTimeout, UpstreamUnreachable
from tidegate.transport.auth_headers import Issue, Token
from tidegate.transport.content_coding import decode
from tidegate.transport.jwt import Signer
from tidegate.transport.sessions import USER_AGENT, open_session, reason

_MAX_BODY_BYTES = 64 * 1024
_DEFAULT_LIFETIME_S = 300.0  # where the answer has no expires_in, which RFC 6749 only recommends
_MAX_LIFETIME_S = 30 * 86400.0
_ERROR_CODE = re.compile(r"[a-z_]{1,40}")
_TOKEN = re.compile(r"[!-~]+")
_ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


class TokenClient:
    """Requests tokens from token endpoints; owns the session, which is opened at first use and closed by `close`.

    Args:
        timeout_s: the time limit for one request, from the connection to the end of the answer.
    """

    def __init__(self, timeout_s: float = 10.0) -> None:
        self._timeout_s = timeout_s
        self._session: aiohttp.ClientSession | None = None

    async def request_token(self, url: str, form: Mapping[str, str], authorization: str | None = None) -> Token:
        """Send a POST to the token endpoint, and return the token it issues.

        Args:
            url: the token endpoint.
            form: the fields of the body, not yet encoded.
            authorization: the value of the Authorization header; None: the request has none.

        Raises:
            UpstreamUnreachable: no connection could be opened, or it broke.
            UpstreamTimeout: the answer was not complete in time.
            UpstreamRefusedUs: the endpoint does not accept the credentials.
            UpstreamFailed: the answer is not a usable token, or too long.
        """
        headers: dict[str, str] = {
            hdrs.ACCEPT: "application/json",
            hdrs.ACCEPT_ENCODING: "identity",
            hdrs.CONTENT_TYPE: "application/x-www-form-urlencoded",
            hdrs.USER_AGENT: USER_AGENT,
        }
        if authorization is not None:
            headers[hdrs.AUTHORIZATION] = authorization
        try:
            async with asyncio.timeout(self._timeout_s):
                status, body = await self._post(url, urlencode(form).encode(), headers)
        except TimeoutError as error:
            raise UpstreamTimeout("The upstream's token endpoint did not answer in time.") from error
        except (aiohttp.ClientError, OSError) as error:
            raise UpstreamUnreachable(f"The upstream's token endpoint cannot be reached: {reason(error)}.") from error
        return parse(status, body)

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _post(self, url: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        if self._session is None:
            # tokens are fetched so seldom that a kept connection would have been closed by the host
            self._session = open_session(aiohttp.TCPConnector(force_close=True), aiohttp.ClientTimeout(total=None))
        async with self._session.post(URL(url), data=body, headers=headers, allow_redirects=False) as answer:
            received = bytearray()
            while chunk := await answer.content.readany():
                received += chunk
                _check_size(received)
            decoded = bytearray()
            for chunk in decode(answer.headers.getall(hdrs.CONTENT_ENCODING, ()), bytes(received)):
                decoded += chunk
                _check_size(decoded)
            return answer.status, bytes(decoded)


def _check_size(body: bytearray) -> None:
    if len(body) > _MAX_BODY_BYTES:
        raise UpstreamFailed(f"The upstream's token endpoint answered over {_MAX_BODY_BYTES} bytes.")


class _TokenAnswer(msgspec.Struct):
    access_token: str
    token_type: str = "bearer"  # noqa: S105 - a token type of the RFC
    expires_in: float | str | None = None


class _TokenRefusal(msgspec.Struct):
    error: str = ""


def parse(status: int, body: bytes) -> Token:
    """Return the token in a token endpoint's answer (RFC 6749, 5).

    Of the answer's own text only the error code appears in an error message.

    Raises:
        UpstreamRefusedUs: the endpoint does not accept the credentials (400, 401 or 403).
        UpstreamFailed: another status, or no usable token.
    """
    if status != 200:
        raise _refusal(status, body)
    try:
        answer = msgspec.json.decode(body, type=_TokenAnswer)
        lifetime_s = _DEFAULT_LIFETIME_S if answer.expires_in is None else float(answer.expires_in)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise UpstreamFailed("The upstream's token endpoint answered with something that is no token.") from error
    is_token = answer.token_type.lower() == "bearer" and _TOKEN.fullmatch(answer.access_token)
    if not is_token or math.isnan(lifetime_s) or lifetime_s <= 0:
        raise UpstreamFailed("The upstream's token endpoint answered with a token that cannot be used.")
    return Token(answer.access_token, min(lifetime_s, _MAX_LIFETIME_S))


def _refusal(status: int, body: bytes) -> ProxyError:
    if status not in {400, 401, 403}:
        return UpstreamFailed(f"The upstream's token endpoint answered {status}.")
    try:
        code = msgspec.json.decode(body, type=_TokenRefusal).error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        code = ""
    detail = code if _ERROR_CODE.fullmatch(code) else str(status)
    return UpstreamRefusedUs(f"The upstream's token endpoint does not accept our credentials ({detail}).")


def client_credentials(config: OAuth2Config, secret: str, client: TokenClient) -> Issue:
    """Return a function that fetches tokens with a client id and a shared secret (RFC 6749, 4.4)."""
    form = {**config.extra, "grant_type": "client_credentials"}
    authorization = None
    if config.scope is not None:
        form["scope"] = config.scope
    if config.audience is not None:
        form["audience"] = config.audience
    if config.auth_method == "post":
        form |= {"client_id": config.client_id, "client_secret": secret}
    else:  # both are encoded before they are joined (RFC 6749, 2.3.1)
        pair = f"{quote_plus(config.client_id)}:{quote_plus(secret)}"
        authorization = f"Basic {base64.b64encode(pair.encode()).decode()}"

    async def issue() -> Token:
        return await client.request_token(config.token_url, form, authorization)

    return issue


def signed(config: PrivateKeyJwtConfig, signer: Signer, client: TokenClient, clock: Clock) -> Issue:
    """Return a function that provides tokens by signing a JWT.

    The JWT is exchanged at the token endpoint (RFC 7523, 2.2); where none is configured, it is the token itself.
    """
    url = config.token_url
    if url is None:
        return _self_signed(config, signer, clock)
    form = {
        **config.extra,
        "grant_type": "client_credentials",
        "client_id": config.subject or config.issuer,
        "client_assertion_type": _ASSERTION,
    }
    if config.scope is not None:
        form["scope"] = config.scope

    async def issue() -> Token:
        return await client.request_token(url, form | {"client_assertion": signer.sign(now_s=clock.now_s())})

    return issue


def _self_signed(config: PrivateKeyJwtConfig, signer: Signer, clock: Clock) -> Issue:
    async def issue() -> Token:
        return Token(signer.sign(now_s=clock.now_s()), config.lifetime_s)

    return issue
