"""The requests to one upstream and its answers; aiohttp's exceptions are translated to Tidegate's here.

HTTP/1.1 only. An idle connection is kept for less time than the upstream keeps it. The other fixed settings are in
`sessions`.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NoReturn

import aiohttp
import msgspec
from aiohttp import hdrs
from aiohttp.abc import AbstractResolver
from yarl import URL

from tidegate.deadline import Deadline, Deadlines
from tidegate.errors import UpstreamError, UpstreamFailed, UpstreamTimeout, UpstreamUnreachable
from tidegate.protocol.chat import MAX_ANSWER_BYTES
from tidegate.transport.auth_headers import Headers
from tidegate.transport.content_coding import Decoder, decoder_for
from tidegate.transport.credential_specs import of_keys
from tidegate.transport.credentials import ChosenCredential, CredentialPool
from tidegate.transport.pool import has_connected
from tidegate.transport.sessions import open_connector, open_session, reason, translate

_READ_BYTES = 256 * 1024
_DRAIN_S = 1.0
_ERROR_BODY_S, _MAX_ERROR_BODY_BYTES = 5.0, 1024 * 1024
_MIN_LIMIT_S = 0.001
_NO_TIMEOUT = aiohttp.ClientTimeout(total=None, connect=None, sock_read=None, sock_connect=None)  # see `Deadline`
# The cache of URLs is limited, as a path may hold a deployment's name that comes from the caller.
_MAX_URLS = 256
_MAX_KEPT_PATH = 256


class Timeouts(msgspec.Struct, frozen=True, kw_only=True):
    """How long to wait for an upstream, in seconds.

    Attributes:
        connect_s: for a connection.
        first_byte_s: for the first byte of a stream.
        answer_s: for the head of an answer that is not streamed, and once more for its body. For a stream: for
            everything that comes before its first content.
        idle_s: for the next event in the middle of an answer.
    """

    connect_s: float
    first_byte_s: float
    answer_s: float
    idle_s: float


class Response:
    """An answer whose head has arrived. Its owner closes it; closing it early closes the connection, so the host stops.

    Attributes:
        credential: the credential that was sent; the owner reports the outcome to it (see `credentials`).
        status: the HTTP status.
        headers: the answer's headers.
    """

    __slots__ = (
        "_answer",
        "_deadline",
        "_decoder",
        "_drain",
        "_ends_soon",
        "_has_begun",
        "_has_content",
        "_has_event",
        "_left_s",
        "_loop",
        "_pieces",
        "_timeouts",
        "credential",
        "headers",
        "status",
    )

    def __init__(
        self,
        answer: aiohttp.ClientResponse,
        credential: ChosenCredential,
        deadline: Deadline,
        timeouts: Timeouts,
        drain: Callable[[aiohttp.ClientResponse], None],
    ) -> None:
        self._answer = answer
        self._deadline = deadline
        self._timeouts = timeouts
        self._has_begun = self._has_event = self._has_content = False
        self._decoder: Decoder | None = None  # None: the body is not compressed
        self._pieces: Iterator[bytes] | None = None  # decoded pieces of the last read, not yet returned
        self._left_s = timeouts.answer_s  # the time left for all before the first content, or for a whole body
        self._loop = deadline.loop
        self._drain = drain
        self._ends_soon = False
        self.credential = credential
        self.status = answer.status
        self.headers: Mapping[str, str] = answer.headers

    async def read_some(self) -> bytes:
        """Wait for bytes, and return all that have arrived, decompressed; empty at the end of the body.

        Raises:
            UpstreamTimeout: no event (see `got_event`) within `idle_s`; no first event within `first_byte_s` (within
                `answer_s`, if the answer is not streamed or has begun with comments); or no content within `answer_s`.
            UpstreamUnreachable: the connection broke, or the transport was closed.
            UpstreamFailed: the body is compressed and cannot be decoded.
        """
        if self._pieces is not None and (piece := next(self._pieces, b"")):
            await asyncio.sleep(0)  # a few bytes may decode to many pieces, and other tasks have to run meanwhile
            return piece
        while True:
            begun_s = 0.0 if self._has_content else self._loop.time()
            self._deadline.start()
            try:
                data = await self._answer.content.readany()
            except asyncio.CancelledError:
                if self._deadline.has_expired():
                    raise _wait_error(
                        self._deadline, "The upstream stopped sending in the middle of its answer."
                    ) from None
                raise
            except (aiohttp.ClientError, OSError, RuntimeError) as error:
                self._break_off(error)
            finally:
                self._deadline.stop()
            if not self._has_content:
                self._left_s -= self._loop.time() - begun_s
            if not self._has_event:
                # comments before the first event: the host runs, and has the request in its queue
                self._deadline.limit_s = self._timeouts.answer_s
            if self._decoder is None and (self._has_begun or not self._begins_compressed(data)):
                return data
            if (decoded := self._decode(data)) or not data:
                return decoded

    def _break_off(self, error: aiohttp.ClientError | OSError | RuntimeError) -> NoReturn:
        if self._deadline.is_closed:
            raise _closed() from error
        if isinstance(error, RuntimeError):  # aiohttp raises it for a read after the connection was closed
            raise error
        raise UpstreamUnreachable(f"The connection to the upstream broke: {reason(error)}.") from error

    async def read_all(self) -> bytes:
        """Read and return the whole body, decompressed.

        Raises:
            UpstreamFailed: it is over `MAX_ANSWER_BYTES`, or cannot be decoded.
            UpstreamTimeout, UpstreamUnreachable: as `read_some`.
        """
        pieces, size = [], 0
        while (self._decoder is not None or not self._answer.content.at_eof()) and (piece := await self.read_some()):
            pieces.append(piece)
            self.got_event()
            size += len(piece)
            if size > MAX_ANSWER_BYTES:
                raise UpstreamFailed(f"The upstream's answer is over {MAX_ANSWER_BYTES} bytes.")
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def read_error_body(self) -> bytes:
        """Return the body of an error, or what arrives of it in 5 s and 1 MiB. Never raises an `UpstreamError`.

        An incomplete body is enough, as the status says the most about the error.
        """
        pieces, size, until_s = [], 0, self._loop.time() + min(_ERROR_BODY_S, self._timeouts.idle_s)
        try:
            while size < _MAX_ERROR_BODY_BYTES:
                self._has_event = True
                self._deadline.reset(max(until_s - self._loop.time(), _MIN_LIMIT_S))
                if not (piece := await self.read_some()):
                    break
                pieces.append(piece)
                size += len(piece)
        except UpstreamFailed as error:  # the body is compressed and cannot be decoded
            pieces = [error.message.encode()]
        except (UpstreamTimeout, UpstreamUnreachable):
            pass
        return b"".join(pieces)

    def _begins_compressed(self, data: bytes) -> bool:
        """Decide by the first bytes and Content-Encoding whether the body is compressed; if so, set `_decoder`."""
        self._has_begun = True
        if data:
            self._decoder = decoder_for(self._answer.headers.getall(hdrs.CONTENT_ENCODING, ()), data)
        return self._decoder is not None

    def _decode(self, data: bytes) -> bytes:
        """Return the first decoded piece of `data`, and keep the rest in `_pieces`.

        Empty `data` is the end of the body: then the data that the decoder has held back are returned.
        """
        if self._decoder is None:
            return data
        if not data:
            return b"".join(self._decoder.close())
        self._pieces = self._decoder.feed(data)
        return next(self._pieces, b"")

    def got_event(self, *, has_content: bool = False) -> None:
        """Report that the bytes just read held an event; the time limit for the next one begins. Comments are no event.

        Until an event `has_content`, all events together have `answer_s`: a host that keeps sending events without
        content times out as well.
        """
        self._has_event = True
        self._has_content = has_content
        idle_s = self._timeouts.idle_s
        self._deadline.reset(idle_s if has_content else min(idle_s, max(self._left_s, _MIN_LIMIT_S)))

    def expect_end(self) -> None:
        """Report that no more bytes are needed but the body is about to end, so that the connection can be reused."""
        self._ends_soon = True

    def close(self) -> None:
        """Report the end of the request to the credential, and call `give_back`. Never raises, never waits."""
        self.credential.done()
        self.give_back()

    def give_back(self) -> None:
        """Return the connection to the pool if the body has ended, or soon ends (see `expect_end`); else close it."""
        if self._answer.content.at_eof():
            self._answer.release()
        elif self._ends_soon:
            self._drain(self._answer)
        else:
            self._answer.close()


class Transport:
    """The connections to one upstream; owns the session, which is opened at first use, and closes it and `credentials`.

    Args:
        base_url: the URL that the paths of requests are appended to; for a Unix socket any `http://` host.
        timeouts: how long requests wait.
        credentials: the upstream's credentials; where omitted, no key is sent.
        socket_path: a Unix socket to connect to instead of the URL's host.
        max_connections: the most connections that are open at once; further requests wait for one.
        keepalive_s: how long an idle connection is kept; less than the upstream's own limit.
        resolver: resolves the host's name to addresses; the system's resolver where omitted.
    """

    def __init__(
        self,
        base_url: str,
        *,
        timeouts: Timeouts,
        credentials: CredentialPool | None = None,
        socket_path: str | None = None,
        max_connections: int = 1000,
        keepalive_s: float = 4.0,
        resolver: AbstractResolver | None = None,
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self.credentials = credentials or CredentialPool()
        self._timeouts = timeouts
        self._socket_path = socket_path
        self._max_connections = max_connections
        self._keepalive_s = keepalive_s
        self._resolver = resolver
        self._urls: dict[str, URL] = {}
        self._session: aiohttp.ClientSession | None = None
        self._is_closed = False
        self._deadlines = Deadlines()
        self._draining: set[asyncio.Task[None]] = set()

    @property
    def secrets(self) -> Sequence[str]:
        """The secrets that no message from the upstream may show to a caller."""
        return self.credentials.secrets

    @property
    def has_cooldowns(self) -> bool:
        """Whether `limited_for_s` or `refused_for_s` may be more than 0."""
        return self.credentials.has_cooldowns

    def limited_for_s(self) -> float:
        """Seconds until a credential may be used, as all are limited (429); 0: one may be used now."""
        return self.credentials.limited_for_s()

    def refused_for_s(self, model: str) -> float:
        """Seconds until a credential is in no cooldown of refusals (401, 402, 403) for that model; 0: there is one."""
        return self.credentials.refused_for_s(model)

    def use_timeouts(self, timeouts: Timeouts) -> None:
        """Use these timeouts for later requests; a changed `connect_s` has no effect once the session is open."""
        self._timeouts = timeouts

    def use_keys(self, api_keys: Sequence[str]) -> None:
        """Use these keys, in turn, for later requests."""
        self.credentials.replace(of_keys(api_keys))

    def use_port(self, port: int) -> None:
        """Send new requests to this port; the rest of the base URL stays the same."""
        self._base_url = str(URL(self._base_url, encoded=True).with_port(port))
        self._urls.clear()

    async def post(self, path: str, body: bytes, *, is_stream: bool, model: str = "") -> Response:
        """Send a POST with `body`, and return the answer when its head has arrived, whatever its status.

        Args:
            path: appended to the base URL.
            body: the JSON to send.
            is_stream: whether the answer is to be a stream, whose head arrives within `first_byte_s`; otherwise it may
                take `answer_s`.
            model: the model's name at the upstream, as a credential may be refused for one model; empty: not known.

        Raises:
            UpstreamUnreachable: no connection, or it broke.
            UpstreamTimeout: no connection, or no first byte, in time.
            UpstreamRateLimited: nothing was sent, as all credentials are limited.
            UpstreamError: a token is needed and could not be fetched.
        """
        wait_s = self._timeouts.first_byte_s if is_stream else self._timeouts.answer_s
        return await self._send_authenticated(hdrs.METH_POST, path, body, wait_s, model)

    async def post_and_read(self, path: str, body: bytes) -> bytes:
        """Send a POST with `body`, and return the body of the answer.

        Raises:
            UpstreamFailed: the status is not 200.
            UpstreamError: as `post`.
        """
        return await _body(await self.post(path, body, is_stream=False), f"POST {path}")

    async def get(self, path: str) -> bytes:
        """Send a GET, and return the body of the answer.

        Raises:
            UpstreamFailed: the status is not 200.
            UpstreamError: as `post`.
        """
        return await _body(
            await self._send_authenticated(hdrs.METH_GET, path, None, self._timeouts.first_byte_s), f"GET {path}"
        )

    async def close(self) -> None:
        """Close every connection for good: running and later requests raise `UpstreamUnreachable`.

        aiohttp does not wake the readers of a body when it closes their connection, so their waits are ended here.
        """
        self._is_closed = True
        self._deadlines.close()
        await self.credentials.close()
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _send_authenticated(
        self, method: str, path: str, body: bytes | None, wait_s: float, model: str = ""
    ) -> Response:
        """Send a request with the next credential; where the host refuses its token, once more with a new token."""
        credential = self.credentials.choose(model, may_try=method == hdrs.METH_POST)
        headers = credential.auth_headers.ready()
        if headers is None:
            credential, headers = await self.credentials.fetch(credential, model)
        try:
            return await self._send_renewing(method, path, body, wait_s, credential, headers)
        except BaseException:
            credential.done()
            raise

    async def _send_renewing(
        self, method: str, path: str, body: bytes | None, wait_s: float, credential: ChosenCredential, headers: Headers
    ) -> Response:
        response = await self._send(method, path, body, wait_s, credential, headers)
        if response.status == 401 and credential.auth_headers.is_renewable:
            try:
                renewed = await credential.auth_headers.renew(headers)
            except BaseException:
                response.close()
                raise
            if renewed is not None:
                response.give_back()
                return await self._send(method, path, body, wait_s, credential, renewed)
        return response

    async def _send(
        self, method: str, path: str, body: bytes | None, wait_s: float, credential: ChosenCredential, headers: Headers
    ) -> Response:
        """Send a request, and return the answer, whatever its status.

        If the upstream closes a pooled connection before it answers anything, the connection was stale: the request is
        sent once more, on another connection.
        """
        has_connected.set(False)
        try:
            return await self._request(method, path, body, wait_s, credential, headers)
        except UpstreamUnreachable:
            if has_connected.get():
                raise
        return await self._request(method, path, body, wait_s, credential, headers)

    async def _request(
        self, method: str, path: str, body: bytes | None, wait_s: float, credential: ChosenCredential, headers: Headers
    ) -> Response:
        url = self._urls.get(path)
        if url is None:
            url = URL(self._base_url + path, encoded=True)
            if len(self._urls) < _MAX_URLS and len(path) < _MAX_KEPT_PATH:
                self._urls[path] = url
        deadline = Deadline(self._deadlines, wait_s)
        deadline.start()
        try:
            answer = await self._open_session().request(
                method, url, data=body, headers=headers, allow_redirects=False, read_bufsize=_READ_BYTES
            )
        except asyncio.CancelledError:
            if deadline.has_expired():
                raise _wait_error(deadline, "The upstream did not begin to answer in time.") from None
            raise
        except (aiohttp.ClientError, OSError) as error:
            raise translate(error) from error
        finally:
            deadline.stop()
        # many hosts send the head at once and compute the answer then: the time limit for the first event continues
        return Response(answer, credential, deadline, self._timeouts, self._drain)

    def _drain(self, answer: aiohttp.ClientResponse) -> None:
        task = asyncio.create_task(_read_to_end(answer))
        self._draining.add(task)
        task.add_done_callback(self._draining.discard)

    def _open_session(self) -> aiohttp.ClientSession:
        if self._is_closed:
            unreachable = _closed()
            unreachable.is_unconnected = True
            raise unreachable
        if self._session is None:
            connector = open_connector(
                self._socket_path, self._max_connections, self._keepalive_s, self._timeouts.connect_s, self._resolver
            )
            self._session = open_session(connector, _NO_TIMEOUT)
        return self._session


def _wait_error(deadline: Deadline, message: str) -> UpstreamError:
    """Return the error for a wait that was ended: the transport was closed, or it took too long (with `message`)."""
    if deadline.is_closed:
        return _closed()
    return UpstreamTimeout(message)


def _closed() -> UpstreamUnreachable:
    return UpstreamUnreachable("The connections to the upstream were closed.")


async def _body(response: Response, request: str) -> bytes:
    try:
        body = await response.read_all()
    finally:
        response.close()
    if response.status != 200:
        raise UpstreamFailed(f"{request} answered {response.status}.")
    return body


async def _read_to_end(answer: aiohttp.ClientResponse) -> None:
    """Read the end of a body after its last event, to reuse the connection; if that takes over 1 s, close it."""
    try:
        async with asyncio.timeout(_DRAIN_S):
            while await answer.content.readany():
                pass
        answer.release()
    except (TimeoutError, aiohttp.ClientError, OSError):
        answer.close()
