"""`HttpControl`: the requests to an engine's own routes."""

import json

import pytest

from tidegate.engines.control import HttpControl
from tidegate.engines.scrape import read_load
from tidegate.engines.supervision.health_recheck import NO_ANSWER, REFUSED, UNHEALTHY
from tidegate.errors import UpstreamFailed, UpstreamTimeout, UpstreamUnreachable

METRICS = b"llamacpp:n_decode_total 5\n"


class FakeTransport:
    """Gives the answer for a path; an answer that is an exception is raised. Stores every request in `calls`."""

    def __init__(self, **answers):
        self.answers = {f"/{path}": answer for path, answer in answers.items()}
        self.calls = []
        self.keys = []

    async def get(self, path):
        return self._answer(path, None)

    async def post_and_read(self, path, body):
        return self._answer(path, body)

    def use_keys(self, api_keys):
        self.keys.append(api_keys)

    def use_port(self, port):
        self.port = port

    def _answer(self, path, body):
        self.calls.append((path, body))
        answer = self.answers.get(path, b"")
        if isinstance(answer, Exception):
            raise answer
        return answer


def control(root, api=None, *, metrics_path="/metrics", model="m", sleep_paths=None):
    return HttpControl(
        root,
        api or FakeTransport(),
        health_path="/health",
        metrics_path=metrics_path,
        read_load=read_load,
        model=model,
        sleep_paths=sleep_paths,
    )


async def test_answers_returns_whether_the_health_route_answers():
    assert await control(FakeTransport()).answers()
    assert not await control(FakeTransport(health=UpstreamUnreachable("refused"))).answers()


def refused() -> UpstreamUnreachable:
    error = UpstreamUnreachable("refused")
    error.is_unconnected = True
    return error


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"", None),
        (refused(), REFUSED),
        (UpstreamFailed("GET /health answered 503."), UNHEALTHY),
        (UpstreamUnreachable("broke"), NO_ANSWER),
        (UpstreamTimeout("no room"), None),
    ],
)
async def test_a_fault_is_a_refusal_or_an_error_and_not_a_timeout(answer, expected):
    assert await control(FakeTransport(health=answer)).fault() == expected


async def test_the_body_of_the_metrics_is_kept():
    http_control = control(FakeTransport(metrics=METRICS))
    assert http_control.metrics == b""
    assert (await http_control.load()).steps == 5
    assert http_control.metrics == METRICS


async def test_a_failed_scrape_keeps_the_last_metrics_and_a_new_start_forgets_them():
    root, api = FakeTransport(metrics=METRICS), FakeTransport()
    http_control = control(root, api)
    await http_control.load()
    root.answers["/metrics"] = UpstreamFailed("500")
    with pytest.raises(UpstreamFailed):
        await http_control.load()
    assert http_control.metrics == METRICS
    http_control.use_key("k")
    assert http_control.metrics == b""
    assert root.keys == api.keys == [["k"]]


async def test_an_engine_without_metrics_gets_a_health_check():
    """It reports no load, but a refused connection or a timeout is still noticed."""
    root = FakeTransport()
    assert (await control(root, metrics_path=None).load()).steps is None
    assert root.calls == [("/health", None)]
    root.answers["/health"] = UpstreamUnreachable("refused")
    with pytest.raises(UpstreamUnreachable):
        await control(root, metrics_path=None).load()


async def test_the_test_request_is_a_completion_of_one_token():
    """Not every model has a chat template."""
    api = FakeTransport()
    await control(FakeTransport(), api).generate()
    [(path, body)] = api.calls
    assert (path, json.loads(body)) == ("/completions", {"model": "m", "prompt": "1", "max_tokens": 1})


async def test_the_test_request_uses_the_first_listed_model_if_no_name_is_given():
    api = FakeTransport(models=b'{"object": "list", "data": [{"id": "theirs"}, {"id": "adapter"}]}')
    await control(FakeTransport(), api, model=None).generate()
    assert json.loads(api.calls[1][1])["model"] == "theirs"


@pytest.mark.parametrize("body", [b"", b"{}", b'{"data": []}', b"<html>"])
async def test_an_engine_that_lists_no_models_gets_no_test_request(body):
    with pytest.raises(UpstreamFailed, match="does not list its models"):
        await control(FakeTransport(), FakeTransport(models=body), model=None).generate()


async def test_sleep_and_wake_are_routes_at_the_servers_root():
    root = FakeTransport()
    await control(root).sleep(1)
    await control(root).wake(1)
    assert root.calls == [("/sleep?level=1", b""), ("/wake_up", b"")]


async def test_sleep_and_wake_use_the_paths_of_the_config():
    """The requests have a body, as SGLang refuses a POST without one."""
    root = FakeTransport()
    http_control = control(root, sleep_paths=("/release_memory_occupation", "/resume_memory_occupation"))
    await http_control.sleep(1)
    await http_control.wake(1)
    assert root.calls == [("/release_memory_occupation", b"{}"), ("/resume_memory_occupation", b"{}")]


def test_both_transports_use_the_port_of_this_start():
    root, api = FakeTransport(), FakeTransport()
    control(root, api).use_port(4711)
    assert (root.port, api.port) == (4711, 4711)


async def test_after_level_2_the_weights_are_reloaded_before_the_cache_is_allocated():
    """With `/wake_up` alone the memory holds arbitrary bytes in place of the weights, and vLLM answers nonsense."""
    root = FakeTransport()
    await control(root).sleep(2)
    await control(root).wake(2)
    assert root.calls == [
        ("/sleep?level=2", b""),
        ("/wake_up?tags=weights", b""),
        ("/collective_rpc", b'{"method":"reload_weights"}'),
        ("/wake_up?tags=kv_cache", b""),
    ]


async def test_restore_calls_the_given_function():
    restored = []

    async def restore():
        restored.append("sql")

    http_control = HttpControl(
        FakeTransport(),
        FakeTransport(),
        health_path="/",
        metrics_path=None,
        read_load=read_load,
        model="m",
        restore=restore,
    )
    await http_control.restore()
    await control(FakeTransport()).restore()
    assert restored == ["sql"]
