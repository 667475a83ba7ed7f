"""Which of an upstream's credentials is used next, and which rest.

Those that can be used take turns by weight (nginx's smooth round robin). Two things bench one, for a time:

    refused     401, 402 (403: for that model): it is likely no good. Used all the same where no other can be used, so
                that a key that is alone is never locked out.
    limited     429: the host said for how long. Not used before that, except for a single request on trial (see
                `Cooldown`). If all are limited, nothing is sent. The credentials of an account are limited together.

Who reads the host's answer tells the credential of it: `Response.credential` has `worked`, `refused` and `limited`.
"""

import asyncio
import math
from collections import deque
from collections.abc import Sequence

from tidegate.clock import Clock, SystemClock
from tidegate.config.credentials import OAuth2Config, PrivateKeyJwtConfig
from tidegate.config.routing import HealthConfig
from tidegate.cooldown import Cooldown
from tidegate.errors import UpstreamError, UpstreamRateLimited
from tidegate.transport.auth_headers import AuthHeaders, Headers, StaticAuth, TokenAuth
from tidegate.transport.credential_specs import CredentialSpec
from tidegate.transport.jwt import Signer
from tidegate.transport.oauth import TokenClient, client_credentials, signed

_REFUSED_S = 30.0  # times how often in a row
_MAX_REFUSED_S = 600.0
_MAX_MODELS = 64  # a caller may name any
_KEPT_SECRETS = 64
_HEALTH = HealthConfig()
_ANONYMOUS = CredentialSpec(None, "")  # the host wants no key; its limits are kept all the same


class RefusalCooldown:
    """How often in a row something was refused, and until when it rests for that."""

    __slots__ = ("times", "until_s")

    def __init__(self) -> None:
        self.times = 0
        self.until_s = -math.inf

    def extend(self, now_s: float) -> float:
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
        cooldown: how long it is limited; shared by the credentials of an account.
    """

    __slots__ = ("_models", "_pool", "_refusals", "auth_headers", "cooldown", "name", "spec", "turn", "weight")

    def __init__(
        self, pool: "CredentialPool", spec: CredentialSpec, auth_headers: AuthHeaders, cooldown: Cooldown
    ) -> None:
        self._pool = pool
        self._refusals = RefusalCooldown()
        self._models: dict[str, RefusalCooldown] = {}
        self.cooldown = cooldown
        self.spec = spec
        self.auth_headers = auth_headers
        self.weight = spec.weight
        self.name = ""
        self.turn = 0.0

    def worked(self, model: str = "") -> None:
        """The host took it: what was refused before counts no more."""
        if self._refusals.times:
            self._refusals = RefusalCooldown()
        if self._models:
            self._models.pop(model, None)

    def refused(self, status: int, model: str = "") -> None:
        """The host did not take it; with 403 for that model alone, if it is named."""
        now_s = self._pool.clock.monotonic_s()
        refusals = self._refusals
        if status == 403 and model:
            refusals = self._models[model] = self._models.pop(model, RefusalCooldown())
            if len(self._models) > _MAX_MODELS:
                del self._models[next(iter(self._models))]
        self._pool.note(refusals.extend(now_s))

    def limited(self, seconds: float, *, trial: int = 0) -> None:
        """The host answered 429: do not use it, or its account, for so long; `trial` as in `Cooldown.extend`."""
        if self.cooldown.extend(seconds, self._pool.clock.monotonic_s(), trial):
            self._pool.note(self.cooldown.until_s)

    def done(self) -> None:
        """The request has ended."""

    def has_other(self, model: str = "") -> bool:
        """Whether another one, that nothing is held against, may be shown in its place."""
        return self._pool.has_other(self, model)

    def refused_until_s(self, model: str) -> float:
        """Until when another should be used for that model."""
        refusals = self._models.get(model)
        return self._refusals.until_s if refusals is None else max(self._refusals.until_s, refusals.until_s)


class Trial:
    """A limited credential for the single request on trial (see `Cooldown`).

    It has the interface of a `Credential`; the owner of the request calls `done` at its end.
    """

    __slots__ = ("_credential", "_number", "_pool", "auth_headers", "spec")

    def __init__(self, pool: "CredentialPool", credential: Credential, number: int) -> None:
        self._pool = pool
        self._credential = credential
        self._number = number
        self.auth_headers = credential.auth_headers
        self.spec = credential.spec

    @property
    def name(self) -> str:
        """See `Credential`."""
        return self._credential.name

    def worked(self, model: str = "") -> None:
        """The host accepted it, so that it is not limited any more."""
        self._credential.cooldown.succeeded(self._number)
        self._credential.worked(model)

    def refused(self, status: int, model: str = "") -> None:
        """See `Credential`."""
        self._credential.refused(status, model)

    def limited(self, seconds: float) -> None:
        """The host limited it again, for so long from now."""
        self._credential.limited(seconds, trial=self._number)

    def done(self) -> None:
        """The request has ended; if no outcome was reported, the next trial is later."""
        self._credential.cooldown.ended(self._number, self._pool.clock.monotonic_s())

    def has_other(self, model: str = "") -> bool:
        """See `Credential`."""
        return self._pool.has_other(self._credential, model)


Chosen = Credential | Trial


class CredentialPool:
    """An upstream's; owns their benches, their tokens and the connections to token endpoints.

    Args:
        specs: none where the host wants none.
        key_header: where a key goes, see `StaticAuth`; tokens go in `authorization`.
        clock: of benches and tokens; the machine's where omitted.
        client: asks for tokens; one of its own where omitted.
        health: the longest cooldown, and the time before a trial.

    Attributes:
        is_anyone_benched: whether something may be held against one of them; where not, nothing more need be asked.
    """

    def __init__(
        self,
        specs: Sequence[CredentialSpec] = (),
        *,
        key_header: str = "authorization",
        clock: Clock | None = None,
        client: TokenClient | None = None,
        health: HealthConfig = _HEALTH,
    ) -> None:
        self.clock = clock or SystemClock()
        self._health = health
        self._accounts: dict[str, Cooldown] = {}
        self._key_header = key_header
        self._client = client or TokenClient()
        self._tasks: set[asyncio.Task[Headers | UpstreamError]] = set()
        self._retired: deque[str] = deque(maxlen=_KEPT_SECRETS)
        self._all: list[Credential] = []
        self._benched_until_s = -math.inf
        self.is_anyone_benched = False
        self.replace(specs)

    def replace(self, specs: Sequence[CredentialSpec]) -> None:
        """Those from now on. One that is as it was keeps its token and its bench; the others end with their requests.

        Raises:
            ValueError: a key that cannot sign; `specs.read` has tried them. Nothing is replaced then.
        """
        old, new = list(self._all), []
        for spec in specs or [_ANONYMOUS]:
            kept = next((credential for credential in old if credential.spec == spec), None)
            if kept is None:
                kept = Credential(self, spec, self._shown(spec), self._cooldown(spec.account))
            else:
                old.remove(kept)
            new.append(kept)
        for credential in old:
            self._retired.extend(_secrets(credential))
        for index, credential in enumerate(new):
            credential.turn = 0.0
            credential.name = f"{_kind(credential.spec)} {index}"
        self._all = new

    def use_health(self, health: HealthConfig) -> None:
        """Change the longest cooldown and the time before a trial."""
        self._health = health
        for cooldown in (*self._accounts.values(), *(credential.cooldown for credential in self._all)):
            cooldown.configure(max_s=health.max_cooldown_s, trial_s=health.ejection_s)

    def choose(self, model: str = "", *, may_try: bool = True) -> Chosen:
        """The next credential; the caller calls its `done` at the end of the request.

        Args:
            model: its name at the host.
            may_try: whether the request may be the trial of a limited credential.

        Raises:
            UpstreamRateLimited: all are limited; `retry_after_s` says for how long.
        """
        if self.is_anyone_benched:
            return self._choose_among_benches(model, may_try=may_try)
        return self._all[0] if len(self._all) == 1 else _take_turns(self._all)

    async def fetch(self, credential: Chosen, model: str = "") -> tuple[Chosen, Headers]:
        """Its headers, waited for; or those of another, where its own cannot be had.

        Raises:
            UpstreamError: nobody's can be had; another target may be tried.
        """
        while True:
            try:
                return credential, await credential.auth_headers.fetch()
            except UpstreamError:
                credential.refused(401)
                credential.done()
                if not credential.has_other(model):
                    raise
            except BaseException:
                credential.done()
                raise
            credential = self.choose(model)

    def free_in_s(self) -> float:
        """Seconds until one may be used; 0: now, be it for a trial. Only limits count, see above."""
        now_s = self.clock.monotonic_s()
        return min(credential.cooldown.remaining_s(now_s) for credential in self._all)

    def refused_for_s(self, model: str = "") -> float:
        """Seconds until there is one that was not refused, for that model; 0: there is."""
        first_s = min(credential.refused_until_s(model) for credential in self._all)
        return max(0.0, first_s - self.clock.monotonic_s())

    def has_other(self, than: Credential, model: str = "") -> bool:
        """Whether one that nothing is held against could be used in place of it."""
        now_s = self.clock.monotonic_s()
        return any(
            credential is not than and credential.cooldown.is_over(now_s) and credential.refused_until_s(model) <= now_s
            for credential in self._all
        )

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

    def _choose_among_benches(self, model: str, *, may_try: bool) -> Chosen:
        now_s = self.clock.monotonic_s()
        self.is_anyone_benched = now_s < self._benched_until_s
        unlimited = [credential for credential in self._all if _may_use(credential.cooldown, now_s, may_try=may_try)]
        if not unlimited:
            left_s = min(max(0.0, credential.cooldown.until_s - now_s) for credential in self._all)
            raise UpstreamRateLimited("The upstream's limits for us are used up.", retry_after_s=left_s, is_told=True)
        if usable := [credential for credential in unlimited if credential.refused_until_s(model) <= now_s]:
            chosen = _take_turns(usable)
        else:
            chosen = min(unlimited, key=lambda credential: credential.refused_until_s(model))
        number = chosen.cooldown.enter(now_s)
        return Trial(self, chosen, number) if number else chosen

    def _cooldown(self, account: str | None) -> Cooldown:
        made = Cooldown(max_s=self._health.max_cooldown_s, trial_s=self._health.ejection_s)
        return made if account is None else self._accounts.setdefault(account, made)

    def _shown(self, spec: CredentialSpec) -> AuthHeaders:
        match spec.config:
            case OAuth2Config() as config:
                issue = client_credentials(config, spec.secret, self._client)
            case PrivateKeyJwtConfig() as config:
                issue = signed(config, Signer(config, spec.secret), self._client, self.clock)
            case _:
                return StaticAuth(spec.secret or None, self._key_header)
        return TokenAuth(issue, clock=self.clock, tasks=self._tasks)


def _may_use(cooldown: Cooldown, now_s: float, *, may_try: bool) -> bool:
    return cooldown.may_enter(now_s) if may_try else cooldown.is_over(now_s)


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
    return [secret for secret in (credential.spec.secret, *credential.auth_headers.secrets) if secret]


def _kind(spec: CredentialSpec) -> str:
    if spec.config is None:
        return "api_key" if spec.secret else "no key"
    return str(spec.config.__struct_config__.tag)
