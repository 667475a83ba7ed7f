"""The targets and cards behind the model names that callers use, and the statuses of engines."""

import json
import time
from functools import partial
from types import SimpleNamespace
from typing import get_args

import aiohttp
import pytest

from tests.fakes import proxy
from tests.fakes.upstream import ScenarioUpstream, answers
from tidegate.app import models
from tidegate.app.app import App
from tidegate.config.cards import UNKNOWN, Cards, known_cards
from tidegate.config.engines import VllmConfig
from tidegate.config.evals import EvalFile, EvalScore, to_json
from tidegate.config.load import parse
from tidegate.config.replicas import expand, groups
from tidegate.engines.base import EngineStatus
from tidegate.engines.states import State
from tidegate.errors import ConfigError
from tidegate.protocol.models import Status
from tidegate.routing.targets import Target

CARDS = Cards({}, known_cards())
HI = [{"role": "user", "content": "hi"}]


local = partial(Target, is_local=True)


def card_of(model, checkpoint_card=None, **config):
    return models.card_of(VllmConfig(model=model, **config), checkpoint_card, CARDS)


@pytest.mark.parametrize("model", ["deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", "/models/DeepSeek-R1-Distill-Qwen-7B/"])
def test_an_engine_has_the_card_of_its_model(model):
    """The name of the engine in the config does not decide."""
    assert card_of(model) == CARDS.named("deepseek-r1-distill")


def test_the_checkpoint_decides_if_no_card_fits_the_name_of_the_model():
    assert card_of("/models/ours", "deepseek-v4") == CARDS.named("deepseek-v4")
    assert card_of("deepseek-ai/DeepSeek-V4.1-Flash", "deepseek-v4") == CARDS.named("deepseek-v4.1")
    assert card_of("/models/ours") is UNKNOWN


def test_the_context_window_is_the_one_that_the_engine_was_started_with():
    assert card_of("deepseek-ai/DeepSeek-V4-Flash", max_model_len=2048).context_window == 2048
    assert card_of("/models/ours", max_model_len=2048).context_window == 2048


def test_the_target_of_a_command_engine_uses_the_model_name_that_its_server_uses():
    """Its card is found by the path of the model that it loads; callers do not see that path."""
    config = parse(
        "engines:\n"
        "  a: {kind: command, cmd: 'x ${PORT}', model: deepseek-ai/DeepSeek-V3.1}\n"
        "  b: {kind: command, cmd: 'x ${PORT}', model: /models/DeepSeek-R1-Distill-Qwen-7B-Q4_K_M.gguf}\n"
        "models: {m: {targets: [{engine: a, model: other}]}}",
        "f",
    )
    v3, r1 = CARDS.find("DeepSeek-V3.1"), CARDS.named("deepseek-r1-distill")
    found = models.targets_of(config, CARDS, {})
    assert found == {"m": [local("a", "other", CARDS.find("other"))], "b": [local("b", "b", r1)]}
    assert v3 is not UNKNOWN
    config = parse("engines: {a: {kind: command, cmd: 'x ${PORT}', model: deepseek-ai/DeepSeek-V3.1}}", "f")
    assert models.targets_of(config, CARDS, {}) == {"a": [local("a", "deepseek-ai/DeepSeek-V3.1", v3)]}


def test_an_engine_that_no_configured_model_uses_is_a_model_itself():
    config = parse(
        "engines: {r1: {kind: vllm, model: deepseek-r1}, v3: {kind: vllm, model: deepseek-v3}}\n"
        "models: {chat: {targets: [{engine: v3}, {engine: v3, model: sql}, {engine: v3, card: gpt-oss}]}}",
        "f",
    )
    r1, v3 = CARDS.named("deepseek-r1"), CARDS.named("deepseek-v3")
    assert models.targets_of(config, CARDS, {"r1": r1, "v3": v3}) == {
        "chat": [local("v3", "v3", v3), local("v3", "sql", v3), local("v3", "v3", CARDS.named("gpt-oss"))],
        "r1": [local("r1", "r1", r1)],
    }


def test_an_eval_file_is_read_at_start(tmp_path):
    path = tmp_path / "evals.json"
    config = parse(f"routing: {{evals: {path}}}\nupstreams: {{h: {{base_url: 'http://127.0.0.1:9'}}}}", "c.yaml")
    with pytest.raises(ConfigError, match=r"^c\.yaml: routing\.evals: .*No such file"):
        App(config, source="c.yaml")
    path.write_bytes(to_json(EvalFile("1", time.time(), (EvalScore("h/m", "chat", 4, 4),))))
    assert App(config).qualities.mean(Target("h", "m"), "chat") == pytest.approx(0.75, abs=1e-3)


async def test_engines_and_their_adapters_are_listed_and_can_be_requested():
    """Nothing else has to be configured for that, and the engine need not run."""
    config = "engines: {r1: {kind: vllm, model: m, python: /nowhere, start: on_demand, adapters: {sql: org/sql}}}"
    async with proxy.serving(config) as url, aiohttp.ClientSession() as session:
        async with session.get(f"{url}/v1/models") as response:
            assert [model["id"] for model in (await response.json())["data"]] == ["r1", "r1/sql"]
        async with session.get(f"{url}/v1/models/r1/sql") as response:
            assert response.status == 200
        for model in ("r1", "r1/sql"):
            body = {"model": model, "messages": HI}
            async with session.post(f"{url}/v1/chat/completions", json=body) as response:
                assert response.status == 503
                assert "there is no Python at /nowhere" in (await response.json())["error"]["message"]


async def test_a_model_that_an_external_engine_lists_can_be_requested_by_its_listed_name():
    """This is the same as with an upstream; `engine/name` selects the engine."""

    async def answer(call):
        listed = b'{"object":"list","data":[{"id":"org/theirs","object":"model"}]}'
        choice = {"index": 0, "message": {"role": "assistant", "content": "from there"}, "finish_reason": "stop"}
        completion = json.dumps({"choices": [choice]}).encode()
        await answers(listed if call.path == "/v1/models" else completion)(call)

    async with ScenarioUpstream().running() as engine:
        engine.play(answer)
        config = f"engines: {{stack: {{kind: external, base_url: '{engine.url}', metrics_path: null}}}}"
        async with proxy.serving(config) as url, aiohttp.ClientSession() as session:
            async with session.get(f"{url}/v1/models") as response:
                [model] = (await response.json())["data"]
                assert (model["id"], model["owned_by"]) == ("org/theirs", "stack")
            status = 503
            while status == 503:  # the engine has not been checked yet
                body = {"model": "org/theirs", "messages": HI}
                async with session.post(f"{url}/v1/chat/completions", json=body) as response:
                    status, completion = response.status, await response.json()
            assert completion["choices"][0]["message"]["content"] == "from there"


@pytest.mark.parametrize("state", get_args(State))
def test_every_state_of_an_engine_is_a_status_of_its_models(state):
    status = models.statuses({"r1": SimpleNamespace(engine=SimpleNamespace(status=EngineStatus(state)))})["r1"]()
    assert status in get_args(Status)
    assert (status == "loaded") is (state in {"ready", "draining"})


def leaks_markup(setting):
    """`leaks_markup` of the target's card, for a model with that value of `repair_tool_markup`."""
    config = parse(
        f"""
upstreams: {{host: {{base_url: "http://127.0.0.1:1"}}}}
models: {{m: {{repair_tool_markup: {setting}, targets: [{{upstream: host, model: deepseek-v4}}]}}}}
""",
        "test",
    )
    [target] = models.targets_of(config, CARDS, {})["m"]
    return target.card.leaks_markup


def test_the_operator_can_switch_off_the_repair_of_tool_markup_for_one_model():
    """Without that setting, the card and the dialect decide."""
    assert [leaks_markup(setting) for setting in ("auto", '"off"', "off", "false", "true")] == [
        None,
        False,
        False,
        False,
        None,
    ]


def test_there_is_a_target_for_each_replica_of_an_engine():
    config = parse(
        "engines: {gpu: {kind: vllm, model: deepseek-r1, replicas: 2}, r1: {kind: vllm, model: m, replicas: 2}}\n"
        "models: {chat: {targets: [{engine: gpu, weight: 3}]}}",
        "f",
    )
    replicas = groups(expand(config.engines))
    assert models.targets_of(config, CARDS, {}, replicas) == {
        "chat": [local(f"gpu:{number}", "gpu", weight=3, group="gpu") for number in (1, 2)],
        "r1": [local(f"r1:{number}", "r1", group="r1") for number in (1, 2)],
    }
    assert models.engine_targets(config, CARDS, {"gpu": UNKNOWN}, replicas) == {
        "gpu": [local(f"gpu:{number}", "gpu", group="gpu") for number in (1, 2)]
    }
