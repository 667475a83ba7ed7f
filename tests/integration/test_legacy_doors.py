"""`/v1/completions` and `/v1/embeddings` (contract A.8, A.9), whatever form the host has."""

import base64
import json
import struct
from pathlib import Path

import aiohttp
import httpx
import openai
import pytest
from langchain_openai import OpenAIEmbeddings

from tests.fakes.canonical import read_answer, read_stream
from tests.fakes.upstream import answers, streams

RECORDED = Path(__file__).parents[1] / "data" / "recorded"
DIALECTS = ["generic", "vllm", "openai", "sglang"]
VECTORS = [[0.5, -2.0, 0.10000000149011612], [1.0, 0.0, -3.25]]  # all of them float32
ENCODED = [base64.b64encode(struct.pack("<3f", *vector)).decode() for vector in VECTORS]
USAGE = {"prompt_tokens": 5, "completion_tokens": 6, "total_tokens": 11}
WHOLE = " Paris.\n\nThe answer"
FINGERPRINT = "vllm-0.32.0-d0ebca44"


@pytest.fixture(params=DIALECTS)
def config(request, upstream):
    """One model, `m`, at a host of each of the dialects."""
    return f"""
upstreams: {{host: {{base_url: "{upstream.url}", dialect: {request.param}}}}}
models: {{m: {{targets: [{{upstream: host, model: there}}]}}}}
"""


@pytest.fixture
async def client(url):
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as made:
        yield made


async def post(url, path, **fields) -> bytes:
    async with aiohttp.ClientSession() as session, session.post(f"{url}/v1{path}", json=fields) as answer:
        assert answer.status == 200
        return await answer.read()


def embeddings(vectors, usage=None) -> bytes:
    data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(vectors)]
    told = {"id": "embd-1", "object": "list", "created": 1, "model": "theirs", "data": data}
    return json.dumps(
        told | {"usage": usage or {"prompt_tokens": 4, "total_tokens": 4, "completion_tokens": 0}}
    ).encode()


# --- embeddings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host_gives", [VECTORS, ENCODED], ids=["host gives floats", "host gives base64"])
@pytest.mark.parametrize(
    ("asked", "expected"),
    [({}, VECTORS), ({"encoding_format": "float"}, VECTORS), ({"encoding_format": "base64"}, ENCODED)],
    ids=["nothing asked", "float asked", "base64 asked"],
)
async def test_vectors_come_in_the_form_asked_for(url, upstream, host_gives, asked, expected):
    """Not every host looks at `encoding_format`; without one OpenAI gives floats."""
    upstream.play(answers(embeddings(host_gives)))
    told = await post(url, "/embeddings", model="m", input=["a", "b"], **asked)
    assert read_answer(told, "embeddings", "m", ()) == {
        "embeddings": expected,
        "usage": {"prompt_tokens": 4, "total_tokens": 4},
    }


@pytest.mark.parametrize("host_gives", [VECTORS, ENCODED], ids=["host gives floats", "host gives base64"])
@pytest.mark.parametrize("asked", [{}, {"encoding_format": "float"}], ids=["the SDK's own base64", "float asked"])
async def test_the_sdk_has_its_floats(client, upstream, host_gives, asked):
    """The SDK requests base64 if its caller names no encoding; not every host is sent that."""
    upstream.play(answers(embeddings(host_gives)))
    answer = await client.embeddings.create(model="m", input=["a", "b"], **asked)
    assert [item.embedding for item in answer.data] == VECTORS
    sent = json.loads(upstream.calls[0].body).get("encoding_format")
    assert sent in (None, asked.get("encoding_format", "base64"))


async def test_langchain_embeds(url, upstream):
    upstream.play(answers(embeddings(VECTORS)))
    with httpx.Client() as sync_client:
        async with httpx.AsyncClient() as async_client:
            embedder = OpenAIEmbeddings(
                model="m",
                base_url=f"{url}/v1",
                api_key="unused",
                max_retries=0,
                check_embedding_ctx_length=False,  # it would count tokens as OpenAI's models do
                http_client=sync_client,
                http_async_client=async_client,
            )
            assert await embedder.aembed_documents(["a", "b"]) == VECTORS


@pytest.mark.parametrize(
    "given", ["hi", ["a", "b"], [1, 2], [[1], [2]]], ids=["text", "texts", "tokens", "lists of tokens"]
)
async def test_the_request_for_vectors_goes_as_it_is(url, upstream, given):
    """But for the name of the model, nulls, and what is the engine's own."""
    texts = 1 if given in ("hi", [1, 2]) else 2
    upstream.play(answers(embeddings(VECTORS[:texts])))
    await post(url, "/embeddings", model="m", input=given, dimensions=3, encoding_format=None, priority=1)
    (call,) = upstream.calls
    assert call.path == "/v1/embeddings"
    assert json.loads(call.body) == {"model": "there", "input": given, "dimensions": 3}


async def test_vectors_without_an_index_or_a_usage_are_numbered_and_cost_nothing(url, upstream):
    upstream.play(answers(json.dumps({"data": [{"embedding": vector} for vector in VECTORS]}).encode()))
    told = await post(url, "/embeddings", model="m", input=["a", "b"])
    assert read_answer(told, "embeddings", "m", ()) == {
        "embeddings": VECTORS,
        "usage": {"prompt_tokens": 0, "total_tokens": 0},
    }


# --- completions --------------------------------------------------------------------------------------------------


def recorded(name: str) -> bytes:
    return (RECORDED / name).read_bytes()


@pytest.mark.parametrize("wants_usage", [False, True], ids=["no usage", "usage"])
async def test_a_recorded_stream_is_canonical(url, upstream, wants_usage):
    """vLLM's, with its usage in a chunk of its own; it is always asked for, and comes where it was."""
    upstream.play(streams(recorded("vllm/completion.sse")))
    options = {"stream_options": {"include_usage": True}} if wants_usage else {}
    told = await post(url, "/completions", model="m", prompt="The capital of France is", stream=True, **options)
    expected = {"choices": [{"content": WHOLE, "finish": "length"}]} | ({"usage": USAGE} if wants_usage else {})
    seen = read_stream(told, "completions", "m", (), wants_usage=wants_usage)
    assert seen.pop("system_fingerprint", FINGERPRINT) == FINGERPRINT  # of OpenAI's dialect
    assert seen == expected
    (call,) = upstream.calls
    assert call.path == "/v1/completions"
    assert json.loads(call.body) == {
        "model": "there",
        "prompt": "The capital of France is",
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def test_usage_on_every_chunk_comes_once_at_the_end(url, upstream):
    """Ollama has zeros there, vLLM's continuous_usage_stats a count that grows."""
    counts = [{"prompt_tokens": 5, "completion_tokens": n, "total_tokens": 5 + n} for n in (1, 2)]
    pieces = [piece("a", usage=counts[0]), piece("b", finish_reason="stop", usage=counts[1])]
    upstream.play(streams(*pieces, b"data: [DONE]\n\n"))
    told = await post(url, "/completions", model="m", prompt="x", stream=True, stream_options={"include_usage": True})
    assert read_stream(told, "completions", "m", (), wants_usage=True) == {
        "choices": [{"content": "ab", "finish": "stop"}],
        "usage": counts[1],
    }


async def test_a_recorded_answer_is_canonical(url, upstream):
    upstream.play(answers(recorded("vllm/completion.json")))
    told = await post(url, "/completions", model="m", prompt="The capital of France is")
    seen = read_answer(told, "completions", "m", ())
    assert seen.pop("system_fingerprint", FINGERPRINT) == FINGERPRINT
    assert seen == {"choices": [{"content": WHOLE, "finish": "length"}], "usage": USAGE}
    assert json.loads(upstream.calls[0].body) == {"model": "there", "prompt": "The capital of France is"}


@pytest.mark.parametrize(
    "prompt", ["hi", ["a", "b"], [1, 2], [[1], [2]]], ids=["text", "texts", "tokens", "lists of tokens"]
)
async def test_each_prompt_has_its_choice(url, upstream, prompt):
    upstream.play(answers(recorded("vllm/completion_two_prompts.json")))
    told = read_answer(await post(url, "/completions", model="m", prompt=prompt), "completions", "m", ())
    assert [choice["content"] for choice in told["choices"]] == ["-1000,", "-11, 2"]
    assert json.loads(upstream.calls[0].body)["prompt"] == prompt


async def test_log_probabilities_of_an_echo_are_as_the_host_gave_them(url, upstream):
    """The first token of a prompt has none: null, as OpenAI has it."""
    body = recorded("vllm/completion_echo_logprobs.json")
    upstream.play(answers(body))
    told = await post(url, "/completions", model="m", prompt="The capital of France is", echo=True, logprobs=1)
    (choice,) = read_answer(told, "completions", "m", ())["choices"]
    (theirs,) = json.loads(body)["choices"]
    assert choice == {"content": theirs["text"], "finish": "length", "logprobs": theirs["logprobs"]}
    assert choice["logprobs"]["token_logprobs"][0] is None
    assert json.loads(upstream.calls[0].body)["logprobs"] == 1


async def test_log_probabilities_in_pieces_are_those_of_the_whole(client, upstream):
    """Each chunk has its own tokens, with offsets from the beginning of the text."""
    first = {"tokens": ["Hi"], "token_logprobs": [-0.25], "top_logprobs": [{"Hi": -0.25}], "text_offset": [0]}
    second = {"tokens": ["!"], "token_logprobs": [-0.5], "top_logprobs": [{"!": -0.5}], "text_offset": [2]}
    last = piece("", finish_reason="stop")
    upstream.play(streams(piece("Hi", logprobs=first), piece("!", logprobs=second), last, b"data: [DONE]\n\n"))
    stream = await client.completions.create(model="m", prompt="x", logprobs=1, stream=True)
    chunks = [chunk.choices[0] async for chunk in stream]
    assert [chunk.logprobs and chunk.logprobs.to_dict() for chunk in chunks] == [first, second, None]
    assert "".join(chunk.text for chunk in chunks) == "Hi!"


async def test_log_probabilities_in_the_form_of_chat_become_legacy_ones(client, upstream):
    """llama.cpp's server gives them so."""
    upstream.play(answers(recorded("llamacpp/completion_echo_logprobs.json")))
    (choice,) = (await client.completions.create(model="m", prompt="x", logprobs=1)).choices
    logprobs = choice.logprobs
    assert "".join(logprobs.tokens) == choice.text == " Paris.\n\nThe United"
    assert [list(top) for top in logprobs.top_logprobs] == [[token] for token in logprobs.tokens]
    assert all(logprob < 0 for logprob in logprobs.token_logprobs)
    assert logprobs.text_offset == [0, 6, 7, 8, 9, 12]


def piece(text, *, usage=None, **choice) -> bytes:
    """An event of a legacy stream."""
    told = {"index": 0, "text": text, "logprobs": None, "finish_reason": None} | choice
    chunk = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "theirs", "choices": [told]}
    return b"data: %b\n\n" % json.dumps(chunk if usage is None else chunk | {"usage": usage}).encode()
