"""Sources of OAuth tokens: an endpoint on a real socket, and a double of `tidegate.transport.oauth.TokenClient`."""

import asyncio
import json
from contextlib import asynccontextmanager
from urllib.parse import parse_qsl

from tests.fakes.upstream import Call, ScenarioUpstream, answers
from tidegate.transport.auth_headers import Token


class TokenEndpoint:
    """A token endpoint that issues token-1, token-2 and so on; `host.play` replaces its answers.

    Attributes:
        life_s: the lifetime of the tokens.
        issued: the number of issued tokens.
        host: the HTTP server.
    """

    def __init__(self, *, life_s: float = 3600) -> None:
        self.life_s = life_s
        self.issued = 0
        self.host = ScenarioUpstream()
        self.host.play(self.issue)

    @property
    def url(self) -> str:
        return f"{self.host.url}/token?v=1"

    @property
    def forms(self) -> list[dict[str, str]]:
        return [dict(parse_qsl(call.body.decode(), strict_parsing=True)) for call in self.host.calls]

    @asynccontextmanager
    async def running(self):
        async with self.host.running():
            yield self

    async def issue(self, call: Call) -> None:
        self.issued += 1
        token = {"access_token": f"token-{self.issued}", "token_type": "Bearer", "expires_in": self.life_s}
        await answers(json.dumps(token).encode())(call)


class ScriptedClient:
    """Returns or raises one of `outcomes` per call, the last one repeatedly; each call waits for `go`.

    An outcome is the lifetime of a token in seconds, or an error. `requested_urls` holds the URLs of all calls.
    """

    def __init__(self, *outcomes: float | Exception) -> None:
        self.outcomes = list(outcomes)
        self.requested_urls: list[str] = []
        self.go = asyncio.Event()
        self.go.set()
        self.is_closed = False

    async def request_token(self, url, form, authorization=None) -> Token:
        self.requested_urls.append(url)
        number = len(self.requested_urls)
        await self.go.wait()
        outcome = self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]
        if isinstance(outcome, Exception):
            raise outcome
        return Token(f"token-{number}", outcome)

    async def close(self) -> None:
        self.is_closed = True
