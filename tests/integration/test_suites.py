"""Complete public conformance suites against Tidegate, in front of a host that can do everything they require."""

import asyncio
import json
import sys

import httpx
import pytest
from langchain_core.language_models import BaseChatModel
from langchain_deepseek import ChatDeepSeek
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests

from tests.fakes import capable, proxy


@pytest.fixture(scope="module")
async def url(tmp_path_factory):
    """Tidegate as a process; the models `gpt` and `other` have the dialect `openai`, the model `deepseek` its own."""
    with capable.serving() as host:
        config = {
            "upstreams": {name: {"base_url": host.url, "dialect": name} for name in ("openai", "deepseek")},
            "models": {
                "gpt": {"targets": [{"upstream": "openai", "model": "gpt-4.1"}]},
                "other": {"targets": [{"upstream": "openai", "model": "gpt-4.1-mini"}]},
                "deepseek": {"targets": [{"upstream": "deepseek", "model": "deepseek-chat"}]},
            },
        }
        path = tmp_path_factory.mktemp("capable") / "tidegate.yaml"
        path.write_text(json.dumps(config))
        async with proxy.process("--config", str(path)) as running:
            yield f"{running.url}/v1"


@pytest.fixture(scope="module")
async def http():
    """The HTTP client of all models, as `ChatDeepSeek` leaves each client that it opens itself unclosed."""
    async with httpx.AsyncClient() as client:
        yield client


class _Suite(ChatModelIntegrationTests):
    """The suite of `langchain-tests`; no test is expected to fail."""

    model_name = "gpt"

    @pytest.fixture(autouse=True)
    def _served(self, url, http):
        type(self).url, type(self).http = url, http

    @property
    def chat_model_params(self) -> dict:
        return {"model": self.model_name, "api_key": "unused", "stream_usage": True, "max_retries": 0}

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def model_override_value(self) -> str:
        return "other"


# openai's `parse()` keeps the parsed object in a field that pydantic expects to be None when LangChain dumps it. For a
# V1 schema LangChain requests a tool call, and warns about that.
@pytest.mark.filterwarnings("ignore:Received a Pydantic BaseModel V1 schema:UserWarning")
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings:UserWarning")
class TestChatOpenAI(_Suite):
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict:
        return super().chat_model_params | {"base_url": self.url, "use_responses_api": False}


class TestChatDeepSeek(_Suite):
    model_name = "deepseek"

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatDeepSeek

    @property
    def chat_model_params(self) -> dict:
        return super().chat_model_params | {"api_base": self.url, "http_async_client": self.http}


async def test_llm_comply_reports_no_problem(url):
    """It reports no error and no warning; it skips its reasoning test, as the name is not that of a reasoning model."""
    checker = "from llm_comply.cli import main; raise SystemExit(main())"
    arguments = ["--format", "openai-chat", "--base-url", url, "--api-key", "unused", "--model", "gpt", "--json"]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", checker, *arguments, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    results = {each["id"]: each for each in json.loads(output)["results"]}
    assert len(results) >= 9
    faults = {name: each.get("errors", []) + each.get("warnings", []) for name, each in results.items()}
    assert faults.pop("chat-reasoning-summary") == ["reasoning requires o-series or gpt-5 models"]
    assert faults == {name: [] for name in faults}
    assert process.returncode == 0
