"""The supervisor, with real child processes that behave as they are told."""

import asyncio
import os
import signal
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from msgspec import structs
from structlog.testing import CapturingLogger

from proxy.clock import SystemClock
from proxy.config.hooks import HooksConfig
from proxy.config.swap import SwapConfig
from proxy.engines import warden
from proxy.engines.base import EngineError, EngineStatus, Hopeless, Progress
from proxy.engines.doubt import NO_ANSWER, REFUSED, UNHEALTHY
from proxy.engines.sharing import Needs, Sharing
from proxy.engines.supervisor import Settings, Supervisor
from proxy.engines.vitals import FIRST_S
from proxy.engines.watch import SECOND_LOOK_S
from proxy.engines.workshop import make_control
from proxy.errors import EngineUnavailable, UpstreamFailed, UpstreamRejected, UpstreamUnreachable
from proxy.transport.wire import Timeouts, Transport
from tests.fakes.clock import FakeClock
from tests.fakes.engine import FakeKind

ALONE, LARGE = Needs(), Needs(awake={0: 0.9})
QUICK = Settings(backoff_s=0.001, poll_s=0.01, scrape_s=0.01, drain_timeout_s=60, queue_timeout_s=60)


TIMEOUTS = Timeouts(connect_s=60, first_byte_s=60, answer_s=60, idle_s=60)
KNOWN_BEFORE = (REFUSED, NO_ANSWER)


class States:
    """Every status, waited for."""

    def __init__(self) -> None:
        self.seen: asyncio.Queue = asyncio.Queue()

    async def until(self, state: str):
        """The next status of that state; not a failure that is known before the process has told its reason."""
        while (status := await self.seen.get()).state != state or status.reason in KNOWN_BEFORE:
            pass
        return status


def logged(log: CapturingLogger, event: str) -> list[dict]:
    return [call.kwargs for call in log.calls if call.args == (event,)]


@asynccontextmanager
async def supervised(kind, settings=QUICK, room=None, name="e", clock=None, needs=ALONE):
    states, log = States(), CapturingLogger()
    room = room or Sharing()
    supervisor = Supervisor(
        name, kind, settings, room=room, clock=clock or SystemClock(), log=log, on_change=states.seen.put_nowait
    )
    room.admit(supervisor, needs)
    root, models = (
        Transport(url, timeouts=TIMEOUTS, socket_path=supervisor.socket_path)
        for url in ("http://engine", "http://engine/v1")
    )
    supervisor.open(make_control(name, models, root, kind.health_path, kind.metrics_path))
    try:
        yield supervisor, states, log
    finally:
        await supervisor.close()
        await root.close()
        await models.close()


def is_running(pid: int) -> bool:
    """A process that has ended, but was not waited for by its parent, does not run."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def gone(pid: int) -> None:
    """Wait until init has buried it."""
    while is_running(pid):  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0.01)


# --- starting -----------------------------------------------------------------------------------------------------


async def test_an_engine_becomes_ready_by_its_own_health():
    async with supervised(FakeKind("well")) as (supervisor, states, _):
        with pytest.raises(EngineUnavailable, match="not ready"):
            await supervisor.enter(can_wait=False)
        await states.until("ready")
        (await supervisor.enter(can_wait=False))()


async def test_a_request_waits_for_an_engine_that_starts():
    async with supervised(FakeKind("well")) as (supervisor, _, _log):
        leave = await supervisor.enter(can_wait=True)
        assert supervisor.places.taken == 1
        leave()
        assert supervisor.places.taken == 0


async def test_a_request_does_not_wait_for_ever():
    quick = Settings(queue_timeout_s=0.05, poll_s=0.01)
    async with supervised(FakeKind("silent"), quick) as (supervisor, _, _log):
        with pytest.raises(EngineUnavailable, match="starting"):
            await supervisor.enter(can_wait=True)


async def test_an_engine_on_demand_starts_with_the_first_request():
    settings = Settings(starts_at_once=False, poll_s=0.01, scrape_s=0.01)
    kind = FakeKind("well")
    async with supervised(kind, settings) as (supervisor, _, _log):
        assert (supervisor.status.state, kind.starts) == ("stopped", 0)
        (await supervisor.enter(can_wait=True))()
        assert kind.starts == 1


async def test_progress_is_read_from_the_output_and_told_to_callers():
    async with supervised(FakeKind("shows_progress,silent")) as (supervisor, states, _):
        while supervisor.status.progress is None:
            await states.seen.get()
        assert supervisor.status.progress.done == 0.5
        assert supervisor.status.left_s is None  # what follows is unknown
        with pytest.raises(EngineUnavailable, match="loading 50%") as caught:
            await supervisor.enter(can_wait=False)
        assert caught.value.retry_after_s >= 1


async def test_how_long_a_second_start_will_take_is_known_from_the_first():
    clock = FakeClock()
    kind = FakeKind("shows_progress", "shows_progress,silent")
    async with supervised(kind, clock=clock) as (supervisor, states, _log):
        while supervisor.status.progress is None:
            await states.seen.get()
        clock.advance(60)
        took_s = clock.monotonic_s()
        await states.until("ready")
        supervisor.want("stop")
        await states.until("stopped")
        supervisor.want("run")
        while supervisor.status.left_s is None:
            await states.seen.get()
        assert 0 <= supervisor.status.left_s <= took_s


async def test_an_engine_that_never_answers_is_given_up():
    async with supervised(FakeKind("silent", start_timeout_s=0.2)) as (_, states, _log):
        assert "no answer in 0.2 s" in (await states.until("failed")).reason


# --- crashing -----------------------------------------------------------------------------------------------------


async def test_an_engine_that_cannot_start_says_why_in_its_own_words_and_is_tried_again():
    async with supervised(FakeKind("broken", "well")) as (supervisor, states, log):
        status = await states.until("failed")
        assert status.reason == "it ended with status 3; 0.0 E srv: cannot open the tensor file"
        assert logged(log, "engine down") == [{"engine": "e", "reason": status.reason, "restart_in_s": 0.001}]
        ready = await states.until("ready")
        assert (ready.restarts, ready.attempts) == (0, 2)
        (await supervisor.enter(can_wait=False))()


async def test_only_an_engine_that_was_ready_is_restarted():
    """A failed start that is tried again is another attempt."""
    async with supervised(FakeKind("broken", "dies", "broken", "well")) as (_, states, _log):
        told = [await states.until("failed") for _ in range(3)]
        assert [(status.restarts, status.attempts) for status in told] == [(0, 1), (1, 2), (1, 3)]
        ready = await states.until("ready")
        assert (ready.restarts, ready.attempts) == (1, 4)


async def test_the_cause_of_death_is_told_with_its_cure():
    async with supervised(FakeKind("dies", "well")) as (_, states, _log):
        await states.until("ready")
        assert (await states.until("failed")).reason == "out of memory; take a smaller model"
        await states.until("ready")


async def test_an_engine_that_ends_unasked_has_crashed_whatever_its_status():
    """VLLM ends with 0 when its engine core has died."""
    async with supervised(FakeKind("exits0", "well")) as (_, states, _log):
        assert (await states.until("failed")).reason.startswith("it ended with status 0")
        assert (await states.until("ready")).attempts == 2


async def test_what_cannot_help_is_not_tried_again():
    class Missing(FakeKind):
        def command(self, socket_path, api_key):
            self.starts += 1
            raise Hopeless("the model file x.gguf does not exist")

    kind = Missing("well")
    async with supervised(kind) as (supervisor, states, _log):
        reason = (await states.until("failed")).reason
        assert reason.startswith("the model file x.gguf does not exist (it is not started again by itself")
        with pytest.raises(EngineUnavailable, match=r"x\.gguf"):
            await supervisor.enter(can_wait=True)
        assert kind.starts == 1


async def test_what_has_run_can_run_again_whatever_its_output_told():
    """What would keep another from starting has not kept this one."""

    class Talkative(FakeKind):
        def explain(self, lines, *, has_run=False):
            return Hopeless("an adapter has rank 64")

    async with supervised(Talkative("dies", "well")) as (_, states, log):
        await states.until("ready")
        assert (await states.until("failed")).reason == "an adapter has rank 64"
        await states.until("ready")
        assert [line["restart_in_s"] for line in logged(log, "engine down")] == [0.001]


async def test_an_engine_that_was_killed_did_not_die_of_what_it_last_said():
    async with supervised(FakeKind("shows_progress,silent")) as (supervisor, states, _log):
        supervisor.kind.explain = lambda _lines, **_: EngineError("out of memory")
        while supervisor.status.progress is None:
            await states.seen.get()
        leader = supervisor._process.pid
        [engine] = [pid for pid in warden._members(leader) if pid != leader]
        os.kill(engine, signal.SIGKILL)
        assert (await states.until("failed")).reason.startswith("it was killed (SIGKILL): by another program")


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (signal.SIGKILL, "it was killed (SIGKILL): by another program, or by the kernel"),
        (signal.SIGINT, "it was told to end by another program (SIGINT)"),
        (signal.SIGSEGV, "it crashed (SIGSEGV)"),
        (signal.SIGABRT, "it crashed (SIGABRT)"),
        (signal.SIGBUS, "it crashed (SIGBUS)"),
    ],
)
async def test_a_signal_that_we_did_not_send_is_told_as_that(number, told):
    async with supervised(FakeKind("well")) as (supervisor, states, _log):
        await states.until("ready")
        [engine] = members(supervisor)
        os.kill(engine, number)
        assert (await states.until("failed")).reason.startswith(told)


async def test_what_was_said_before_the_last_good_look_is_no_reason():
    """A request that failed an hour ago, for one; what is said since then counts."""
    heard = []

    class Listening(FakeKind):
        def explain(self, lines, *, has_run=False):
            heard.append((list(lines), has_run))

    async with supervised(Listening("well")) as (supervisor, states, _log):
        await states.until("ready")
        kept = supervisor._process.lines
        supervisor._read_line("ValueError: of a request")
        kept.add("ValueError: of a request")
        while kept.since_well:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.001)
        [engine] = members(supervisor)
        os.kill(engine, signal.SIGABRT)
        assert "of a request" not in (await states.until("failed")).reason
    assert heard == [([], True)]


async def test_the_whole_start_counts_until_the_first_answer():
    heard = []

    class Listening(FakeKind):
        def explain(self, lines, *, has_run=False):
            heard.append((list(lines), has_run))

    async with supervised(Listening("broken", "well")) as (_, states, _log):
        await states.until("ready")
    [(lines, has_run)] = heard
    assert lines[0] == "loading 0.1"
    assert not has_run


async def test_an_engine_that_has_callers_is_not_quoted():
    """A line may hold a text of theirs, and reasons are told to others."""
    async with supervised(FakeKind("dies", "well")) as (supervisor, states, _log):
        supervisor.kind.explain = lambda _lines, **_: None
        await states.until("ready")
        reason = (await states.until("failed")).reason
        assert reason == "it ended with status 9; its last words: tidegate engines logs e"
        await states.until("ready")
        assert "out of memory" in supervisor.lines


async def test_each_pause_is_longer_than_the_one_before_and_a_crash_loop_ends():
    kind = FakeKind("broken")
    async with supervised(kind) as (supervisor, states, log):
        for _ in range(QUICK.max_crashes):
            await states.until("failed")
        pauses = [line["restart_in_s"] for line in logged(log, "engine down")]
        assert pauses == [0.001, 0.002, 0.004, 0.008, None]
        assert "tidegate engines start e" in supervisor.status.reason
        supervisor.want("run")
        await states.until("starting")


# --- stopping -----------------------------------------------------------------------------------------------------


async def test_close_ends_the_process_and_leaves_nothing_behind():
    async with supervised(FakeKind("well")) as (supervisor, states, log):
        await states.until("ready")
        [line] = logged(log, "engine ready")
        directory = Path(supervisor.socket_path).parent
        assert directory.stat().st_mode & 0o777 == 0o700
        await supervisor.close()
        with pytest.raises(ProcessLookupError):
            os.kill(line["pid"], 0)
        assert not directory.exists()
        assert supervisor.status.state == "stopped"


async def test_an_engine_that_ignores_the_request_to_stop_is_killed():
    kind = FakeKind("stubborn")
    kind.stop_s = 0.1
    async with supervised(kind) as (supervisor, states, log):
        await states.until("ready")
        await supervisor.close()
        with pytest.raises(ProcessLookupError):
            os.kill(logged(log, "engine ready")[0]["pid"], 0)


@pytest.mark.parametrize("habits", ["leaves_child", "leaves_child,dies"])
async def test_what_an_engine_has_started_goes_with_it(habits):
    """The EngineCore of vLLM holds the GPU's memory, whether its parent was stopped or has died."""
    async with supervised(FakeKind(habits, "well")) as (supervisor, states, _log):
        await states.until("ready")
        [child] = [int(line.split()[1]) for line in supervisor.lines if line.startswith("child ")]
        if "dies" in habits:
            await states.until("failed")
        else:
            supervisor.want("stop")
            await states.until("stopped")
        await gone(child)


async def test_output_without_end_stops_nobody():
    async with supervised(FakeKind("floods")) as (supervisor, states, _log):
        await states.until("ready")
        assert sum(map(len, supervisor.lines)) < 4_000_000


async def test_running_answers_have_their_time_when_an_engine_is_told_to_stop():
    async with supervised(FakeKind("well")) as (supervisor, states, _log):
        await states.until("ready")
        leave = await supervisor.enter(can_wait=False)
        supervisor.want("stop")
        await states.until("draining")
        with pytest.raises(EngineUnavailable, match="draining"):
            await supervisor.enter(can_wait=False)
        leave()
        await states.until("stopped")
        with pytest.raises(EngineUnavailable):
            await supervisor.enter(can_wait=True)
        supervisor.want("run")
        await states.until("ready")


# --- making room --------------------------------------------------------------------------------------------------


async def test_an_idle_engine_sleeps_and_the_next_request_wakes_it():
    settings = Settings(idle_unload_s=0.05, poll_s=0.01, scrape_s=0.01)
    kind = FakeKind("sleeps", sleep_level=1)
    async with supervised(kind, settings) as (supervisor, states, _log):
        await states.until("sleeping")
        (await supervisor.enter(can_wait=True))()
        assert kind.starts == 1


async def test_an_idle_engine_that_cannot_sleep_is_stopped_and_started_again():
    settings = Settings(idle_unload_s=0.05, poll_s=0.01, scrape_s=0.01)
    kind = FakeKind("well")
    async with supervised(kind, settings) as (supervisor, states, _log):
        await states.until("ready")
        await states.until("stopped")
        (await supervisor.enter(can_wait=True))()
        assert kind.starts == 2


async def test_two_engines_share_a_gpu_by_turns():
    """The longest idle one makes room; one with requests never does."""
    room = Sharing()
    lazy = Settings(starts_at_once=False, poll_s=0.01, scrape_s=0.01, queue_timeout_s=60)
    async with (
        supervised(FakeKind("well"), lazy, room, "a", needs=LARGE) as (first, first_states, _),
        supervised(FakeKind("well"), lazy, room, "b", needs=LARGE) as (second, _states, _log),
    ):
        leave = await first.enter(can_wait=True)
        waiting = asyncio.create_task(second.enter(can_wait=True))
        while "b" not in room._claims:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0)
        assert first.status.state == "ready"
        leave()
        await first_states.until("stopped")
        (await waiting)()
        assert (first.status.state, second.status.state) == ("stopped", "ready")


async def test_an_engine_that_fits_nowhere_says_so():
    room, pinned = Sharing(), Needs(awake={0: 0.9}, is_pinned=True)
    lazy = Settings(starts_at_once=False, poll_s=0.01)
    async with (
        supervised(FakeKind("well"), QUICK, room, "a", needs=pinned) as (_, states, _log),
        supervised(FakeKind("well"), lazy, room, "b", needs=LARGE) as (second, _states, _log),
    ):
        await states.until("ready")
        with pytest.raises(EngineUnavailable, match="no room for b beside the pinned engines"):
            await second.enter(can_wait=True)


async def test_requests_wait_while_it_makes_room_and_get_its_next_turn():
    """And those that may not wait are told so, as they have another target."""
    room = Sharing(SwapConfig(max_wait_s=0, min_loaded_s=0))
    lazy = Settings(starts_at_once=False, poll_s=0.01, scrape_s=0.01, queue_timeout_s=60)
    async with (
        supervised(FakeKind("well"), lazy, room, "a", needs=LARGE) as (first, first_states, log),
        supervised(FakeKind("well"), lazy, room, "b", needs=LARGE) as (second, _states, _log),
    ):
        leave = await first.enter(can_wait=True)
        waiting = asyncio.create_task(second.enter(can_wait=True))
        while first._closed_for != "b":  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.001)
        assert first.status.state == "ready"
        with pytest.raises(EngineUnavailable, match="The engine 'a' makes room for another one") as caught:
            await first.enter(can_wait=False)
        assert caught.value.retry_after_s >= 1
        again = asyncio.create_task(first.enter(can_wait=True))
        while not first.places.waiting:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.001)
        leave()
        await first_states.until("stopped")
        (await waiting)()
        (await again)()
        assert (first.status.state, second.status.state) == ("ready", "stopped")
        assert logged(log, "engine closes for another") == [{"engine": "a", "wanted": "b"}]


async def test_a_request_that_waits_for_its_next_turn_does_not_wait_for_ever():
    quick = Settings(poll_s=0.01, scrape_s=0.01, queue_timeout_s=0.05)
    async with supervised(FakeKind("well"), quick) as (supervisor, states, _log):
        await states.until("ready")
        supervisor.close_for("b")
        with pytest.raises(EngineUnavailable, match="makes room for another one"):
            await supervisor.enter(can_wait=True)
        assert supervisor.places.waiting == 0
        supervisor.reopen()
        (await supervisor.enter(can_wait=False))()


@pytest.mark.parametrize("sleep_level", [None, 1])
async def test_a_request_that_waits_goes_on_at_once_where_it_need_not_make_room(sleep_level):
    kind = FakeKind("sleeps", sleep_level=sleep_level)
    async with supervised(kind) as (supervisor, states, _log):
        await states.until("ready")
        leave = await supervisor.enter(can_wait=False)
        supervisor.close_for("b")
        waiting = asyncio.create_task(supervisor.enter(can_wait=True))
        while not supervisor.places.waiting:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.001)
        supervisor.reopen()
        (await waiting)()
        leave()
        assert kind.starts == 1


async def test_a_closed_engine_that_is_told_to_stop_leaves_no_request_waiting():
    async with supervised(FakeKind("well")) as (supervisor, states, _log):
        await states.until("ready")
        supervisor.close_for("b")
        waiting = asyncio.create_task(supervisor.enter(can_wait=True))
        while not supervisor.places.waiting:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.001)
        supervisor.want("stop")
        with pytest.raises(EngineUnavailable):
            await waiting
        await states.until("stopped")


# --- hooks ------------------------------------------------------------------------------------------------------------


def hooked(**hooks) -> Settings:
    return structs.replace(QUICK, hooks=HooksConfig(**hooks))


async def test_hooks_run_before_the_process_starts_and_when_it_is_ready(tmp_path):
    before, after = tmp_path / "before", tmp_path / "after"
    settings = hooked(before_load=("mkdir", str(before)), after_load=("mkdir", str(after)))
    kind = FakeKind("well")
    command, seen = kind.command, []

    def noted(*parts):
        seen.append((before.exists(), after.exists()))
        return command(*parts)

    kind.command = noted
    async with supervised(kind, settings) as (_, states, _log):
        await states.until("ready")
        while not after.exists():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)
        assert seen == [(True, False)]


async def test_a_hook_that_fails_before_the_load_is_a_failed_start_that_says_so(tmp_path):
    """The next start tries it again."""
    made = tmp_path / "made"
    settings = hooked(before_load=("mkdir", str(made / "below")))
    kind = FakeKind("well")
    async with supervised(kind, settings) as (_, states, _log):
        reason = (await states.until("failed")).reason
        assert reason.startswith("hooks.before_load ended with status 1: mkdir:")
        assert kind.starts == 0
        made.mkdir()
        await states.until("ready")


async def test_a_hook_that_fails_after_the_load_leaves_the_engine_as_it_is():
    async with supervised(FakeKind("well"), hooked(after_load="false")) as (supervisor, states, log):
        await states.until("ready")
        while not logged(log, "hook failed"):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)
        assert logged(log, "hook failed") == [{"engine": "e", "reason": "hooks.after_load ended with status 1"}]
        (await supervisor.enter(can_wait=False))()


@pytest.mark.parametrize("hook", ["before_load", "after_load"])
async def test_a_hook_that_still_runs_at_the_end_is_ended(hook, tmp_path):
    path = tmp_path / "pid"
    code = f"import os, time; print(os.getpid(), file=open({str(path)!r}, 'w'), flush=True); time.sleep(1000000)"
    async with supervised(FakeKind("well"), hooked(**{hook: (sys.executable, "-c", code)})) as (_supervisor, _, _log):
        while not (path.exists() and path.read_text()):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)
    await gone(int(path.read_text()))


# --- ending -----------------------------------------------------------------------------------------------------------


async def test_an_engine_that_ignores_sigterm_is_stopping_until_it_is_killed():
    kind = FakeKind("stubborn")
    kind.stop_s = 0.2
    async with supervised(kind) as (supervisor, states, _log):
        await states.until("ready")
        [engine] = members(supervisor)
        supervisor.want("stop")
        assert (await states.until("stopping")).reason == "it is stopping"
        assert is_running(engine)
        with pytest.raises(EngineUnavailable, match=r"\(stopping\)"):
            await supervisor.enter(can_wait=False)
        await states.until("stopped")
        await gone(engine)


async def test_an_engine_that_is_closed_while_it_is_being_killed_is_gone_afterwards():
    """It has not come up in time and ignores SIGTERM: a reload then was the end of the supervision alone."""
    room, clock = Sharing(), FakeClock()
    kind = FakeKind("stubborn,shows_progress,silent", start_timeout_s=30)
    kind.stop_s = 0.3
    async with supervised(kind, room=room, needs=LARGE, clock=clock) as (supervisor, states, _log):
        while supervisor.status.progress is None:
            await states.seen.get()
        engines = members(supervisor)
        clock.advance(31)
        assert (await states.until("stopping")).reason.startswith("no answer in 30 s")
        assert room._held["e"] == "loaded"
        await supervisor.close()
        assert supervisor.status.state == "stopped"
        for engine in engines:
            await gone(engine)
        assert room._held["e"] == "out"


async def test_an_engine_goes_on_when_its_status_callback_raises():
    """A terminal that is gone, for one."""
    async with supervised(FakeKind("well")) as (supervisor, _, log):

        def fail(_status):
            raise BrokenPipeError

        supervisor._on_change = fail
        (await supervisor.enter(can_wait=True))()
        assert {"engine": "e"} in logged(log, "engine status not told")


def members(supervisor: Supervisor) -> list[int]:
    """The engine's own processes, without the warden."""
    leader = supervisor._process.pid
    return [] if leader is None else [pid for pid in warden._members(leader) if pid != leader]


# --- for good ---------------------------------------------------------------------------------------------------------


async def test_one_that_goes_lets_its_answers_end_and_nobody_in():
    async with supervised(FakeKind("well")) as (supervisor, states, _log):
        leave = await supervisor.enter(can_wait=True)
        going = asyncio.create_task(supervisor.drained())
        await states.until("draining")
        with pytest.raises(EngineUnavailable):
            await supervisor.enter(can_wait=True)
        assert not going.done()
        leave()
        await going
        assert supervisor.status.state == "stopped"


async def test_one_that_does_not_answer_yet_has_nobody_to_wait_for():
    async with supervised(FakeKind("silent")) as (supervisor, states, _log):
        await states.until("starting")
        await supervisor.drained()


async def test_one_that_is_stopped_on_its_way_to_sleep_does_not_stay_for_whoever_is_still_there():
    """Their time was over."""
    brief = Settings(poll_s=0.01, scrape_s=0.01, drain_timeout_s=0.05)
    async with supervised(FakeKind("sleeps", sleep_level=1), brief) as (supervisor, states, _log):
        leave = await supervisor.enter(can_wait=True)
        supervisor.make_room()
        await states.until("draining")
        await supervisor.drained()
        assert supervisor.status.state == "stopped"
        leave()


# --- health -------------------------------------------------------------------------------------------------------


async def looked_at(supervisor) -> None:
    while supervisor.looked.load.steps is None:  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0.001)


LOOKING = Settings(backoff_s=0.001, poll_s=0.01, scrape_s=0.005, queue_timeout_s=60)


async def test_a_hung_engine_is_out_of_routing_and_started_again():
    """Its health is fine all the time; a token does not come."""
    clock = FakeClock()
    async with supervised(FakeKind("hangs", "well"), LOOKING, clock=clock) as (supervisor, states, _log):
        await states.until("ready")
        leave = await supervisor.enter(can_wait=False)
        await looked_at(supervisor)
        clock.advance(FIRST_S + 1)
        draining = await states.until("draining")
        assert draining.reason.startswith("it has work, but has not made a step for")
        clock.advance(SECOND_LOOK_S)
        failed = await states.until("failed")
        assert failed.reason.endswith("and it generates nothing")
        leave()
        await states.until("ready")


async def test_an_engine_that_only_seems_to_hang_is_let_in_again():
    """No step was seen, but a token comes."""
    clock = FakeClock()
    kind = FakeKind("well")
    async with supervised(kind, LOOKING, clock=clock) as (supervisor, states, log):
        await states.until("ready")
        leave = await supervisor.enter(can_wait=False)
        await looked_at(supervisor)
        clock.advance(FIRST_S + 1)
        await states.until("draining")
        await states.until("ready")
        leave()
        assert kind.starts == 1
        assert len(logged(log, "engine suspected")) == 1


async def test_a_slow_engine_is_left_alone():
    """Ten minutes in which it takes its time for each step."""
    clock = FakeClock()
    kind = FakeKind("slow")
    async with supervised(kind, LOOKING, clock=clock) as (supervisor, states, log):
        await states.until("ready")
        leave = await supervisor.enter(can_wait=False)
        for _ in range(30):
            before = supervisor.looked.load.steps
            clock.advance(20)
            while supervisor.looked.load.steps == before:  # noqa: ASYNC110 - it is another process
                await asyncio.sleep(0.001)
        leave()
        assert supervisor.status.state == "ready"
        assert logged(log, "engine suspected") == []


# --- doubt --------------------------------------------------------------------------------------------------------

DOUBTED = Settings(backoff_s=0.001, poll_s=0.01, scrape_s=600, queue_timeout_s=60, ending_s=0.05)


def refused() -> UpstreamUnreachable:
    error = UpstreamUnreachable("refused")
    error.is_unconnected = True
    return error


async def metrics_of(supervisor, *, times: int) -> None:
    """Ask an engine for its metrics."""
    wire = Transport("http://engine", timeouts=TIMEOUTS, socket_path=supervisor.socket_path)
    for _ in range(times):
        await wire.get("/metrics")
    await wire.close()


async def test_an_engine_that_refuses_a_request_is_out_of_routing_at_once_and_back_if_it_answers_after_all():
    kind = FakeKind("well")
    async with supervised(kind, DOUBTED) as (supervisor, states, _log):
        await states.until("ready")
        supervisor.doubt(refused())
        assert supervisor.status == EngineStatus("failed", REFUSED, attempts=1)
        with pytest.raises(EngineUnavailable, match="failed"):
            await supervisor.enter(can_wait=False)
        (await supervisor.enter(can_wait=True))()
        assert (kind.starts, supervisor.status) == (1, EngineStatus("ready", attempts=1))


async def test_an_engine_that_says_that_it_is_dead_is_ended_and_started_again():
    """Its process goes on, and requests wait for the next one."""
    kind = FakeKind("ill,stubborn", "well")
    settings = Settings(backoff_s=0.001, poll_s=0.01, scrape_s=0.01, queue_timeout_s=60, ending_s=0.05)
    async with supervised(kind, settings) as (supervisor, states, _log):
        status = await states.until("failed")
        assert status.reason == UNHEALTHY
        pid = supervisor._process.pid
        (await supervisor.enter(can_wait=True))()
        assert (kind.starts, supervisor.status.restarts, is_running(pid)) == (2, 1, False)


async def test_before_the_next_try_of_a_request_that_failed_the_engine_is_looked_at():
    async with supervised(FakeKind("well"), DOUBTED) as (supervisor, states, log):
        await states.until("ready")
        supervisor.doubt(UpstreamRejected("the caller's fault"))
        assert not supervisor._doubt.is_open
        supervisor.doubt(UpstreamFailed("500"))
        (await supervisor.enter(can_wait=False))()
        assert not supervisor._doubt.is_open
        assert logged(log, "engine failed") == []


async def test_a_dead_engine_is_known_before_the_next_try():
    """Here by the request alone: nothing looks at it for ten minutes."""
    async with supervised(FakeKind("ill", "well"), DOUBTED) as (supervisor, states, _log):
        await states.until("ready")
        await metrics_of(supervisor, times=2)
        supervisor.doubt(UpstreamFailed("500"))
        with pytest.raises(EngineUnavailable, match="failed"):
            await supervisor.enter(can_wait=False)


async def test_an_engine_that_has_failed_can_be_stopped_before_its_process_has_ended():
    slow = Settings(backoff_s=0.001, poll_s=0.01, scrape_s=600, ending_s=600)
    async with supervised(FakeKind("well"), slow) as (supervisor, states, _log):
        await states.until("ready")
        supervisor.doubt(refused())
        supervisor.want("stop")
        await states.until("stopped")


def test_errors_of_engines_are_one_family():
    assert issubclass(Hopeless, EngineError)


# --- what it says, and which orders it does not take; without a process ----------------------------------------


class Kind:
    """Reads `PHASE SHARE` from its output."""

    def __init__(self, sleep_level: int | None = None) -> None:
        self.sleep_level = sleep_level

    def progress(self, line):
        phase, _, share = line.partition(" ")
        return Progress(phase, float(share) if share else None)


class Started:
    """A supervisor whose engine started just now, its clock and its log."""

    def __init__(self) -> None:
        self.clock, self.log = FakeClock(), CapturingLogger()
        self.supervisor = Supervisor("e", Kind(), Settings(), room=Sharing(), clock=self.clock, log=self.log)
        self.supervisor._estimate.begin(self.clock.monotonic_s())
        self.supervisor.status = EngineStatus("starting")

    def left_s(self, line: str) -> float | None:
        self.supervisor._read_line(line)
        return self.supervisor.status.left_s


@pytest.fixture
async def started():
    made = Started()
    yield made
    await made.supervisor.close()


def test_each_phase_is_logged_once(started):
    for line in ("loading 0.1", "loading 0.6", "capturing", "capturing 0.5"):
        started.left_s(line)
    assert [(call.args[0], call.kwargs["phase"]) for call in started.log.calls] == [
        ("engine loading", "loading"),
        ("engine loading", "capturing"),
    ]


def test_what_is_left_of_a_phase_is_not_told_as_what_is_left_of_the_start(started):
    started.clock.advance(10)
    assert started.left_s("downloading 0.25") is None
    assert started.supervisor._unavailable().retry_after_s == 30  # it takes that long at least


def test_what_an_earlier_start_took_is_told_from_the_beginning_and_counted_down(started):
    clock, supervisor = started.clock, started.supervisor
    clock.advance(40)
    started.left_s("compiling")
    clock.advance(60)
    supervisor._estimate.end(clock.monotonic_s())
    supervisor._estimate.begin(clock.monotonic_s())
    supervisor.status = EngineStatus("starting")
    supervisor._count_down()
    assert supervisor.status.left_s == 100
    clock.advance(30)
    supervisor._count_down()
    assert supervisor.status.left_s == 70
    assert supervisor._unavailable().retry_after_s == 70
    assert started.left_s("compiling") == 60
    assert supervisor._unavailable().retry_after_s == 60


def test_an_engine_that_has_failed_is_stopped_at_once(started):
    started.supervisor.status = EngineStatus("failed", "out of memory", 3)
    started.supervisor.want("stop")
    told = EngineStatus("stopped", "it was told to stop: tidegate engines start e", 3)
    assert started.supervisor.status == told


@pytest.mark.parametrize(
    ("level", "state", "told"),
    [(None, "ready", "has no sleep_level"), (1, "stopped", "does not run"), (2, "failed", "does not run")],
)
def test_an_engine_that_cannot_sleep_says_so(started, level, state, told):
    started.supervisor.kind = Kind(level)
    started.supervisor.status = EngineStatus(state)
    with pytest.raises(EngineError, match=told):
        started.supervisor.want("sleep")


@pytest.mark.parametrize(
    ("goal", "state", "is_held", "crashes", "outlook"),
    [
        ("run", "ready", False, 0, "ready"),
        ("stop", "stopped", False, 0, "unloaded"),
        ("sleep", "sleeping", False, 0, "unloaded"),
        ("run", "stopped", False, 0, "loading"),
        ("run", "starting", False, 0, "loading"),
        ("run", "failed", False, 1, "loading"),
        ("run", "failed", False, 2, "unavailable"),
        ("stop", "stopped", True, 0, "unavailable"),
        ("stop", "draining", False, 0, "unavailable"),
    ],
)
def test_the_outlook_of_an_engine(started, goal, state, is_held, crashes, outlook):
    started.supervisor.status = EngineStatus(state)
    started.supervisor._goal, started.supervisor._is_held, started.supervisor._crashes = goal, is_held, crashes
    assert started.supervisor.outlook == outlook


def test_one_that_is_to_be_loaded_is_loaded_unless_the_administrator_has_stopped_it(started):
    supervisor = started.supervisor
    supervisor.status, supervisor._goal = EngineStatus("stopped"), "stop"
    supervisor.load()
    assert supervisor.outlook == "loading"
    supervisor._goal, supervisor._is_held = "stop", True
    supervisor.load()
    assert supervisor.outlook == "unavailable"
