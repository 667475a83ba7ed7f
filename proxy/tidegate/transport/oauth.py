"""Where a bearer token comes from: a token endpoint (RFC 6749, 4.4; RFC 7523, 2.2), or our own key (RFC 7523's JWT)."""

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
from tidegate.transport.decoding import decode
from tidegate.transport.jwt import Signer
from tidegate.transport.sessions import USER_AGENT, open_session, reason

_MAX_BODY_BYTES = 64 * 1024
_UNTOLD_LIFE_S = 300.0  # expires_in is only recommended
_MAX_LIFE_S = 30 * 86400.0
_ERROR_CODE = re.compile(r"[a-z_]{1,40}")
_TOKEN = re.compile(r"[!-~]+")
_ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


class TokenClient:
    """Asks token endpoints; owns the session, which is opened at first use and closed by `close`."""

    def __init__(self, timeout_s: float = 10.0) -> None:
        self._timeout_s = timeout_s
        self._session: aiohttp.ClientSession | None = None

    async def ask(self, url: str, form: Mapping[str, str], authorization: str | None = None) -> Token:
        """A token.

        Raises:
            UpstreamUnreachable, UpstreamTimeout: nobody answers, or not in time.
            UpstreamRefusedUs: the endpoint does not take what we show.
            UpstreamFailed: it answers with something else, or with too much.
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
            # asked so seldom that a kept connection would be a stale one
            self._session = open_session(aiohttp.TCPConnector(force_close=True), aiohttp.ClientTimeout(total=None))
        async with self._session.post(URL(url), data=body, headers=headers, allow_redirects=False) as answer:
            received = bytearray()
            while piece := await answer.content.readany():
                received += piece
                _check_size(received)
            decoded = bytearray()
            for piece in decode(answer.headers.getall(hdrs.CONTENT_ENCODING, ()), bytes(received)):
                decoded += piece
                _check_size(decoded)
            return answer.status, bytes(decoded)


def _check_size(body: bytearray) -> None:
    if len(body) > _MAX_BODY_BYTES:
        raise UpstreamFailed(f"The upstream's token endpoint answered over {_MAX_BODY_BYTES} bytes.")


class _TokenAnswer(msgspec.Struct):
    access_token: str
    token_type: str = "bearer"  # noqa: S105 - a word of the RFC
    expires_in: float | str | None = None


class _TokenRefusal(msgspec.Struct):
    error: str = ""


def parse(status: int, body: bytes) -> Token:
    """A token endpoint's answer (RFC 6749, 5); of its words only the error's code is repeated.

    Raises:
        UpstreamRefusedUs, UpstreamFailed: it is no token.
    """
    if status != 200:
        raise _refusal(status, body)
    try:
        answer = msgspec.json.decode(body, type=_TokenAnswer)
        life_s = _UNTOLD_LIFE_S if answer.expires_in is None else float(answer.expires_in)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise UpstreamFailed("The upstream's token endpoint answered with something that is no token.") from error
    is_token = answer.token_type.lower() == "bearer" and _TOKEN.fullmatch(answer.access_token)
    if not is_token or math.isnan(life_s) or life_s <= 0:
        raise UpstreamFailed("The upstream's token endpoint answered with a token that cannot be used.")
    return Token(answer.access_token, min(life_s, _MAX_LIFE_S))


def _refusal(status: int, body: bytes) -> ProxyError:
    if status not in {400, 401, 403}:
        return UpstreamFailed(f"The upstream's token endpoint answered {status}.")
    try:
        code = msgspec.json.decode(body, type=_TokenRefusal).error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        code = ""
    said = code if _ERROR_CODE.fullmatch(code) else str(status)
    return UpstreamRefusedUs(f"The upstream's token endpoint does not take our credentials ({said}).")


def client_credentials(config: OAuth2Config, secret: str, client: TokenClient) -> Issue:
    """With a secret that both sides know."""
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
        return await client.ask(config.token_url, form, authorization)

    return issue


def signed(config: PrivateKeyJwtConfig, signer: Signer, client: TokenClient, clock: Clock) -> Issue:
    """With a JWT: shown at the token endpoint or, where there is none, to the host."""
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
        return await client.ask(url, form | {"client_assertion": signer.sign(now_s=clock.now_s())})

    return issue


def _self_signed(config: PrivateKeyJwtConfig, signer: Signer, clock: Clock) -> Issue:
    async def issue() -> Token:
        return Token(signer.sign(now_s=clock.now_s()), config.lifetime_s)

    return issue
