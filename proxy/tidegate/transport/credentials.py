"""Which of an upstream's credentials is used next, and which are in a cooldown.

The credentials that can be used take turns by weight (nginx's smooth round robin). There are two kinds of cooldown:

    refused     The host answered 401 or 402 (403: for that model only), so the credential is probably not valid. It is
                still used where no other can be used, so that a single key is never locked out.
    limited     The host answered 429 and said for how long. The credential is not used before that, except for a
                single request, the trial (see `Cooldown`). If all are limited, nothing is sent. The credentials of an
                account are limited together.

The code that reads the host's answer reports the outcome with `Response.credential`, by calling `worked`, `refused` or
`limited`.
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

_REFUSED_S = 30.0  # multiplied by the number of refusals in a row
_MAX_REFUSED_S = 600.0
_MAX_MODELS = 64  # model names can come from callers, so their number is limited
_KEPT_SECRETS = 64
_HEALTH = HealthConfig()
_NO_KEY = CredentialSpec(None, "")  # for a host that needs no key; its rate limits apply all the same


class RefusalCooldown:
    """The cooldown of a refused credential, for all models or for one.

    Attributes:
        times: how often in a row the host refused it.
        until_s: when the cooldown is over, in monotonic seconds.
    """

    __slots__ = ("times", "until_s")

    def __init__(self) -> None:
        self.times = 0
        self.until_s = -math.inf

    def extend(self, now_s: float) -> float:
        """Count a refusal, and return when the cooldown is over.

        During a cooldown a refusal changes nothing: it answers a request that was sent before the cooldown began.
        """
        if now_s >= self.until_s:
            self.times += 1
            self.until_s = now_s + min(_REFUSED_S * self.times, _MAX_REFUSED_S)
        return self.until_s


class Credential:
    """One credential of a pool. Requests in flight keep using it after `CredentialPool.replace` removed it.

    Attributes:
        auth_headers: the headers that it adds to a request.
        cooldown: until when the host limits it; shared by the credentials of an account.
        name: its kind and its number in the config, for logs; not secret.
        spec: what it was made from.
        turn: the current weight of the smooth round robin (see `_take_turns`).
        weight: its share of the requests, relative to the other weights.
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
        """Report that the host accepted it: earlier refusals, for all models and for `model`, are forgotten."""
        if self._refusals.times:
            self._refusals = RefusalCooldown()
        if self._models:
            self._models.pop(model, None)

    def refused(self, status: int, model: str = "") -> None:
        """Report that the host refused it with that status; 403 counts for `model` only, unless that is empty."""
        now_s = self._pool.clock.monotonic_s()
        refusals = self._refusals
        if status == 403 and model:
            refusals = self._models[model] = self._models.pop(model, RefusalCooldown())
            if len(self._models) > _MAX_MODELS:
                del self._models[next(iter(self._models))]
        self._pool.note_cooldown(refusals.extend(now_s))

    def limited(self, seconds: float, *, trial: int = 0) -> None:
        """Report that the host answered 429: it, or its account, is not used for `seconds`.

        `trial` is the number of the trial that was answered, or 0 (see `Cooldown.extend`).
        """
        if self.cooldown.extend(seconds, self._pool.clock.monotonic_s(), trial):
            self._pool.note_cooldown(self.cooldown.until_s)

    def done(self) -> None:
        """Report that the request has ended. Does nothing here; `Trial.done` ends the trial."""

    def has_other(self, model: str = "") -> bool:
        """Whether the pool has another credential that is not in a cooldown, for that model."""
        return self._pool.has_other(self, model)

    def refused_until_s(self, model: str) -> float:
        """Until when another credential is preferred for that model, in monotonic seconds."""
        refusals = self._models.get(model)
        return self._refusals.until_s if refusals is None else max(self._refusals.until_s, refusals.until_s)


class Trial:
    """A limited credential, as the single request that is its trial uses it (see `Cooldown`).

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
        """Report that the host accepted the trial, so that the credential is not limited any more."""
        self._credential.cooldown.succeeded(self._number)
        self._credential.worked(model)

    def refused(self, status: int, model: str = "") -> None:
        """See `Credential`."""
        self._credential.refused(status, model)

    def limited(self, seconds: float) -> None:
        """Report that the host answered the trial with 429: the credential is limited for `seconds` from now."""
        self._credential.limited(seconds, trial=self._number)

    def done(self) -> None:
        """Report that the request has ended; if no outcome was reported before, the next trial is later."""
        self._credential.cooldown.ended(self._number, self._pool.clock.monotonic_s())

    def has_other(self, model: str = "") -> bool:
        """See `Credential`."""
        return self._pool.has_other(self._credential, model)


ChosenCredential = Credential | Trial


class CredentialPool:
    """The credentials of one upstream; owns their cooldowns, their tokens and the connections to token endpoints.

    Args:
        specs: the credentials; empty where the host needs none.
        key_header: the header that a key is sent in, see `StaticAuth`; tokens are sent in `authorization`.
        clock: for the cooldowns and the tokens; the system's clock where omitted.
        client: fetches tokens from token endpoints; a new `TokenClient` where omitted. The pool closes it.
        health: the longest cooldown, and the time before a trial.

    Attributes:
        clock: as above.
        has_cooldowns: whether a credential may be in a cooldown; if False, none is, and no more need be checked.
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
        self._cooldowns_until_s = -math.inf
        self.has_cooldowns = False
        self.replace(specs)

    def replace(self, specs: Sequence[CredentialSpec]) -> None:
        """Use these credentials from now on.

        A credential whose spec is unchanged keeps its token and its cooldowns. Requests in flight keep the others.

        Raises:
            ValueError: a key cannot sign; then nothing is replaced. `credential_specs.read` checks that before.
        """
        old, new = list(self._all), []
        for spec in specs or [_NO_KEY]:
            kept = next((credential for credential in old if credential.spec == spec), None)
            if kept is None:
                kept = Credential(self, spec, self._auth_headers(spec), self._cooldown(spec.account))
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
        """Change the longest cooldown and the time before a trial, for later limits."""
        self._health = health
        for cooldown in (*self._accounts.values(), *(credential.cooldown for credential in self._all)):
            cooldown.configure(max_s=health.max_cooldown_s, trial_s=health.ejection_s)

    def choose(self, model: str = "", *, may_try: bool = True) -> ChosenCredential:
        """Return the next credential; its `done` has to be called at the end of the request.

        Args:
            model: the model's name at the host, as a refusal with 403 counts for one model; empty: not known.
            may_try: whether the request may be the trial of a limited credential.

        Raises:
            UpstreamRateLimited: all credentials are limited; `retry_after_s` says for how long.
        """
        if self.has_cooldowns:
            return self._choose_with_cooldowns(model, may_try=may_try)
        return self._all[0] if len(self._all) == 1 else _take_turns(self._all)

    async def fetch(self, credential: ChosenCredential, model: str = "") -> tuple[ChosenCredential, Headers]:
        """Return the credential and its headers, after fetching a token if needed.

        If the token cannot be fetched, the credential counts as refused, and another one is chosen and returned.

        Raises:
            UpstreamError: there is no token, and no other credential that is not in a cooldown; another target may be
                tried.
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

    def limited_for_s(self) -> float:
        """Seconds until a credential may be used; 0: now, if only for a trial. Only limits count, not refusals."""
        now_s = self.clock.monotonic_s()
        return min(credential.cooldown.remaining_s(now_s) for credential in self._all)

    def refused_for_s(self, model: str = "") -> float:
        """Seconds until a credential is in no cooldown of refusals, for that model; 0: there is one now."""
        first_s = min(credential.refused_until_s(model) for credential in self._all)
        return max(0.0, first_s - self.clock.monotonic_s())

    def has_other(self, than: Credential, model: str = "") -> bool:
        """Whether there is a credential other than `than` that is in no cooldown, for that model."""
        now_s = self.clock.monotonic_s()
        return any(
            credential is not than and credential.cooldown.is_over(now_s) and credential.refused_until_s(model) <= now_s
            for credential in self._all
        )

    @property
    def secrets(self) -> Sequence[str]:
        """What no message may show: keys, tokens and clients' secrets, current and replaced ones; longest first."""
        found = {*self._retired, *(secret for credential in self._all for secret in _secrets(credential))}
        return sorted(found, key=len, reverse=True)

    async def close(self) -> None:
        """Cancel the running fetches of tokens, and close the connections."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._client.close()

    def note_cooldown(self, until_s: float) -> None:
        """Note that a credential is in a cooldown until `until_s`; called by the credentials."""
        self.has_cooldowns = True
        self._cooldowns_until_s = max(self._cooldowns_until_s, until_s)

    def _choose_with_cooldowns(self, model: str, *, may_try: bool) -> ChosenCredential:
        now_s = self.clock.monotonic_s()
        self.has_cooldowns = now_s < self._cooldowns_until_s
        unlimited = [credential for credential in self._all if _may_use(credential.cooldown, now_s, may_try=may_try)]
        if not unlimited:
            wait_s = min(max(0.0, credential.cooldown.until_s - now_s) for credential in self._all)
            raise UpstreamRateLimited("The upstream's rate limits are used up.", retry_after_s=wait_s, is_stated=True)
        if usable := [credential for credential in unlimited if credential.refused_until_s(model) <= now_s]:
            chosen = _take_turns(usable)
        else:
            chosen = min(unlimited, key=lambda credential: credential.refused_until_s(model))
        number = chosen.cooldown.enter(now_s)
        return Trial(self, chosen, number) if number else chosen

    def _cooldown(self, account: str | None) -> Cooldown:
        new = Cooldown(max_s=self._health.max_cooldown_s, trial_s=self._health.ejection_s)
        return new if account is None else self._accounts.setdefault(account, new)

    def _auth_headers(self, spec: CredentialSpec) -> AuthHeaders:
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
