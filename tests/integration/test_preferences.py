"""What a caller may choose, by header, body, key or model: how reasoning is shown, and what may be dropped."""

import json

import openai
import pytest

from tests.fakes import proxy
from tests.fakes.upstream import PAUSE, answers, streams
from tests.fakes.wire import chunk, completion, event

ASK = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
THINKING = completion("Yes.", reasoning="Hm. ")
THINKING_STREAM = [
    event(chunk({"role": "assistant", "content": ""})),
    event(chunk({"reasoning": "Hm"})),
    event(chunk({"reasoning": ". "})),
    event(chunk({"content": "Yes."})),
    event(chunk(finish="stop")),
    b"data: [DONE]\n\n",
]
FORMS = {
    "reasoning_content": {"content": "Yes.", "reasoning_content": "Hm. "},
    "reasoning": {"content": "Yes.", "reasoning": "Hm. "},
    "both": {"content": "Yes.", "reasoning_content": "Hm. ", "reasoning": "Hm. "},
    "think_tags": {"content": "<think>Hm. </think>\n\nYes."},
    "hidden": {"content": "Yes."},
}


@pytest.fixture
async def url(upstream, monkeypatch):
    """The URL of Tidegate with a model and a caller for each reasoning format, both named after it, and others."""
    monkeypatch.setenv("PLAIN_KEY", "plain-key")
    for form in FORMS:
        monkeypatch.setenv(f"{form.upper()}_KEY", f"{form}-key")
    callers = ", ".join(f'{form}: {{key: "env:{form.upper()}_KEY", reasoning_format: {form}}}' for form in FORMS)
    models = "\n".join(
        f"  {form}: {{targets: [{{upstream: host, model: there}}], reasoning_format: {form}}}" for form in FORMS
    )
    config = f"""
server: {{comment_every_s: 0.05, empty_chunk_every_s: 0.05}}
auth: {{keys: ["env:PLAIN_KEY"], callers: {{{callers}}}}}
upstreams:
  host: {{base_url: "{upstream.url}", dialect: vllm}}
  strict: {{base_url: "{upstream.url}", dialect: groq}}
models:
  m: {{targets: [{{upstream: host, model: there}}]}}
{models}
  strict: {{targets: [{{upstream: strict, model: there}}]}}
  easy: {{targets: [{{upstream: strict, model: there}}], drop_params: true}}
"""
    async with proxy.serving(config) as address:
        yield address


@pytest.fixture
async def client(url):
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="plain-key", max_retries=0) as client:
        yield client


def visible_fields(message) -> dict:
    return {name: value for name, value in message.to_dict().items() if name not in {"role", "refusal"} and value}


async def streamed(client: openai.AsyncOpenAI, **fields) -> dict:
    """The fields of a stream's deltas, each joined."""
    joined: dict = {}
    async for received in await client.chat.completions.create(**ASK | fields, stream=True):
        for name, value in visible_fields(received.choices[0].delta).items():
            joined[name] = joined.get(name, "") + value
    return joined


async def unary_and_streamed(client: openai.AsyncOpenAI, upstream, **fields) -> list[dict]:
    """The visible fields of a unary and of a streamed answer."""
    upstream.play(answers(THINKING))
    answer = await client.chat.completions.create(**ASK | fields)
    upstream.play(streams(*THINKING_STREAM))
    return [visible_fields(answer.choices[0].message), await streamed(client, **fields)]


@pytest.mark.parametrize("form", FORMS)
async def test_a_header_sets_how_reasoning_is_shown(client, upstream, form):
    assert await unary_and_streamed(client, upstream, extra_headers={"x-tidegate-reasoning": form}) == [FORMS[form]] * 2


@pytest.mark.parametrize("form", FORMS)
async def test_a_model_may_have_its_own_reasoning_format(client, upstream, form):
    assert await unary_and_streamed(client, upstream, model=form) == [FORMS[form]] * 2


@pytest.mark.parametrize("form", FORMS)
async def test_a_key_may_have_its_own_reasoning_format(client, upstream, form):
    assert await unary_and_streamed(client.with_options(api_key=f"{form}-key"), upstream) == [FORMS[form]] * 2


@pytest.mark.parametrize(
    ("fields", "form"),
    [
        ({"reasoning_format": "hidden"}, "hidden"),
        ({"reasoning_format": "raw"}, "think_tags"),
        ({"reasoning_format": "parsed"}, "reasoning"),
        ({"include_reasoning": False}, "hidden"),
        ({"reasoning": {"exclude": True}}, "hidden"),
        ({"reasoning_format": "auto"}, "reasoning_content"),
    ],
)
async def test_a_field_of_the_body_may_set_it_too(client, upstream, fields, form):
    """By our field or by those of Groq, llama.cpp, vLLM and OpenRouter; the field is not sent to the host."""
    upstream.play(answers(THINKING))
    answer = await client.chat.completions.create(**ASK, extra_body=fields)
    assert visible_fields(answer.choices[0].message) == FORMS[form]
    assert json.loads(upstream.calls[-1].body).keys() == {"model", "messages", "cache_salt"}


async def test_a_key_goes_before_a_model_and_a_header_before_a_key(client, upstream):
    hidden_client = client.with_options(api_key="hidden-key")
    assert await unary_and_streamed(hidden_client, upstream, model="think_tags") == [FORMS["hidden"]] * 2
    fields = {"extra_headers": {"x-tidegate-reasoning": "both"}}
    assert await unary_and_streamed(hidden_client, upstream, model="think_tags", **fields) == [FORMS["both"]] * 2


@pytest.mark.parametrize("where", ["extra_headers", "extra_body"])
async def test_an_unknown_reasoning_format_is_refused(client, upstream, where):
    name = "x-tidegate-reasoning" if where == "extra_headers" else "reasoning_format"
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(**ASK, **{where: {name: "loud"}})
    assert (caught.value.param, caught.value.code) == (name, "invalid_value")
    assert upstream.calls == []


async def test_hidden_reasoning_is_sent_as_empty_chunks(client, upstream):
    """LangChain gives up after 120 s without a chunk, and comments do not count."""
    upstream.play(streams(*THINKING_STREAM[:2], PAUSE, *THINKING_STREAM[2:]))
    stream = await client.chat.completions.create(**ASK, stream=True, extra_headers={"x-tidegate-reasoning": "hidden"})
    first, empty = await anext(stream), await anext(stream)
    assert first.choices[0].delta.role == "assistant"
    assert empty.choices[0].delta.to_dict() == {}
    upstream.calls[-1].go.set()
    assert "".join([received.choices[0].delta.content or "" async for received in stream]) == "Yes."


async def test_a_parameter_that_the_host_cannot_honour_is_refused_by_name(client, upstream):
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(**ASK | {"model": "strict"}, logit_bias={"1": 5})
    assert (caught.value.param, caught.value.code) == ("logit_bias", "unsupported_parameter")
    assert upstream.calls == []


@pytest.mark.parametrize(
    ("model", "headers"),
    [("strict", {"x-tidegate-drop-params": "true"}), ("strict", {"x-tidegate-drop-params": "1"}), ("easy", {})],
)
async def test_unsupported_parameters_are_dropped_if_the_caller_or_the_model_says_so(client, upstream, model, headers):
    """The header `x-tidegate-adjusted` of the answer lists the parameters."""
    upstream.play(answers(completion("Hi")))
    raw = await client.chat.completions.with_raw_response.create(
        **ASK | {"model": model}, n=2, logit_bias={"1": 5}, extra_headers=headers
    )
    assert set(raw.headers["x-tidegate-adjusted"].split(", ")) == {"n=dropped", "logit_bias=dropped"}
    assert json.loads(upstream.calls[-1].body).keys() == {"model", "messages"}


async def test_a_caller_may_forbid_dropping_where_the_model_allows_it(client, upstream):
    with pytest.raises(openai.BadRequestError):
        await client.chat.completions.create(
            **ASK | {"model": "easy"}, n=2, extra_headers={"x-tidegate-drop-params": "false"}
        )


async def test_an_invalid_value_of_the_drop_header_is_refused(client, upstream):
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(**ASK, extra_headers={"x-tidegate-drop-params": "perhaps"})
    assert caught.value.param == "x-tidegate-drop-params"
