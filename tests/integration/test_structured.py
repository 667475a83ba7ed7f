"""`json_schema` with hosts that do not support it: emulated and validated, with a second try (contract Q-JSON)."""

import json

import openai
import pytest
from langchain_deepseek import ChatDeepSeek
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

from tests.fakes import proxy
from tests.fakes.deepseek import ThinkingHost
from tests.fakes.upstream import answers, streams
from tests.fakes.wire import completion, text_stream

QUESTION = {"role": "user", "content": "Who was first?"}
EMULATING = ["deepseek", "deepinfra", "llama_cpp_python", "tgi"]
NATIVE = [
    "openai",
    "azure",
    "vllm",
    "sglang",
    "llamacpp",
    "ollama",
    "together",
    "groq",
    "fireworks",
    "meta_llama",
    "openrouter",
    "bedrock",
    "generic",
]
GOOD = '{"name": "Ada", "born": 1815}'
WRONG = '{"name": "Ada", "born": "long ago"}'


class Person(BaseModel):
    """A person and the year of birth."""

    name: str
    born: int


@pytest.fixture
async def url(upstream):
    """Run Tidegate in front of one host, which is configured once with every dialect."""
    names = [*EMULATING, *NATIVE]
    upstreams = "\n".join(f'  {name}: {{base_url: "{upstream.url}", dialect: {name}}}' for name in names)
    models = "\n".join(f"  {name}: {{targets: [{{upstream: {name}, model: there}}]}}" for name in names)
    async with proxy.serving(f"upstreams:\n{upstreams}\nmodels:\n{models}\n") as address:
        yield address


@pytest.fixture
async def client(url):
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0) as client:
        yield client


async def parsed(client: openai.AsyncOpenAI, model: str):
    """Return the object that the SDK's `parse()` returns, and the adjustments that Tidegate reports."""
    raw = await client.chat.completions.with_raw_response.parse(
        model=model, messages=[QUESTION], response_format=Person
    )
    return raw.parse().choices[0].message.parsed, raw.headers.get("x-tidegate-adjusted", "")


@pytest.mark.parametrize("dialect", NATIVE)
async def test_a_schema_is_sent_to_a_host_that_supports_schemas(client, upstream, dialect):
    upstream.play(answers(completion(GOOD)))
    assert await parsed(client, dialect) == (Person(name="Ada", born=1815), "")
    sent = json.loads(upstream.calls[-1].body)["response_format"]
    assert sent["json_schema"]["schema"]["properties"].keys() == {"name", "born"}


@pytest.mark.parametrize("dialect", EMULATING)
async def test_parse_works_if_the_host_supports_no_schemas(client, upstream, dialect):
    """The schema is written into the prompt, and a header reports it."""
    upstream.play(answers(completion(GOOD)))
    person, adjusted = await parsed(client, dialect)
    assert person == Person(name="Ada", born=1815)
    assert "response_format=emulated" in adjusted
    sent = json.loads(upstream.calls[-1].body)
    assert sent["response_format"]["type"] == "json_object"
    assert '"born"' in sent["messages"][0]["content"]


@pytest.mark.parametrize("dialect", EMULATING)
async def test_after_a_wrong_answer_a_second_one_is_requested(client, upstream, dialect):
    """The second request names the violation, and the usage counts both tries."""
    upstream.play(answers(completion(WRONG)), answers(completion(GOOD)))
    raw = await client.chat.completions.with_raw_response.parse(
        model=dialect, messages=[QUESTION], response_format=Person
    )
    answer = raw.parse()
    assert answer.choices[0].message.parsed == Person(name="Ada", born=1815)
    assert answer.usage.total_tokens == 10
    assert "response_format=repaired" in raw.headers["x-tidegate-adjusted"]
    *_, wrong_answer, complaint = json.loads(upstream.calls[-1].body)["messages"]
    assert wrong_answer["content"] == WRONG
    assert "'long ago' is not of type 'integer'" in complaint["content"]


async def test_other_adjustments_are_listed_beside_a_repair(client, upstream):
    upstream.play(answers(completion(WRONG)), answers(completion(GOOD)))
    raw = await client.chat.completions.with_raw_response.parse(
        model="llama_cpp_python", messages=[QUESTION], response_format=Person
    )
    assert raw.headers["x-tidegate-adjusted"] == "response_format=repaired, max_tokens=4096"


async def test_an_answer_that_stays_wrong_is_an_error(client, upstream):
    upstream.play(answers(completion(WRONG)))
    with pytest.raises(openai.InternalServerError) as caught:
        await parsed(client, "deepinfra")
    assert (caught.value.status_code, caught.value.code) == (502, "structured_output_invalid")
    assert len(upstream.calls) == 2


async def test_a_code_fence_around_the_json_is_removed(client, upstream):
    upstream.play(answers(completion(f"```json\n{GOOD}\n```")))
    assert (await parsed(client, "tgi"))[0] == Person(name="Ada", born=1815)


async def test_a_stream_begins_when_the_answer_is_complete_and_valid(client, upstream):
    """OpenAI's strict accumulator accepts it, and nothing of the wrong first try is sent."""
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    upstream.play(streams(*text_stream(WRONG, usage=usage)), streams(*text_stream(GOOD[:9], GOOD[9:], usage=usage)))
    async with client.chat.completions.stream(
        model="deepinfra", messages=[QUESTION], response_format=Person, stream_options={"include_usage": True}
    ) as stream:
        final = await stream.get_final_completion()
    assert final.choices[0].message.parsed == Person(name="Ada", born=1815)
    assert final.usage.total_tokens == 10


async def test_an_answer_that_was_cut_is_passed_on_unchanged(client, upstream):
    """OpenAI does the same: the finish reason explains why the content is not JSON."""
    body = completion('{"name": "A').replace(b'"finish_reason": "stop"', b'"finish_reason": "length"')
    upstream.play(answers(body))
    answer = await client.chat.completions.create(
        model="deepseek",
        messages=[QUESTION],
        response_format={"type": "json_schema", "json_schema": {"name": "person", "schema": {"type": "object"}}},
    )
    assert (answer.choices[0].finish_reason, answer.choices[0].message.content) == ("length", '{"name": "A')


async def test_an_invalid_schema_is_the_callers_error(client, upstream):
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(
            model="deepseek",
            messages=[QUESTION],
            response_format={"type": "json_schema", "json_schema": {"name": "p", "schema": {"type": "persons"}}},
        )
    assert (caught.value.code, caught.value.param) == ("invalid_json_schema", "response_format")
    assert upstream.calls == []


@pytest.mark.parametrize("make", [ChatOpenAI, ChatDeepSeek])
@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
async def test_langchains_structured_output_works_with_a_reasoning_deepseek(url, upstream, make, method):
    """The fake enforces DeepSeek's rules: no schemas, no forced tool while reasoning, the word JSON in the prompt."""
    upstream.play(ThinkingHost(GOOD))
    address = {"base_url": f"{url}/v1"} if make is ChatOpenAI else {"api_base": f"{url}/v1"}
    model = make(model="deepseek", api_key="k", max_retries=0, **address)
    async with model.root_async_client:
        person = await model.with_structured_output(Person, method=method).ainvoke("Who was first?")
    assert person == Person(name="Ada", born=1815)


@pytest.mark.parametrize("dialect", EMULATING)
async def test_langchains_structured_output_works_with_every_emulating_dialect(url, upstream, dialect):
    upstream.play(answers(completion(WRONG)), answers(completion(GOOD)))
    model = ChatOpenAI(model=dialect, base_url=f"{url}/v1", api_key="k", max_retries=0)
    async with model.root_async_client:
        person = await model.with_structured_output(Person, method="json_schema").ainvoke("Who was first?")
    assert person == Person(name="Ada", born=1815)
