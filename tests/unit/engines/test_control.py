"""What is asked of an engine over its own routes."""

import json

import pytest
from tidegate.engines.control import HttpControl
from tidegate.engines.scrape import read_load
from tidegate.engines.supervision.due_check import NO_ANSWER, REFUSED, UNHEALTHY
from tidegate.errors import UpstreamFailed, UpstreamTimeout, UpstreamUnreachable

METRICS = b"llamacpp:n_decode_total 5\n"


class Wire:
    """Answers by path; an error is raised."""

    def __init__(self, **answers):
        self.answers = {f"/{path}": answer for path, answer in answers.items()}
        self.asked = []
        self.keys = []

    async def get(self, path):
        return self._answer(path, None)

    async def ask(self, path, body):
        return self._answer(path, body)

    def use_keys(self, api_keys):
        self.keys.append(api_keys)

    def use_port(self, port):
        self.port = port

    def _answer(self, path, body):
        self.asked.append((path, body))
        answer = self.answers.get(path, b"")
        if isinstance(answer, Exception):
            raise answer
        return answer


def control(root, api=None, *, metrics_path="/metrics", model="m", sleep_paths=None):
    return HttpControl(
        root,
        api or Wire(),
        health_path="/health",
        metrics_path=metrics_path,
        read_load=read_load,
        model=model,
        sleep_paths=sleep_paths,
    )


async def test_health_is_a_yes_or_a_no():
    assert await control(Wire()).answers()
    assert not await control(Wire(health=UpstreamUnreachable("refused"))).answers()


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
async def test_its_health_tells_whether_it_is_dead_and_silence_tells_nothing(answer, expected):
    assert await control(Wire(health=answer)).fault() == expected


async def test_the_metrics_are_kept_as_they_came():
    asks = control(Wire(metrics=METRICS))
    assert asks.metrics == b""
    assert (await asks.load()).steps == 5
    assert asks.metrics == METRICS


async def test_a_failed_scrape_keeps_the_last_metrics_and_a_new_start_forgets_them():
    root, api = Wire(metrics=METRICS), Wire()
    asks = control(root, api)
    await asks.load()
    root.answers["/metrics"] = UpstreamFailed("500")
    with pytest.raises(UpstreamFailed):
        await asks.load()
    assert asks.metrics == METRICS
    asks.use_key("k")
    assert asks.metrics == b""
    assert root.keys == api.keys == [["k"]]


async def test_an_engine_without_metrics_is_asked_for_its_health():
    """It tells nothing of its load, but a refused connection and a silence show."""
    root = Wire()
    assert (await control(root, metrics_path=None).load()).steps is None
    assert root.asked == [("/health", None)]
    root.answers["/health"] = UpstreamUnreachable("refused")
    with pytest.raises(UpstreamUnreachable):
        await control(root, metrics_path=None).load()


async def test_it_is_tried_with_one_token_of_plain_text():
    """Not every model has a chat template."""
    api = Wire()
    await control(Wire(), api).generate()
    [(path, body)] = api.asked
    assert (path, json.loads(body)) == ("/completions", {"model": "m", "prompt": "1", "max_tokens": 1})


async def test_where_we_do_not_know_the_models_name_the_engine_does():
    api = Wire(models=b'{"object": "list", "data": [{"id": "theirs"}, {"id": "adapter"}]}')
    await control(Wire(), api, model=None).generate()
    assert json.loads(api.asked[1][1])["model"] == "theirs"


@pytest.mark.parametrize("body", [b"", b"{}", b'{"data": []}', b"<html>"])
async def test_an_engine_that_lists_no_models_cannot_be_tried(body):
    with pytest.raises(UpstreamFailed, match="does not list its models"):
        await control(Wire(), Wire(models=body), model=None).generate()


async def test_it_is_put_to_sleep_and_woken_at_its_root():
    root = Wire()
    await control(root).sleep(1)
    await control(root).wake(1)
    assert root.asked == [("/sleep?level=1", b""), ("/wake_up", b"")]


async def test_a_server_with_routes_of_its_own_is_put_to_sleep_there():
    """With a body: SGLang takes no POST without one."""
    root = Wire()
    asks = control(root, sleep_paths=("/release_memory_occupation", "/resume_memory_occupation"))
    await asks.sleep(1)
    await asks.wake(1)
    assert root.asked == [("/release_memory_occupation", b"{}"), ("/resume_memory_occupation", b"{}")]


def test_both_wires_go_to_the_port_of_this_start():
    root, api = Wire(), Wire()
    control(root, api).use_port(4711)
    assert (root.port, api.port) == (4711, 4711)


async def test_weights_that_were_dropped_are_read_again_before_there_is_a_cache():
    """`/wake_up` alone gives the memory back and what happens to be in it: vLLM would answer, with noise."""
    root = Wire()
    await control(root).sleep(2)
    await control(root).wake(2)
    assert root.asked == [
        ("/sleep?level=2", b""),
        ("/wake_up?tags=weights", b""),
        ("/collective_rpc", b'{"method":"reload_weights"}'),
        ("/wake_up?tags=kv_cache", b""),
    ]


async def test_what_was_loaded_is_brought_back_by_whom_it_is_known():
    restored = []

    async def restore():
        restored.append("sql")

    asks = HttpControl(
        Wire(), Wire(), health_path="/", metrics_path=None, read_load=read_load, model="m", restore=restore
    )
    await asks.restore()
    await control(Wire()).restore()
    assert restored == ["sql"]
