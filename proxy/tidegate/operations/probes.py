"""`TargetProber`: sends requests of its own to targets that get no requests of callers now.

An ejected target is first probed with a request for its model list, which is cheap, and then with one for a
single token: a host that serves lists but generates nothing stays out. While no hosted upstream can be reached, hosts
are probed for their model lists only, with growing pauses and without log lines. A probe holds no byte of a caller's
request: only targets in the config are probed, not those whose names callers have made up.
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

_CHECK_EVERY_S = 1.0
_TIMEOUT_S = 15.0  # a target that needs longer for a token is of no use to callers
_PROBE_FIELDS: Mapping[Endpoint, Mapping[str, object]] = {
    "chat": {"messages": [{"role": "user", "content": "Say OK."}], "max_tokens": 1},
    "completions": {"prompt": "Say OK.", "max_tokens": 1},
    "embeddings": {"input": "OK"},
}


class TargetProber:
    """Probes the targets of one serving state. Owner of its task and of the running probes.

    `open` and `close` are called once each.

    Args:
        check_every_s: seconds between two checks for targets whose probe is due.
    """

    def __init__(
        self,
        serving: ServingState,
        *,
        config: HealthConfig,
        clock: Clock,
        log: Log,
        check_every_s: float = _CHECK_EVERY_S,
    ) -> None:
        self._serving = serving
        self._config = config
        self._clock = clock
        self._log = log
        self._check_every_s = check_every_s
        self._task: asyncio.Task[None] | None = None
        self._running: dict[str, asyncio.Task[None]] = {}  # the running probes by name of the target, or of the host

    def open(self) -> None:
        """Start the task; returns at once."""
        self._task = asyncio.create_task(self._run(), name="prober")

    async def close(self) -> None:
        """Cancel the task and all probes, and wait for their ends; never raises."""
        tasks = [*self._running.values(), *([] if self._task is None else [self._task])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def probe_now(self) -> None:
        """Start all probes that are due, and wait for all running ones; for tests."""
        self._start_due_probes()
        await asyncio.gather(*self._running.values())

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._check_every_s)
            try:
                self._start_due_probes()  # does not wait: a probe that hangs does not delay the others
            except Exception:  # noqa: BLE001 - without this task no ejected target would come back
                self._log.exception("probing failed")

    def _start_due_probes(self) -> None:
        for name in self._serving.offline.due_probes():
            if name in self._serving.upstreams:
                self._start(name, partial(self._check_reachability, name))
        for stats in self._serving.target_registry.configured():
            if self._is_due(stats):
                self._start(stats.target.name, partial(self._probe, stats))

    def _start(self, name: str, probe: Callable[[], Coroutine[Any, Any, None]]) -> None:
        if name not in self._running:
            task = self._running[name] = asyncio.create_task(self._run_logged(name, probe), name=f"probe {name}")
            task.add_done_callback(lambda _: self._running.pop(name))

    async def _run_logged(self, name: str, probe: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            await probe()
        except Exception:  # noqa: BLE001 - no task awaits a probe
            self._log.exception("probe failed", target=name)

    def _is_due(self, stats: TargetStats) -> bool:
        target = stats.target
        if target.upstream not in self._serving.upstreams or (self._serving.offline.is_offline and not target.is_local):
            return False
        snapshot = self._serving.upstreams.snapshot(target)
        if not snapshot.is_ready:  # its supervisor makes it ready
            return False
        if snapshot.limited_for_s or stats.cooldown_s:  # its host asked to wait
            return False
        every_s = self._config.probe_every_s
        return stats.health.needs_probe() or (every_s is not None and stats.idle_s >= every_s)

    async def _check_reachability(self, name: str) -> None:
        """Record that the host can be reached if it answers at all, even with an error."""
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                await self._serving.upstreams[name].transport.get("/models")
        except (TimeoutError, UpstreamTimeout, UpstreamUnreachable):
            return
        except ProxyError:
            pass
        if self._serving.offline.report_reached(name):
            self._log.warning("online again", upstream=name)

    async def _probe(self, stats: TargetStats) -> None:
        stats.mark_used()
        trial = stats.cooldown.enter(self._clock.monotonic_s())
        try:
            is_good = await self._generates(stats, trial)
        finally:
            stats.cooldown.ended(trial, self._clock.monotonic_s())
        if stats.health.needs_probe():
            stats.health.probed(ok=is_good)
            self._log.info("target probed", target=stats.target.name, is_good=is_good)
        elif not is_good:  # a failed probe of an idle target counts like a failed request
            stats.health.failed(stats.health.enter(in_panic=True) or 0)

    async def _generates(self, stats: TargetStats, trial: int) -> bool:
        """Whether the target generates a token, after its host has answered a request for the model list.

        A target that rejects the probe as a bad request works too. Never raises.

        Args:
            stats: the state of the target.
            trial: see `Cooldown.extend`.
        """
        target = stats.target
        upstream = self._serving.upstreams[target.upstream]
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                if not target.is_local:
                    await _list_models(upstream)
                if await self._answers_any_endpoint(stats, upstream):
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

    async def _answers_any_endpoint(self, stats: TargetStats, upstream: Upstream) -> bool:
        """Whether the target answers a probe of any endpoint; the endpoint that it answered last comes first.

        An endpoint that the target does not have, or not for this model, is skipped.
        """
        for endpoint in sorted(_PROBE_FIELDS, key=lambda endpoint: endpoint != stats.endpoint):
            with contextlib.suppress(UpstreamLacksModel, UpstreamLacksOperation):
                await self._send(stats.target, endpoint, upstream)
                return True
        return False

    async def _send(self, target: Target, endpoint: Endpoint, upstream: Upstream) -> None:
        fields: Fields = {
            name: msgspec.Raw(msgspec.json.encode(value)) for name, value in _PROBE_FIELDS[endpoint].items()
        }
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


async def _list_models(upstream: Upstream) -> None:
    """Request the model list; raises `ProxyError`, but not if the host has no such list (`UpstreamFailed`)."""
    with contextlib.suppress(UpstreamFailed):
        await upstream.transport.get("/models")
