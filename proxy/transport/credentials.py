"""Which of an upstream's credentials is used next, and which rest.

Those that can be used take turns by weight (nginx's smooth round robin). Two things bench one, for a time:

    refused     401, 402 (403: for that model): it is likely no good. Used all the same where no other can be used, so
                that a key that is alone is never locked out.
    limited     429: the host said for how long. Not used before that; where all are limited, nothing is sent.

Who reads the host's answer tells the credential of it: `Response.credential` has `worked`, `refused` and `limited`.
"""

import asyncio
import math
from collections import deque
from collections.abc import Iterator, Sequence

from proxy.clock import Clock, SystemClock
from proxy.config.credentials import OAuth2Config, PrivateKeyJwtConfig
from proxy.errors import UpstreamError, UpstreamRateLimited
from proxy.transport.jwt import Signer
from proxy.transport.oauth import TokenClient, client_credentials, signed
from proxy.transport.shown import Fixed, Headers, Renewed, Shown
from proxy.transport.specs import Spec

_REFUSED_S = 30.0  # times how often in a row
_MAX_REFUSED_S = 600.0
_MAX_LIMITED_S = 86400.0
_MAX_MODELS = 64  # a caller may name any
_KEPT_SECRETS = 64
_ANONYMOUS = Spec(None, "")  # the host wants no key; its limits are kept all the same


class Bench:
    """How often in a row something was refused, and until when it rests for that."""

    __slots__ = ("times", "until_s")

    def __init__(self) -> None:
        self.times = 0
        self.until_s = -math.inf

    def sit(self, now_s: float) -> float:
        """Once more, until when; who sits already was refused by what had been sent before."""
        if now_s >= self.until_s:
            self.times += 1
            self.until_s = now_s + min(_REFUSED_S * self.times, _MAX_REFUSED_S)
        return self.until_s


class Credential:
    """One of them. Requests in flight hold it, also when it has been replaced.

    Attributes:
        name: its kind and place, to be read by people; no secret.
        shown: what it puts into a request.
    """

    __slots__ = ("_limited_until_s", "_models", "_pool", "_refusals", "name", "shown", "spec", "turn", "weight")

    def __init__(self, pool: "Credentials", spec: Spec, shown: Shown) -> None:
        self._pool = pool
        self._refusals = Bench()
        self._models: dict[str, Bench] = {}
        self._limited_until_s = -math.inf
        self.spec = spec
        self.shown = shown
        self.weight = spec.weight
        self.name = ""
        self.turn = 0.0

    def worked(self, model: str = "") -> None:
        """The host took it: what was refused before counts no more."""
        if self._refusals.times:
            self._refusals = Bench()
        if self._models:
            self._models.pop(model, None)

    def refused(self, status: int, model: str = "") -> None:
        """The host did not take it; with 403 for that model alone, if it is named."""
        now_s = self._pool.clock.monotonic_s()
        bench = self._refusals
        if status == 403 and model:
            bench = self._models[model] = self._models.pop(model, Bench())
            if len(self._models) > _MAX_MODELS:
                del self._models[next(iter(self._models))]
        self._pool.note(bench.sit(now_s))

    def limited(self, seconds: float, *, is_account_wide: bool = False) -> None:
        """The host's 429: nothing more of it, or of its whole account, for so long; at most a day."""
        if not seconds > 0:
            return
        until_s = self._pool.clock.monotonic_s() + min(seconds, _MAX_LIMITED_S)
        self.rest_until(until_s)
        if is_account_wide and self.spec.account is not None:
            for other in self._pool.of_account(self.spec.account):
                other.rest_until(until_s)
        self._pool.note(until_s)

    def has_other(self, model: str = "") -> bool:
        """Whether another one, that nothing is held against, may be shown in its place."""
        return self._pool.has_other(self, model)

    def rest_until(self, until_s: float) -> None:
        """Limited until then, or longer if it was so before."""
        self._limited_until_s = max(self._limited_until_s, until_s)

    def limited_until_s(self) -> float:
        """Until when it may not be used."""
        return self._limited_until_s

    def refused_until_s(self, model: str) -> float:
        """Until when another should be used for that model."""
        bench = self._models.get(model)
        return self._refusals.until_s if bench is None else max(self._refusals.until_s, bench.until_s)


class Credentials:
    """An upstream's; owns their benches, their tokens and the connections to token endpoints.

    Args:
        specs: none where the host wants none.
        key_header: where a key goes, see `Fixed`; tokens go in `authorization`.
        clock: of benches and tokens; the machine's where omitted.
        client: asks for tokens; one of its own where omitted.

    Attributes:
        is_anyone_benched: whether something may be held against one of them; where not, nothing more need be asked.
    """

    def __init__(
        self,
        specs: Sequence[Spec] = (),
        *,
        key_header: str = "authorization",
        clock: Clock | None = None,
        client: TokenClient | None = None,
    ) -> None:
        self.clock = clock or SystemClock()
        self._key_header = key_header
        self._client = client or TokenClient()
        self._tasks: set[asyncio.Task[Headers | UpstreamError]] = set()
        self._retired: deque[str] = deque(maxlen=_KEPT_SECRETS)
        self._all: list[Credential] = []
        self._benched_until_s = -math.inf
        self.is_anyone_benched = False
        self.replace(specs)

    def replace(self, specs: Sequence[Spec]) -> None:
        """Those from now on. One that is as it was keeps its token and its bench; the others end with their requests.

        Raises:
            ValueError: a key that cannot sign; `specs.read` has tried them. Nothing is replaced then.
        """
        old, new = list(self._all), []
        for spec in specs or [_ANONYMOUS]:
            kept = next((credential for credential in old if credential.spec == spec), None)
            if kept is None:
                kept = Credential(self, spec, self._shown(spec))
            else:
                old.remove(kept)
            new.append(kept)
        for credential in old:
            self._retired.extend(_secrets(credential))
        for index, credential in enumerate(new):
            credential.turn = 0.0
            credential.name = f"{_kind(credential.spec)} {index}"
        self._all = new

    def choose(self, model: str = "") -> Credential:
        """The next one.

        Args:
            model: its name at the host.

        Raises:
            UpstreamRateLimited: all are limited; `retry_after_s` says for how long.
        """
        if self.is_anyone_benched:
            return self._choose_among_benches(model)
        return self._all[0] if len(self._all) == 1 else _take_turns(self._all)

    async def fetch(self, credential: Credential, model: str = "") -> tuple[Credential, Headers]:
        """Its headers, waited for; or those of another, where its own cannot be had.

        Raises:
            UpstreamError: nobody's can be had; another target may be tried.
        """
        while True:
            try:
                return credential, await credential.shown.fetch()
            except UpstreamError:
                credential.refused(401)
                if not self.has_other(credential, model):
                    raise
            credential = self.choose(model)

    def free_in_s(self) -> float:
        """Seconds until one may be used; 0: now. Only limits count, see above."""
        first_s = min(credential.limited_until_s() for credential in self._all)
        return max(0.0, first_s - self.clock.monotonic_s())

    def refused_for_s(self, model: str = "") -> float:
        """Seconds until there is one that was not refused, for that model; 0: there is."""
        first_s = min(credential.refused_until_s(model) for credential in self._all)
        return max(0.0, first_s - self.clock.monotonic_s())

    def has_other(self, than: Credential, model: str = "") -> bool:
        """Whether one that nothing is held against could be used in place of it."""
        now_s = self.clock.monotonic_s()
        return any(credential is not than for credential in self._usable(model, now_s))

    @property
    def secrets(self) -> Sequence[str]:
        """What no message may show: keys, tokens and clients' secrets, those in use and those before; longest first."""
        found = {*self._retired, *(secret for credential in self._all for secret in _secrets(credential))}
        return sorted(found, key=len, reverse=True)

    async def close(self) -> None:
        """Close the connections; what is being fetched is given up."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._client.close()

    def note(self, until_s: float) -> None:
        """Somebody is benched until then; called by the credentials."""
        self.is_anyone_benched = True
        self._benched_until_s = max(self._benched_until_s, until_s)

    def of_account(self, account: str) -> Iterator[Credential]:
        """Those that share its limits."""
        return (credential for credential in self._all if credential.spec.account == account)

    def _choose_among_benches(self, model: str) -> Credential:
        now_s = self.clock.monotonic_s()
        self.is_anyone_benched = now_s < self._benched_until_s
        if usable := self._usable(model, now_s):
            return _take_turns(usable)
        unlimited = [credential for credential in self._all if credential.limited_until_s() <= now_s]
        if not unlimited:
            raise UpstreamRateLimited(
                "The upstream's limits for us are used up.", retry_after_s=self.free_in_s(), is_told=True
            )
        return min(unlimited, key=lambda credential: credential.refused_until_s(model))

    def _usable(self, model: str, now_s: float) -> list[Credential]:
        return [
            credential
            for credential in self._all
            if credential.limited_until_s() <= now_s and credential.refused_until_s(model) <= now_s
        ]

    def _shown(self, spec: Spec) -> Shown:
        match spec.config:
            case OAuth2Config() as config:
                issue = client_credentials(config, spec.secret, self._client)
            case PrivateKeyJwtConfig() as config:
                issue = signed(config, Signer(config, spec.secret), self._client, self.clock)
            case _:
                return Fixed(spec.secret or None, self._key_header)
        return Renewed(issue, clock=self.clock, tasks=self._tasks)


def _take_turns(credentials: Sequence[Credential]) -> Credential:
    best, total = credentials[0], 0.0
    for credential in credentials:
        credential.turn += credential.weight
        total += credential.weight
        if credential.turn > best.turn:
            best = credential
    best.turn -= total
    return best


def _secrets(credential: Credential) -> Sequence[str]:
    return [secret for secret in (credential.spec.secret, *credential.shown.secrets) if secret]


def _kind(spec: Spec) -> str:
    if spec.config is None:
        return "api_key" if spec.secret else "no key"
    return str(spec.config.__struct_config__.tag)
