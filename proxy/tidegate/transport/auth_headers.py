"""The headers that a credential adds to a request: fixed ones, or a bearer token that is renewed in time."""

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Protocol

import msgspec
from aiohttp import hdrs
from multidict import CIMultiDict

from tidegate.clock import Clock
from tidegate.errors import UpstreamError, UpstreamFailed
from tidegate.transport.sessions import base_headers

_RENEW_AT = 0.8  # as a share of the token's lifetime
_MARGIN_S = 5.0  # a token is not used so shortly before it expires: it has to be still valid when it arrives
_MAX_PAUSE_S = 30.0
_FORCED_EVERY_S = 10.0  # at most one renewal in this time because the host refused a token that had not expired
_KEPT_VALUES = 8  # tokens that `secrets` returns: the current one and those before it

Headers = CIMultiDict[str]


class AuthHeaders(Protocol):
    """Provides the headers for one credential. The requests share the returned mapping and must not change it.

    Attributes:
        is_renewable: whether `renew` can return other headers after the host refused these.
    """

    is_renewable: bool

    @property
    def secrets(self) -> tuple[str, ...]:
        """The fetched tokens that no log or message may show; a configured key is in `CredentialSpec.secret`."""

    def ready(self) -> Headers | None:
        """Return the headers without waiting; None: they have to be fetched first."""

    async def fetch(self) -> Headers:
        """Return the headers, after fetching a token if needed.

        Raises:
            UpstreamError: there is no token; another target may be tried.
        """

    async def renew(self, refused: Headers) -> Headers | None:
        """Return other headers than `refused`, which the host answered with 401; None: there are none. Never raises."""


class StaticAuth:
    """Headers that never change.

    Args:
        key: the API key; None: the host needs none.
        key_header: the header that the key is sent in, in lower case; in `authorization` it is sent as a bearer token.
    """

    is_renewable = False

    def __init__(self, key: str | None, key_header: str) -> None:
        self._headers = base_headers()
        if key is not None:
            self._headers[key_header] = f"Bearer {key}" if key_header == "authorization" else key

    @property
    def secrets(self) -> tuple[str, ...]:
        return ()

    def ready(self) -> Headers:
        return self._headers

    async def fetch(self) -> Headers:
        return self._headers

    async def renew(self, refused: Headers) -> None:  # noqa: ARG002 - there are no others
        return None


class Token(msgspec.Struct, frozen=True):
    """A bearer token, and its lifetime in seconds from the moment it was requested."""

    value: str
    lifetime_s: float


Issue = Callable[[], Awaitable[Token]]


class TokenAuth:
    """Headers with a bearer token: fetched at first use, and renewed in the background after 80 % of its lifetime.

    The first use after 80 % starts the renewal. There is one fetch at a time, and all requests that need the token
    wait for it; cancelling such a request does not cancel the fetch. After a failure there is a pause before the next
    fetch: one second, then two, doubled up to 30. During the pause the old token is used until it expires; after that
    `fetch` raises the failure again.

    Args:
        issue: fetches or makes a token; raises `UpstreamError`.
        clock: measures the lifetime and the pauses.
        tasks: the set to which the task of a running fetch is added; the owner of the set cancels them.
    """

    is_renewable = True

    def __init__(self, issue: Issue, *, clock: Clock, tasks: set[asyncio.Task[Headers | UpstreamError]]) -> None:
        self._issue = issue
        self._clock = clock
        self._tasks = tasks
        self._headers = base_headers()
        self._values: deque[str] = deque(maxlen=_KEPT_VALUES)
        self._renew_at_s = self._expires_at_s = -math.inf
        self._task: asyncio.Task[Headers | UpstreamError] | None = None
        self._failure: UpstreamError | None = None
        self._failures = 0
        self._retry_at_s = self._may_force_at_s = -math.inf

    @property
    def secrets(self) -> tuple[str, ...]:
        return tuple(self._values)

    def ready(self) -> Headers | None:
        now_s = self._clock.monotonic_s()
        if now_s < self._renew_at_s:
            return self._headers
        if now_s >= self._expires_at_s:
            return None
        if self._task is None and now_s >= self._retry_at_s:
            self._begin()
        return self._headers

    async def fetch(self) -> Headers:
        if (headers := self.ready()) is not None:
            return headers
        if self._task is None and self._failure is not None and self._clock.monotonic_s() < self._retry_at_s:
            raise _copy(self._failure)
        fetched = await asyncio.shield(self._task or self._begin())
        if isinstance(fetched, UpstreamError):
            raise _copy(fetched)
        return fetched

    async def renew(self, refused: Headers) -> Headers | None:
        if refused is not self._headers:  # another request has renewed the token since
            return self.ready()
        now_s = self._clock.monotonic_s()
        task = self._task
        if task is None:
            if now_s < max(self._may_force_at_s, self._retry_at_s):  # a new token did not help, or a fetch failed
                return None
            self._may_force_at_s = now_s + _FORCED_EVERY_S
            task = self._begin()
        fetched = await asyncio.shield(task)
        return None if isinstance(fetched, UpstreamError) else fetched

    def _begin(self) -> asyncio.Task[Headers | UpstreamError]:
        self._task = task = asyncio.create_task(self._fetch())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _fetch(self) -> Headers | UpstreamError:
        requested_s = self._clock.monotonic_s()
        try:
            token = await self._issue()
        except UpstreamError as error:
            return self._failed(error)
        except Exception as error:  # noqa: BLE001 - nothing awaits a renewal in the background
            asyncio.get_running_loop().call_exception_handler({"message": "token not renewed", "exception": error})
            failure = UpstreamFailed("A token for the upstream could not be made.")
            failure.__cause__ = error
            return self._failed(failure)
        finally:
            self._task = None
        return self._succeeded(token, requested_s)

    def _failed(self, error: UpstreamError) -> UpstreamError:
        pause_s = min(2.0 ** min(self._failures, 10), _MAX_PAUSE_S)
        self._failures += 1
        self._retry_at_s = self._clock.monotonic_s() + pause_s
        self._failure = error
        return error

    def _succeeded(self, token: Token, requested_s: float) -> Headers:
        self._failure, self._failures, self._retry_at_s = None, 0, -math.inf
        self._renew_at_s = requested_s + token.lifetime_s * _RENEW_AT
        self._expires_at_s = requested_s + token.lifetime_s - min(_MARGIN_S, token.lifetime_s * (1 - _RENEW_AT) / 2)
        self._values.append(token.value)
        headers = base_headers()
        headers[hdrs.AUTHORIZATION] = f"Bearer {token.value}"
        self._headers = headers
        return headers


def _copy(error: UpstreamError) -> UpstreamError:
    """Return a copy of the error for another request, as an error is changed while its request is handled."""
    copy = type(error)(error.message, code=error.code, retry_after_s=error.retry_after_s)
    copy.__cause__ = error.__cause__
    return copy
