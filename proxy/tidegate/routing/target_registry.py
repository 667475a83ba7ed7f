"""`TargetRegistry`: what is known of each target, and the one place where attempts report their outcome."""

import math
from collections.abc import Sequence

from tidegate.clock import Clock
from tidegate.config.routing import HealthConfig
from tidegate.cooldown import Cooldown
from tidegate.errors import ProxyError, StreamBroken, UpstreamFailed, UpstreamTimeout, UpstreamUnreachable
from tidegate.protocol.request import Endpoint
from tidegate.protocol.usage import Usage
from tidegate.routing.health import Health
from tidegate.routing.latency import Latency
from tidegate.routing.pressure import Pressure
from tidegate.routing.request import RoutingRequest
from tidegate.routing.targets import Target

_TARGETS_FAULT = (UpstreamFailed, UpstreamTimeout, UpstreamUnreachable, StreamBroken)
_MAX_UNCONFIGURED = 4096  # callers may name any model as `upstream/model`


class TargetStats:
    """What is known of one target.

    Attributes:
        cooldown: how long its host asked not to be sent requests (503 with Retry-After).
        in_flight: the number of Tidegate's requests there.
        endpoint: the endpoint of its last answer, so that a probe uses the same one.
        shows_first_tokens: Tidegate sees the time of the first token even for an answer that is not streamed to the
            caller.
    """

    __slots__ = (
        "_clock",
        "_last_used_s",
        "cooldown",
        "endpoint",
        "health",
        "in_flight",
        "latency",
        "pressure",
        "shows_first_tokens",
        "target",
    )

    def __init__(self, target: Target, clock: Clock, config: HealthConfig) -> None:
        self.target = target
        self.health = Health(clock, config)
        self.cooldown = Cooldown(max_s=config.max_cooldown_s, trial_s=config.ejection_s)
        self.latency = Latency(clock)
        self.pressure = Pressure(clock)
        self.in_flight = 0
        self.shows_first_tokens = False
        self.endpoint: Endpoint = "chat"
        self._clock = clock
        self._last_used_s = clock.monotonic_s()

    @property
    def idle_s(self) -> float:
        """Seconds since the last request or probe; 0 while one is in flight."""
        return 0.0 if self.in_flight else self._clock.monotonic_s() - self._last_used_s

    @property
    def cooldown_s(self) -> float:
        """Seconds until the cooldown is over; 0 if a request may be sent now, also as the trial."""
        cooldown = self.cooldown
        return 0.0 if cooldown.until_s == -math.inf else cooldown.remaining_s(self._clock.monotonic_s())

    def mark_used(self) -> None:
        """Record that the target is used now."""
        self._last_used_s = self._clock.monotonic_s()

    def note_retry_after(self, error: ProxyError | None, trial: int) -> None:
        """Extend the cooldown by the error's Retry-After, if it has one; `trial` as in `Cooldown.extend`."""
        if isinstance(error, UpstreamFailed) and error.is_stated and error.retry_after_s is not None:
            self.cooldown.extend(error.retry_after_s, self._clock.monotonic_s(), trial)


class TargetRegistry:
    """Owns the `TargetStats` of all targets; one instance serves all requests.

    Configured targets are kept for good (`keep`). Of the others, whose names callers may invent, the idle one that was
    read longest ago is dropped when there are too many.
    """

    def __init__(self, clock: Clock, config: HealthConfig) -> None:
        self._clock = clock
        self._config = config
        # both by `Target.name` (`upstream/model`), which is unique, as no upstream's name has a slash
        self._kept: dict[str, TargetStats] = {}
        self._others: dict[str, TargetStats] = {}

    def stats_of(self, target: Target) -> TargetStats:
        """What is known of the target."""
        stats = self._kept.get(target.name)
        if stats is None:
            stats = self._others.pop(target.name, None) or self._new(target)
            self._others[target.name] = stats  # now the last one to be dropped
            self._forget()
        if stats.target is not target:
            stats.target = target  # the target's configuration may have changed
        return stats

    def set_configured(self, targets: Sequence[Target]) -> None:
        """Set the configured targets, which are never dropped."""
        known = self._kept | self._others
        self._kept = {target.name: known.get(target.name) or self._new(target) for target in targets}
        self._others = {name: each for name, each in known.items() if name not in self._kept}
        for target in targets:
            self._kept[target.name].target = target

    def all(self) -> list[TargetStats]:
        """The stats of every known target."""
        return [*self._kept.values(), *self._others.values()]

    def configured(self) -> list[TargetStats]:
        """The stats of the configured targets."""
        return list(self._kept.values())

    def begin(
        self, target: Target, routing_request: RoutingRequest, *, in_panic: bool = False
    ) -> "InFlightRequest | None":
        """Begin an attempt at the target; the caller of this method ends the returned `InFlightRequest`, once.

        Returns None if the target may not be tried, as it is ejected, or a trial is in flight. With `in_panic` the
        attempt begins also at an ejected target. During a cooldown the result is None in any case.
        """
        stats = self.stats_of(target)
        if stats.cooldown_s:
            return None
        number = stats.health.enter(in_panic=in_panic)
        if number is None:
            return None
        return InFlightRequest(
            stats, routing_request, self._clock, number, stats.cooldown.enter(self._clock.monotonic_s())
        )

    def readmit(self, upstream: str) -> None:
        """An engine has been started again: forget the failures from before."""
        for stats in self.all():
            if stats.target.upstream == upstream:
                stats.health.readmit()

    def _new(self, target: Target) -> TargetStats:
        return TargetStats(target, self._clock, self._config)

    def _forget(self) -> None:
        if len(self._others) > _MAX_UNCONFIGURED:
            idle = next((name for name, each in self._others.items() if not each.in_flight), None)
            if idle is not None:
                del self._others[idle]


class InFlightRequest:
    """One attempt at one target, from before it is sent until it ends."""

    __slots__ = (
        "_clock",
        "_has_begun",
        "_is_counted",
        "_is_over",
        "_number",
        "_routing_request",
        "_started_s",
        "_stats",
        "_trial",
    )

    def __init__(
        self, stats: TargetStats, routing_request: RoutingRequest, clock: Clock, number: int, trial: int = 0
    ) -> None:
        self._stats = stats
        self._routing_request = routing_request
        self._clock = clock
        self._started_s = clock.monotonic_s()
        self._has_begun = self._is_over = False
        self._number = number
        self._trial = trial  # see `Cooldown.enter`
        stats.in_flight += 1
        # if no first token is seen, the end of the wait is unknown: such a request does not count as waiting
        self._is_counted = routing_request.is_stream or stats.shows_first_tokens
        if self._is_counted:
            stats.pressure.sent(routing_request.prompt_tokens)

    def note_first_content(self) -> None:
        """The first content came, so the prompt does not wait any more."""
        if not self._has_begun:
            self._has_begun = True
            self._stats.shows_first_tokens |= not self._routing_request.is_stream
            if self._is_counted:
                self._stats.pressure.began(self._routing_request.prompt_tokens)
            self._stats.health.generated(self._number)
            self._stats.cooldown.succeeded(self._trial)

    def end(
        self,
        error: ProxyError | None = None,
        *,
        sent_s: float = 0.0,
        first_s: float = 0.0,
        reading_s: float = 0.0,
        usage: Usage | None = None,
        is_whole: bool = False,
    ) -> float | None:
        """End the attempt; further calls do nothing.

        Args:
            error: the error of the attempt, whether the target or the caller caused it.
            sent_s: when the request was sent; 0: it was not.
            first_s: when its first content came; 0: never, or unknown (an answer that came all at once).
            reading_s: the seconds that the caller took to read the answer; they do not count as the target's time.
            usage: the tokens used; None if unknown.
            is_whole: the answer is complete. If neither this nor an error is given, the attempt was abandoned.

        Returns:
            The seconds until the first content, estimated if the answer came all at once; None if the answer is not
            whole.
        """
        if self._is_over:
            return None
        self._is_over = True
        stats, now_s = self._stats, self._clock.monotonic_s()
        stats.in_flight -= 1
        stats.mark_used()
        if self._is_counted and not self._has_begun:
            stats.pressure.ended_without_token(self._routing_request.prompt_tokens)
        stats.note_retry_after(error, self._trial)
        if isinstance(error, _TARGETS_FAULT):
            stats.health.failed(self._number)
            stats.latency.failed(now_s - self._started_s)
        elif error is None and is_whole:
            stats.health.succeeded(self._number)
            stats.cooldown.succeeded(self._trial)
            stats.endpoint = self._routing_request.endpoint
            return self._record_times(now_s - reading_s, sent_s or self._started_s, first_s, usage)
        else:
            stats.health.ended_without_outcome(self._number)
        stats.cooldown.ended(self._trial, now_s)
        return None

    def _record_times(self, ended_s: float, sent_s: float, first_s: float, usage: Usage | None) -> float:
        latency = self._stats.latency
        prompt_tokens = self._routing_request.prompt_tokens if usage is None else usage.prompt_tokens
        answer_tokens = 0 if usage is None else usage.completion_tokens
        is_stream = self._routing_request.is_stream
        latency.waited((first_s or ended_s if is_stream else ended_s) - sent_s, is_stream=is_stream)
        if first_s:
            latency.began(prompt_tokens, first_s - sent_s)
            latency.ended(answer_tokens, ended_s - first_s)
            return first_s - sent_s
        ttft_s = latency.ended_unstreamed(prompt_tokens, answer_tokens, ended_s - sent_s)
        self._stats.pressure.ended_unstreamed(prompt_tokens, ttft_s)
        return ttft_s
