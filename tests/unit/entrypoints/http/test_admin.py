"""The endpoints under `/admin`, and who may use them."""

import json

import pytest
from structlog.testing import CapturingLogger

from tidegate.auth import KeyRing
from tidegate.clock import SystemClock
from tidegate.config.engines import ExternalConfig, LlamaCppConfig, VllmConfig
from tidegate.config.server import ServerConfig
from tidegate.deadline import Deadlines
from tidegate.engines.base import EngineError, EngineStatus, Load, Progress, ScrapedLoad
from tidegate.engines.factory import EngineEntry
from tidegate.engines.requests import EngineRequests
from tidegate.entrypoints.http.admin import AdminHandler
from tidegate.entrypoints.http.request_scope import RunningRequests
from tidegate.entrypoints.http.services import Services
from tidegate.errors import EngineUnavailable, UpstreamRejected
from tidegate.operations.administration import EngineAdministration
from tidegate.operations.readiness import Readiness
from tidegate.routing.offline import Offline

JSON = [(b"content-type", b"application/json")]
KEY = [(b"authorization", b"Bearer sk-admin")]


class Engine:
    """An engine that does nothing but record the goals it is given."""

    def __init__(self, name: str, status: EngineStatus, *, refusal: str = "") -> None:
        self.name = name
        self.status = status
        self.scraped_load = ScrapedLoad(Load(running=2, waiting=1, kv_used=0.5))
        self.lines = ["loading", "größer"]
        self.requests = EngineRequests(SystemClock())
        self.goals: list[str] = []
        self.entered: list[int] = []
        self._refusal = refusal

    async def acquire_slot(self, *, can_wait: bool):
        if self.status.state != "ready":
            raise EngineUnavailable("not yet", retry_after_s=7)
        assert can_wait
        self.requests.take()
        return self.requests.release

    def set_goal(self, goal):
        if self._refusal:
            raise EngineError(self._refusal)
        self.goals.append(goal)


class Adapters:
    """Loads every adapter that is not called `bad`; asserts that an engine slot is taken meanwhile."""

    def __init__(self, engine: Engine) -> None:
        self.calls: list[tuple[str, ...]] = []
        self._engine = engine

    async def load(self, name, path):
        return self._note("load", name, path)

    async def unload(self, name):
        return self._note("unload", name)

    def _note(self, *call):
        assert self._engine.requests.taken == 1
        self.calls.append(call)
        if "bad" in call:
            raise UpstreamRejected("No such adapter", status=404)
        return "Success"


class Pipeline:
    """Records the error codes of the requests that are logged; None for a success."""

    def __init__(self) -> None:
        self.noted = []

    def settle_without_answer(self, context, error=None):
        self.noted.append(None if error is None else error.code)


class Stage:
    """Three engines, and the handler under test."""

    def __init__(self, admin_key: str | None) -> None:
        loading = EngineStatus("starting", "the model is being loaded", 1, Progress("loading weights", 0.25), 90.0)
        self.r1 = Engine("r1", EngineStatus("ready"))
        self.tiny = Engine("tiny", loading)
        self.theirs = Engine("theirs", EngineStatus("ready"), refusal="the engine theirs cannot be stopped from here")
        self.adapters = Adapters(self.r1)
        self.pipeline = Pipeline()
        self.log = CapturingLogger()
        vllm = VllmConfig(model="deepseek-ai/R1", runtime_adapters=True)
        external = ExternalConfig(base_url="http://10.0.0.1/v1")
        entries = self.entries = {
            "r1": EngineEntry(self.r1, vllm, None, "vllm", adapters=self.adapters),
            "tiny": EngineEntry(self.tiny, LlamaCppConfig(model="package:x"), None, "llamacpp"),
            "theirs": EngineEntry(self.theirs, external, None, "vllm"),
        }
        engines = [entry.engine for entry in entries.values()]
        services = Services(
            pipeline=self.pipeline,
            listing=None,
            explainer=None,
            reload=None,
            feedback=None,
            readiness=Readiness(
                KeyRing([], admin_key), engines, [], None, Offline(SystemClock(), forced=False, names=[])
            ),
            administration=EngineAdministration(entries, self.log),
            limits=ServerConfig(),
            running=RunningRequests(),
            clock=SystemClock(),
            deadlines=Deadlines(),
        )
        self._handler = AdminHandler(services)

    async def ask(self, method, path, body=b"", headers=(), client=("127.0.0.1", 1)):
        sent = []

        async def send(message):
            sent.append(message)

        async def receive():
            return {"type": "http.request", "body": body, "more_body": False}

        scope = {"type": "http", "method": method, "path": path, "headers": list(headers), "client": client}
        await self._handler(scope, receive, send)
        return sent[0]["status"], sent[1]["body"], dict(sent[0]["headers"])

    async def error_code(self, *arguments, **more):
        status, body, _ = await self.ask(*arguments, **more)
        return status, json.loads(body)["error"]["code"]


@pytest.fixture
def stage():
    return Stage(admin_key=None)


async def test_every_engine_is_listed_with_what_it_does_and_how_busy_it_is(stage):
    stage.r1.requests.take()
    status, body, _ = await stage.ask("GET", "/engines")
    r1, tiny, theirs = json.loads(body)["engines"]
    load = {
        "running": 2.0,
        "waiting": 1.0,
        "kv_used": 0.5,
        "prefix_hit_rate": None,
        "ttft_s": None,
        "steps": None,
    }
    assert status == 200
    assert r1 == {
        "name": "r1",
        "kind": "vllm",
        "model": "deepseek-ai/R1",
        "state": "ready",
        "reason": "",
        "progress": None,
        "left_s": None,
        "restarts": 0,
        "in_flight": 1,
        "load": load,
        "attempts": 0,
        "waiting": 0,
    }
    assert (tiny["state"], tiny["reason"], tiny["restarts"]) == ("starting", "the model is being loaded", 1)
    assert (tiny["progress"], tiny["left_s"]) == ({"phase": "loading weights", "done": 0.25}, 90.0)
    assert (theirs["kind"], theirs["model"]) == ("external", "http://10.0.0.1/v1")
    assert json.loads((await stage.ask("GET", "/engines/r1"))[1]) == r1


@pytest.mark.parametrize(("order", "goal"), [("start", "run"), ("stop", "stop"), ("sleep", "sleep"), ("wake", "run")])
async def test_an_order_is_passed_on_and_logged(stage, order, goal):
    """The engine follows it later, so the answer is 202 with the current report."""
    status, body, _ = await stage.ask("POST", f"/engines/r1/{order}", headers=JSON)
    assert (status, json.loads(body)["state"]) == (202, "ready")
    assert stage.r1.goals == [goal]
    (line,) = stage.log.calls
    assert (line.args, line.kwargs) == (("engine goal set",), {"engine": "r1", "goal": goal})
    assert stage.pipeline.noted == [None]


async def test_an_order_that_cannot_be_followed_is_a_conflict_with_the_reason(stage):
    status, body, _ = await stage.ask("POST", "/engines/theirs/stop", headers=JSON)
    assert status == 409
    assert json.loads(body)["error"] == {
        "message": "The engine theirs cannot be stopped from here.",
        "type": "invalid_request_error",
        "param": None,
        "code": "conflict",
    }
    assert stage.pipeline.noted == ["conflict"]
    assert stage.log.calls == []


async def test_the_output_is_text(stage):
    status, body, headers = await stage.ask("GET", "/engines/tiny/logs")
    assert (status, body.decode()) == (200, "loading\ngrößer\n")
    assert headers[b"content-type"] == b"text/plain; charset=utf-8"


async def test_there_is_no_output_of_an_external_engine(stage):
    assert await stage.error_code("GET", "/engines/theirs/logs") == (409, "conflict")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/engines/r2"),
        ("GET", "/engines/r2/logs"),
        ("POST", "/engines/r2/stop"),
        ("POST", "/engines/r2/adapters"),
        ("DELETE", "/engines/r2/adapters/a"),
    ],
)
async def test_an_unknown_engine_is_a_404(stage, method, path):
    body = b'{"name": "a", "path": "/a"}'
    assert await stage.error_code(method, path, body, headers=JSON) == (404, "engine_not_found")


@pytest.mark.parametrize(
    "path", ["", "/", "/other", "/engines/r1/restart", "/engines/r1/stop/now", "/engines/r1/logs/1"]
)
async def test_an_unknown_path_is_a_404(stage, path):
    assert await stage.error_code("POST", path, headers=JSON) == (404, "unknown_url")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/engines", b"GET, HEAD"),
        ("GET", "/engines/r1/stop", b"POST"),
        ("DELETE", "/engines/r1/logs", b"GET, HEAD"),
        ("GET", "/engines/r1/adapters", b"POST"),
        ("POST", "/engines/r1/adapters/a", b"DELETE"),
    ],
)
async def test_a_wrong_method_is_a_405(stage, method, path, allowed):
    status, _, headers = await stage.ask(method, path, headers=JSON)
    assert (status, headers[b"allow"]) == (405, allowed)
    assert stage.r1.goals == []


@pytest.mark.parametrize("declared", [[], [(b"content-type", b"text/plain")]])
@pytest.mark.parametrize("path", ["/engines/r1/stop", "/engines/r1/adapters"])
async def test_a_web_page_in_a_browser_cannot_give_orders_to_engines(stage, declared, path):
    """Without a preflight request, a page can send a body to another origin only if it is not declared as JSON."""
    body = b'{"name": "a", "path": "/a"}'
    assert await stage.error_code("POST", path, body, headers=declared) == (415, "unsupported_media_type")
    assert (stage.r1.goals, stage.adapters.calls) == ([], [])


@pytest.mark.parametrize(
    ("admin_key", "headers", "client", "status"),
    [
        (None, [], ("10.0.0.2", 1), 403),
        (None, [(b"host", b"evil.example")], ("127.0.0.1", 1), 403),
        ("sk-admin", [], ("127.0.0.1", 1), 401),
        ("sk-admin", [(b"x-api-key", b"sk-other")], ("127.0.0.1", 1), 401),
        ("sk-admin", KEY, ("10.0.0.2", 1), 202),
    ],
)
async def test_only_the_administrator_can_give_orders_to_engines(admin_key, headers, client, status):
    stage = Stage(admin_key)
    answered, _, _ = await stage.ask("POST", "/engines/r1/stop", headers=JSON + headers, client=client)
    assert answered == status
    assert stage.r1.goals == (["stop"] if status == 202 else [])


# --- adapters -----------------------------------------------------------------------------------------------------


async def test_an_engine_slot_is_taken_while_an_adapter_is_loaded_or_unloaded(stage):
    """Otherwise the engine might be stopped meanwhile."""
    status, body, _ = await stage.ask("POST", "/engines/r1/adapters", b'{"name": "sql", "path": "/a/sql"}', JSON)
    assert (status, json.loads(body)) == (200, {"message": "Success"})
    status, body, _ = await stage.ask("DELETE", "/engines/r1/adapters/team/sql")
    assert (status, json.loads(body)) == (200, {"message": "Success"})
    assert stage.adapters.calls == [("load", "sql", "/a/sql"), ("unload", "team/sql")]
    assert stage.r1.requests.taken == 0
    assert [(call.args[0], call.kwargs["adapter"]) for call in stage.log.calls] == [
        ("adapter loaded", "sql"),
        ("adapter unloaded", "team/sql"),
    ]


async def test_the_engines_refusal_is_passed_on_and_the_slot_is_released(stage):
    status, body, _ = await stage.ask("DELETE", "/engines/r1/adapters/bad")
    assert (status, json.loads(body)["error"]["message"]) == (404, "No such adapter")
    assert stage.r1.requests.taken == 0
    assert stage.log.calls == []


async def test_an_engine_that_is_not_ready_takes_no_adapter(stage):
    stage.r1.status = EngineStatus("starting")
    status, _, headers = await stage.ask("DELETE", "/engines/r1/adapters/a")
    assert (status, headers[b"retry-after"]) == (503, b"7")
    assert stage.adapters.calls == []


async def test_adapters_are_loaded_and_unloaded_only_if_the_config_allows_it(stage):
    status, body, _ = await stage.ask("DELETE", "/engines/tiny/adapters/a")
    assert status == 409
    assert "runtime_adapters" in json.loads(body)["error"]["message"]


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"{}", b'{"name": "a"}', b'{"name": "", "path": "/a"}', b'{"name": "a", "path": "/a", "x": 1}'],
)
async def test_an_adapter_needs_a_name_and_a_path_and_nothing_else(stage, body):
    status, _, _ = await stage.ask("POST", "/engines/r1/adapters", body, JSON)
    assert status == 400
    assert stage.adapters.calls == []


# --- replicas -----------------------------------------------------------------------------------------------------


@pytest.fixture
def replicas(stage):
    """Two replicas of an engine `gpu`, of which the second has given up."""
    engines = [Engine("gpu:1", EngineStatus("ready")), Engine("gpu:2", EngineStatus("failed"), refusal="it cannot")]
    config = VllmConfig(model="m", runtime_adapters=True)
    for engine in engines:
        stage.entries[engine.name] = EngineEntry(engine, config, None, "vllm", adapters=Adapters(engine))
    return engines


async def test_an_engines_name_means_all_of_its_replicas(stage, replicas):
    status, body, _ = await stage.ask("GET", "/engines/gpu")
    assert (status, [each["name"] for each in json.loads(body)["engines"]]) == (200, ["gpu:1", "gpu:2"])
    status, body, _ = await stage.ask("POST", "/engines/gpu/stop", headers=JSON)
    assert (status, len(json.loads(body)["engines"])) == (202, 2)
    assert [engine.goals for engine in replicas] == [["stop"], []]
    replicas[1].status, replicas[1]._refusal = EngineStatus("ready"), ""
    await stage.ask("POST", "/engines/gpu/adapters", b'{"name": "sql", "path": "/a/sql"}', JSON)
    await stage.ask("DELETE", "/engines/gpu/adapters/sql")
    for engine in replicas:
        assert stage.entries[engine.name].adapters.calls == [("load", "sql", "/a/sql"), ("unload", "sql")]


async def test_the_name_of_a_replica_means_only_that_replica(stage, replicas):
    assert json.loads((await stage.ask("GET", "/engines/gpu:1"))[1])["name"] == "gpu:1"
    await stage.ask("POST", "/engines/gpu:1/stop", headers=JSON)
    assert [engine.goals for engine in replicas] == [["stop"], []]
    assert await stage.error_code("POST", "/engines/gpu:2/stop", headers=JSON) == (409, "conflict")
    assert await stage.error_code("GET", "/engines/gpu:3") == (404, "engine_not_found")


async def test_the_output_of_all_replicas_is_labelled_by_replica(stage, replicas):
    replicas[1].lines = ["other"]
    body = (await stage.ask("GET", "/engines/gpu/logs"))[1].decode()
    assert body == "==> gpu:1 <==\nloading\ngrößer\n==> gpu:2 <==\nother\n"
    assert (await stage.ask("GET", "/engines/gpu:2/logs"))[1] == b"other\n"
