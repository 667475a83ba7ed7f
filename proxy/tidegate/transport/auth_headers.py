"""What a credential puts into a request: headers that stay as they are, or a bearer token that is renewed in time."""

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

_RENEW_AT = 0.8  # of its life
_MARGIN_S = 5.0  # a token may still be on its way when its life ends
_MAX_PAUSE_S = 30.0
_FORCED_EVERY_S = 10.0
_KEPT_VALUES = 8

Headers = CIMultiDict[str]


class AuthHeaders(Protocol):
    """The headers of one credential; they are shared by its requests, and nobody changes them."""

    is_renewable: bool

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must not be seen of them."""

    def ready(self) -> Headers | None:
        """The headers; None: they have to be fetched first."""

    async def fetch(self) -> Headers:
        """The headers, waited for; raises `UpstreamError`, which may try another target."""

    async def renew(self, refused: Headers) -> Headers | None:
        """Others than those that the host answered with 401; None: there are none. Raises nothing."""


class StaticAuth:
    """Headers that stay.

    Args:
        key: None where the host wants none.
        key_header: where it goes; in `authorization` as a bearer token.
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
    """A bearer token and for how long it is good from when it was asked for."""

    value: str
    life_s: float


Issue = Callable[[], Awaitable[Token]]


class TokenAuth:
    """A token: fetched at first use, renewed by the first use after 80 % of its life, in the background.

    One fetch at a time, whoever waits for it; whoever stops waiting does not stop it. After a failure there is a pause
    of a second, then of two, up to 30; meanwhile the old token is used while it lives, and the failure told after.

    Args:
        issue: gets one; raises `UpstreamError`.
        clock: for its life.
        tasks: where a fetch under way is put; their owner cancels them.
    """

    is_renewable = True

    def __init__(self, issue: Issue, *, clock: Clock, tasks: set[asyncio.Task[Headers | UpstreamError]]) -> None:
        self._issue = issue
        self._clock = clock
        self._tasks = tasks
        self._headers = base_headers()
        self._values: deque[str] = deque(maxlen=_KEPT_VALUES)
        self._renew_at_s = self._ends_at_s = -math.inf
        self._task: asyncio.Task[Headers | UpstreamError] | None = None
        self._failure: UpstreamError | None = None
        self._failures = 0
        self._retry_at_s = self._forced_again_at_s = -math.inf

    @property
    def secrets(self) -> tuple[str, ...]:
        return tuple(self._values)

    def ready(self) -> Headers | None:
        now_s = self._clock.monotonic_s()
        if now_s < self._renew_at_s:
            return self._headers
        if now_s >= self._ends_at_s:
            return None
        if self._task is None and now_s >= self._retry_at_s:
            self._begin()
        return self._headers

    async def fetch(self) -> Headers:
        if (headers := self.ready()) is not None:
            return headers
        if self._task is None and self._failure is not None and self._clock.monotonic_s() < self._retry_at_s:
            raise _again(self._failure)
        got = await asyncio.shield(self._task or self._begin())
        if isinstance(got, UpstreamError):
            raise _again(got)
        return got

    async def renew(self, refused: Headers) -> Headers | None:
        if refused is not self._headers:  # somebody else has renewed them since
            return self.ready()
        now_s = self._clock.monotonic_s()
        task = self._task
        if task is None:
            if now_s < max(self._forced_again_at_s, self._retry_at_s):  # a new token is no cure, or not to be had
                return None
            self._forced_again_at_s = now_s + _FORCED_EVERY_S
            task = self._begin()
        got = await asyncio.shield(task)
        return None if isinstance(got, UpstreamError) else got

    def _begin(self) -> asyncio.Task[Headers | UpstreamError]:
        self._task = task = asyncio.create_task(self._fetch())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _fetch(self) -> Headers | UpstreamError:
        asked_s = self._clock.monotonic_s()
        try:
            token = await self._issue()
        except UpstreamError as error:
            return self._fail(error)
        except Exception as error:  # noqa: BLE001 - nothing awaits a renewal in the background
            asyncio.get_running_loop().call_exception_handler({"message": "token not renewed", "exception": error})
            failure = UpstreamFailed("A token for the upstream could not be made.")
            failure.__cause__ = error
            return self._fail(failure)
        finally:
            self._task = None
        return self._take(token, asked_s)

    def _fail(self, error: UpstreamError) -> UpstreamError:
        pause_s = min(2.0 ** min(self._failures, 10), _MAX_PAUSE_S)
        self._failures += 1
        self._retry_at_s = self._clock.monotonic_s() + pause_s
        self._failure = error
        return error

    def _take(self, token: Token, asked_s: float) -> Headers:
        self._failure, self._failures, self._retry_at_s = None, 0, -math.inf
        self._renew_at_s = asked_s + token.life_s * _RENEW_AT
        self._ends_at_s = asked_s + token.life_s - min(_MARGIN_S, token.life_s * (1 - _RENEW_AT) / 2)
        self._values.append(token.value)
        headers = base_headers()
        headers[hdrs.AUTHORIZATION] = f"Bearer {token.value}"
        self._headers = headers
        return headers


def _again(error: UpstreamError) -> UpstreamError:
    """The same failure for another request: errors carry the marks of who they were raised for."""
    made = type(error)(error.message, code=error.code, retry_after_s=error.retry_after_s)
    made.__cause__ = error.__cause__
    return made
