"""`Prober`: asks targets that callers do not try now, with words of its own.

One that is out is asked for its models, which is cheap, and then for one token: a host whose lists are fine while it
generates nothing stays out. While nothing elsewhere can be reached, hosts are asked for their models alone, ever more
seldom and without a word in the log. No byte of any request is in a probe: only targets that the config names are
asked, not those whose names callers have invented.
"""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any

import msgspec

from tidegate.clock import Clock
from tidegate.config.routing import HealthConfig
from tidegate.errors import (
    ProxyError,
    UpstreamFailed,
    UpstreamLacksModel,
    UpstreamLacksOperation,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from tidegate.pipeline.attempt.attempt import Attempt
from tidegate.pipeline.context import AttemptRecord, RequestContext
from tidegate.pipeline.upstream import ServingState, Upstream
from tidegate.protocol.request import Endpoint, Fields, ModelRequest
from tidegate.routing.target_registry import TargetStats
from tidegate.routing.targets import Target
from tidegate.telemetry.logs import Log

_LOOK_S = 1.0
_LIMIT_S = 15.0  # who needs longer for a token is no help to callers
_QUESTIONS: Mapping[Endpoint, Mapping[str, object]] = {
    "chat": {"messages": [{"role": "user", "content": "Say OK."}], "max_tokens": 1},
    "completions": {"prompt": "Say OK.", "max_tokens": 1},
    "embeddings": {"input": "OK"},
}


class Prober:
    """Owns its task; `open` and `close` are called once each.

    Args:
        look_s: seconds between two checks for targets that are due.
    """

    def __init__(
        self, serving: ServingState, *, config: HealthConfig, clock: Clock, log: Log, look_s: float = _LOOK_S
    ) -> None:
        self._serving = serving
        self._config = config
        self._clock = clock
        self._log = log
        self._look_s = look_s
        self._task: asyncio.Task[None] | None = None
        self._asking: dict[str, asyncio.Task[None]] = {}  # by target or host

    def open(self) -> None:
        """Begin; returns at once."""
        self._task = asyncio.create_task(self._run(), name="prober")

    async def close(self) -> None:
        """End; never raises."""
        tasks = [*self._asking.values(), *([] if self._task is None else [self._task])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def look(self) -> None:
        """Ask whom it is time to ask, all at once, and wait for what they say; never raises."""
        self._begin()
        await asyncio.gather(*self._asking.values())

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._look_s)
            try:
                self._begin()  # a probe that hangs does not delay the others
            except Exception:  # noqa: BLE001 - without this task no target that is out would come back
                self._log.exception("probing failed")

    def _begin(self) -> None:
        for name in self._serving.offline.probe_due():
            if name in self._serving.upstreams:
                self._begin_once(name, partial(self._reach, name))
        for stats in self._serving.target_registry.kept():
            if self._is_due(stats):
                self._begin_once(stats.target.name, partial(self._probe, stats))

    def _begin_once(self, name: str, probe: Callable[[], Coroutine[Any, Any, None]]) -> None:
        if name not in self._asking:
            task = self._asking[name] = asyncio.create_task(self._logged(name, probe), name=f"probe {name}")
            task.add_done_callback(lambda _: self._asking.pop(name))

    async def _logged(self, name: str, probe: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            await probe()
        except Exception:  # noqa: BLE001 - no task awaits a probe
            self._log.exception("probe failed", target=name)

    def _is_due(self, stats: TargetStats) -> bool:
        target = stats.target
        if target.upstream not in self._serving.upstreams or (self._serving.offline.is_offline and not target.is_local):
            return False
        look = self._serving.upstreams.look(target)
        if not look.is_ready:  # its supervisor sees to it
            return False
        if look.limited_for_s or stats.cooldown_s:  # its host asked to wait
            return False
        every_s = self._config.probe_every_s
        return stats.health.needs_probe() or (every_s is not None and stats.idle_s >= every_s)

    async def _reach(self, name: str) -> None:
        """Whether the host answers at all, whatever it says."""
        try:
            async with asyncio.timeout(_LIMIT_S):
                await self._serving.upstreams[name].transport.get("/models")
        except (TimeoutError, UpstreamTimeout, UpstreamUnreachable):
            return
        except ProxyError:
            pass
        if self._serving.offline.reached(name):
            self._log.warning("online again", upstream=name)

    async def _probe(self, stats: TargetStats) -> None:
        stats.touch()
        trial = stats.cooldown.enter(self._clock.monotonic_s())
        try:
            is_good = await self._generates(stats, trial)
        finally:
            stats.cooldown.ended(trial, self._clock.monotonic_s())
        if stats.health.needs_probe():
            stats.health.probed(ok=is_good)
            self._log.info("target probed", target=stats.target.name, is_good=is_good)
        elif not is_good:
            stats.health.failed(stats.health.enter(in_panic=True) or 0)

    async def _generates(self, stats: TargetStats, trial: int) -> bool:
        """Whether it lists its models, if any, and gives a token; one that finds fault with the question is alive.

        `trial` as in `Cooldown.extend`.
        """
        target = stats.target
        upstream = self._serving.upstreams[target.upstream]
        try:
            async with asyncio.timeout(_LIMIT_S):
                if not target.is_local:
                    await _list(upstream)
                if await self._answers_to_any(stats, upstream):
                    stats.cooldown.succeeded(trial)
                    return True
                return False
        except UpstreamRejected:
            return True
        except ProxyError as error:
            stats.note_retry_after(error, trial)
            return False
        except TimeoutError:
            return False
        except Exception:  # noqa: BLE001 - a probe without a result would be repeated every second
            self._log.exception("probe failed", target=target.name)
            return False

    async def _answers_to_any(self, stats: TargetStats, upstream: Upstream) -> bool:
        """The endpoint that it answered last is tried first; it may lack an endpoint or the model."""
        for endpoint in sorted(_QUESTIONS, key=lambda endpoint: endpoint != stats.endpoint):
            with contextlib.suppress(UpstreamLacksModel, UpstreamLacksOperation):
                await self._ask(stats.target, endpoint, upstream)
                return True
        return False

    async def _ask(self, target: Target, endpoint: Endpoint, upstream: Upstream) -> None:
        fields: Fields = {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in _QUESTIONS[endpoint].items()}
        attempt = Attempt(
            upstream,
            target,
            ModelRequest(endpoint, target.model, fields),
            record=AttemptRecord(target.upstream, target.model),
            context=RequestContext("probe", endpoint, self._clock),
            reasoning_memory=self._serving.reasoning_memory,
        )
        answer = await attempt.run(can_wait=False)
        answer.close()


async def _list(upstream: Upstream) -> None:
    """Raises `UpstreamUnreachable` or `UpstreamTimeout`; hosts that have no list are none the worse for it."""
    with contextlib.suppress(UpstreamFailed):
        await upstream.transport.get("/models")
