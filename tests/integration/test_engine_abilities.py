"""Requests that an engine cannot serve go to another target or are refused; the engine does not count as failed."""

import json

import aiohttp
import openai
import pytest
from openai import AsyncOpenAI

from tests.fakes import proxy
from tests.fakes.upstream import answers
from tests.fakes.vllm_engine import running_app
from tests.fakes.wire import completion

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
NAMED = {"type": "function", "function": {"name": "f"}}
MARKUP = "Well:\n<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
VECTORS = {"object": "list", "data": [{"object": "embedding", "index": 0, "embedding": [0.5]}], "model": "there"}
NEEDING = pytest.mark.parametrize(
    "fields",
    [
        {"tools": [TOOL]},
        {"tools": [TOOL], "tool_choice": "required"},
        {"tools": [TOOL], "tool_choice": NAMED},
        {"functions": [TOOL["function"]]},
    ],
    ids=["auto", "required", "named", "functions"],
)


def health(made, name="r1/r1") -> str:
    """The state of the target's health in routing."""
    return made.app._runtime.serving.target_registry._kept[name].health.state


@NEEDING
async def test_tools_skip_an_engine_without_a_tool_parser(vllm, upstream, fields):
    upstream.play(answers(completion("from the host")))
    async with running_app({"r1": vllm.config()}, upstream=upstream) as made:
        await made.until("ready")
        assert (await made.ask(**fields)).choices[0].message.content == "from the host"
        assert health(made) == "ok"


async def test_explain_says_why_a_target_is_left_out(vllm, upstream):
    async with running_app({"r1": vllm.config(start="on_demand")}, upstream=upstream) as made:
        body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "tools": [TOOL]}
        async with aiohttp.ClientSession(made.url) as session, session.post("/admin/explain", json=body) as response:
            candidates = (await response.json())["candidates"]
    assert [each["target"] for each in candidates] == ["host/there", "r1/r1"]
    assert (candidates[1]["why"], "place" in candidates[1]) == ("it has no tool-call parser", False)


@NEEDING
@pytest.mark.parametrize("headers", [{}, {"x-tidegate-reach": "local_only"}], ids=["any", "local_only"])
async def test_tools_for_a_single_target_without_a_tool_parser_are_400(vllm, fields, headers):
    async with running_app({"r1": vllm.config()}) as made:
        with pytest.raises(openai.BadRequestError) as caught:
            await made.ask(**fields, extra_headers=headers)
        (field,) = {"tools", "functions"} & fields.keys()
        assert (caught.value.code, caught.value.param) == ("unsupported_parameter", field)
        assert f"'{field}' is not supported with the model 'm'" in caught.value.message


@NEEDING
async def test_a_caller_may_let_tools_be_dropped(vllm, fields):
    async with running_app({"r1": vllm.config()}) as made:
        await made.until("ready")
        raw = await made.client.chat.completions.with_raw_response.create(
            model="m",
            messages=[{"role": "user", "content": "Hi"}],
            **fields,
            extra_headers={"x-tidegate-drop-params": "true"},
        )
        (field,) = {"tools", "functions"} & fields.keys()
        assert f"{field}=dropped" in raw.headers["x-tidegate-adjusted"]
        assert raw.parse().choices[0].message.content


async def test_tools_that_may_not_be_called_are_passed_on(vllm):
    async with running_app({"r1": vllm.config()}) as made:
        await made.until("ready")
        for fields in ({"tools": [TOOL], "tool_choice": "none"}, {"tools": []}):
            assert (await made.ask(**fields)).choices[0].message.content


async def test_the_missing_tool_parser_is_logged_once(vllm, tmp_path):
    config = tmp_path / "tidegate.yaml"
    config.write_text(json.dumps({"engines": {"r1": vllm.config(start="on_demand")}}))
    async with proxy.process("--config", str(config)) as running:
        line = await running.line("config note")
        assert line["note"].startswith(
            "engines.r1.args: no tool-call parser is known for its model (model type: qwen2)"
        )
        assert line["note"].endswith("; set tool-call-parser")
        async with AsyncOpenAI(base_url=f"{running.url}/v1", api_key="-", max_retries=0) as client:
            for _ in range(2):
                with pytest.raises(openai.BadRequestError):
                    await client.chat.completions.create(
                        model="r1", messages=[{"role": "user", "content": "Hi"}], tools=[TOOL]
                    )
        running.process.terminate()
        while raw := await running.process.stdout.readline():
            assert json.loads(raw)["event"] != "config note"


async def test_an_engine_with_a_configured_tool_parser_gets_tools(vllm):
    async with running_app({"r1": vllm.config(args={"tool_call_parser": "hermes"})}) as made:
        await made.until("ready")
        assert (await made.ask(tools=[TOOL])).choices[0].message.content


async def test_embeddings_of_a_chat_engine_are_refused_with_400(vllm):
    async with running_app({"r1": vllm.config()}) as made:
        await made.until("ready")
        for _ in range(4):
            with pytest.raises(openai.BadRequestError) as caught:
                await made.client.embeddings.create(model="m", input="Hi")
        assert (caught.value.code, caught.value.type) == ("unsupported_operation", "invalid_request_error")
        assert "This model does not serve embeddings" in caught.value.message
        assert health(made) == "ok"
        assert (await made.ask()).choices[0].message.content


async def test_embeddings_come_from_a_target_that_serves_them(vllm, upstream):
    upstream.play(answers(json.dumps(VECTORS).encode()))
    async with running_app({"r1": vllm.config()}, upstream=upstream) as made:
        await made.until("ready")
        answer = await made.client.embeddings.create(model="m", input="Hi", encoding_format="float")
        assert answer.data[0].embedding == [0.5]
        assert health(made) == "ok"


@pytest.mark.parametrize("reason", ["stop", "tool_calls"])
async def test_tool_markup_without_permitted_tools_is_text_and_no_failure_of_the_target(vllm, upstream, reason):
    body = json.loads(completion(MARKUP))
    body["choices"][0]["finish_reason"] = reason
    upstream.play(*[answers(json.dumps(body).encode())] * 4)
    config = {"m": {"targets": [{"upstream": "host", "model": "there"}]}}
    async with running_app({"r1": vllm.config(start="on_demand")}, config, upstream=upstream) as made:
        for _ in range(4):
            choice = (await made.ask(tools=[TOOL], tool_choice="none")).choices[0]
            assert (choice.message.content, choice.finish_reason) == (MARKUP, "stop")
        assert health(made, "host/there") == "ok"


@pytest.mark.parametrize("name", ["an/adapter", "two words", ".hidden", "x" * 65])
async def test_an_unusable_name_of_an_adapter_is_refused(vllm, name):
    async with (
        running_app({"r1": vllm.config(runtime_adapters=True, start="on_demand")}) as made,
        aiohttp.ClientSession(made.url) as session,
        session.post("/admin/engines/r1/adapters", json={"name": name, "path": "/a"}) as response,
    ):
        error = (await response.json())["error"]
        assert (response.status, error["param"]) == (400, "name")
        assert error["message"].endswith("is not a usable name: take letters, digits, dot, dash, underscore.")
        assert made.engine().status.state == "stopped"  # the request did not start it
