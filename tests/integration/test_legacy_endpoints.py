"""`/v1/completions` and `/v1/embeddings` (contract A.8, A.9), for the different forms of hosts' answers."""

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
VECTORS = [[0.5, -2.0, 0.10000000149011612], [1.0, 0.0, -3.25]]  # all numbers are exact in float32
ENCODED = [base64.b64encode(struct.pack("<3f", *vector)).decode() for vector in VECTORS]
USAGE = {"prompt_tokens": 5, "completion_tokens": 6, "total_tokens": 11}
WHOLE = " Paris.\n\nThe answer"
FINGERPRINT = "vllm-0.32.0-d0ebca44"


@pytest.fixture(params=DIALECTS)
def config(request, upstream):
    """A config with one model, `m`, at a host with one of the dialects."""
    return f"""
upstreams: {{host: {{base_url: "{upstream.url}", dialect: {request.param}}}}}
models: {{m: {{targets: [{{upstream: host, model: there}}]}}}}
"""


@pytest.fixture
async def client(url):
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as client:
        yield client


async def post(url, path, **fields) -> bytes:
    async with aiohttp.ClientSession() as session, session.post(f"{url}/v1{path}", json=fields) as answer:
        assert answer.status == 200
        return await answer.read()


def embeddings(vectors, usage=None) -> bytes:
    data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(vectors)]
    answer = {"id": "embd-1", "object": "list", "created": 1, "model": "theirs", "data": data}
    return json.dumps(
        answer | {"usage": usage or {"prompt_tokens": 4, "total_tokens": 4, "completion_tokens": 0}}
    ).encode()


# --- embeddings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host_vectors", [VECTORS, ENCODED], ids=["host gives floats", "host gives base64"])
@pytest.mark.parametrize(
    ("options", "expected"),
    [({}, VECTORS), ({"encoding_format": "float"}, VECTORS), ({"encoding_format": "base64"}, ENCODED)],
    ids=["nothing asked", "float asked", "base64 asked"],
)
async def test_vectors_have_the_requested_encoding(url, upstream, host_vectors, options, expected):
    """Some hosts ignore `encoding_format`. Without it OpenAI returns floats."""
    upstream.play(answers(embeddings(host_vectors)))
    reply = await post(url, "/embeddings", model="m", input=["a", "b"], **options)
    assert read_answer(reply, "embeddings", "m", ()) == {
        "embeddings": expected,
        "usage": {"prompt_tokens": 4, "total_tokens": 4},
    }


@pytest.mark.parametrize("host_vectors", [VECTORS, ENCODED], ids=["host gives floats", "host gives base64"])
@pytest.mark.parametrize("options", [{}, {"encoding_format": "float"}], ids=["the SDK's own base64", "float asked"])
async def test_the_sdk_returns_floats(client, upstream, host_vectors, options):
    """The SDK requests base64 if no encoding is given; to some hosts that is not sent on."""
    upstream.play(answers(embeddings(host_vectors)))
    answer = await client.embeddings.create(model="m", input=["a", "b"], **options)
    assert [item.embedding for item in answer.data] == VECTORS
    sent = json.loads(upstream.calls[0].body).get("encoding_format")
    assert sent in (None, options.get("encoding_format", "base64"))


async def test_langchain_embeds(url, upstream):
    upstream.play(answers(embeddings(VECTORS)))
    with httpx.Client() as sync_client:
        async with httpx.AsyncClient() as async_client:
            embedder = OpenAIEmbeddings(
                model="m",
                base_url=f"{url}/v1",
                api_key="unused",
                max_retries=0,
                check_embedding_ctx_length=False,  # the check would count tokens with OpenAI's tokenizer
                http_client=sync_client,
                http_async_client=async_client,
            )
            assert await embedder.aembed_documents(["a", "b"]) == VECTORS


@pytest.mark.parametrize(
    "given", ["hi", ["a", "b"], [1, 2], [[1], [2]]], ids=["text", "texts", "tokens", "lists of tokens"]
)
async def test_the_request_for_vectors_is_sent_unchanged(url, upstream, given):
    """Only the model name is replaced, and nulls and fields of the engine itself are removed."""
    texts = 1 if given in ("hi", [1, 2]) else 2
    upstream.play(answers(embeddings(VECTORS[:texts])))
    await post(url, "/embeddings", model="m", input=given, dimensions=3, encoding_format=None, priority=1)
    (call,) = upstream.calls
    assert call.path == "/v1/embeddings"
    assert json.loads(call.body) == {"model": "there", "input": given, "dimensions": 3}


async def test_vectors_without_an_index_or_a_usage_are_numbered_and_cost_0_tokens(url, upstream):
    upstream.play(answers(json.dumps({"data": [{"embedding": vector} for vector in VECTORS]}).encode()))
    reply = await post(url, "/embeddings", model="m", input=["a", "b"])
    assert read_answer(reply, "embeddings", "m", ()) == {
        "embeddings": VECTORS,
        "usage": {"prompt_tokens": 0, "total_tokens": 0},
    }


# --- completions --------------------------------------------------------------------------------------------------


def recorded(name: str) -> bytes:
    return (RECORDED / name).read_bytes()


@pytest.mark.parametrize("wants_usage", [False, True], ids=["no usage", "usage"])
async def test_a_recorded_stream_is_canonical(url, upstream, wants_usage):
    """The usage of vLLM has a chunk of its own. It is always requested, but sent on only if the caller requested it."""
    upstream.play(streams(recorded("vllm/completion.sse")))
    options = {"stream_options": {"include_usage": True}} if wants_usage else {}
    reply = await post(url, "/completions", model="m", prompt="The capital of France is", stream=True, **options)
    expected = {"choices": [{"content": WHOLE, "finish": "length"}]} | ({"usage": USAGE} if wants_usage else {})
    answer = read_stream(reply, "completions", "m", (), wants_usage=wants_usage)
    assert answer.pop("system_fingerprint", FINGERPRINT) == FINGERPRINT  # only the dialect `openai` passes it on
    assert answer == expected
    (call,) = upstream.calls
    assert call.path == "/v1/completions"
    assert json.loads(call.body) == {
        "model": "there",
        "prompt": "The capital of France is",
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def test_usage_in_every_chunk_is_sent_once_at_the_end(url, upstream):
    """Ollama sends zeros in each chunk; vLLM with `continuous_usage_stats` sends increasing counts."""
    counts = [{"prompt_tokens": 5, "completion_tokens": n, "total_tokens": 5 + n} for n in (1, 2)]
    pieces = [event("a", usage=counts[0]), event("b", finish_reason="stop", usage=counts[1])]
    upstream.play(streams(*pieces, b"data: [DONE]\n\n"))
    reply = await post(url, "/completions", model="m", prompt="x", stream=True, stream_options={"include_usage": True})
    assert read_stream(reply, "completions", "m", (), wants_usage=True) == {
        "choices": [{"content": "ab", "finish": "stop"}],
        "usage": counts[1],
    }


async def test_a_recorded_answer_is_canonical(url, upstream):
    upstream.play(answers(recorded("vllm/completion.json")))
    reply = await post(url, "/completions", model="m", prompt="The capital of France is")
    answer = read_answer(reply, "completions", "m", ())
    assert answer.pop("system_fingerprint", FINGERPRINT) == FINGERPRINT
    assert answer == {"choices": [{"content": WHOLE, "finish": "length"}], "usage": USAGE}
    assert json.loads(upstream.calls[0].body) == {"model": "there", "prompt": "The capital of France is"}


@pytest.mark.parametrize(
    "prompt", ["hi", ["a", "b"], [1, 2], [[1], [2]]], ids=["text", "texts", "tokens", "lists of tokens"]
)
async def test_each_prompt_has_its_choice(url, upstream, prompt):
    upstream.play(answers(recorded("vllm/completion_two_prompts.json")))
    answer = read_answer(await post(url, "/completions", model="m", prompt=prompt), "completions", "m", ())
    assert [choice["content"] for choice in answer["choices"]] == ["-1000,", "-11, 2"]
    assert json.loads(upstream.calls[0].body)["prompt"] == prompt


async def test_log_probabilities_of_an_echo_are_unchanged(url, upstream):
    """The first token of a prompt has null, as at OpenAI."""
    body = recorded("vllm/completion_echo_logprobs.json")
    upstream.play(answers(body))
    reply = await post(url, "/completions", model="m", prompt="The capital of France is", echo=True, logprobs=1)
    (choice,) = read_answer(reply, "completions", "m", ())["choices"]
    (host_choice,) = json.loads(body)["choices"]
    assert choice == {"content": host_choice["text"], "finish": "length", "logprobs": host_choice["logprobs"]}
    assert choice["logprobs"]["token_logprobs"][0] is None
    assert json.loads(upstream.calls[0].body)["logprobs"] == 1


async def test_log_probabilities_of_chunks_are_passed_on_with_their_text(client, upstream):
    """Each chunk has its own tokens, with offsets from the beginning of the whole text."""
    first = {"tokens": ["Hi"], "token_logprobs": [-0.25], "top_logprobs": [{"Hi": -0.25}], "text_offset": [0]}
    second = {"tokens": ["!"], "token_logprobs": [-0.5], "top_logprobs": [{"!": -0.5}], "text_offset": [2]}
    last = event("", finish_reason="stop")
    upstream.play(streams(event("Hi", logprobs=first), event("!", logprobs=second), last, b"data: [DONE]\n\n"))
    stream = await client.completions.create(model="m", prompt="x", logprobs=1, stream=True)
    chunks = [chunk.choices[0] async for chunk in stream]
    assert [chunk.logprobs and chunk.logprobs.to_dict() for chunk in chunks] == [first, second, None]
    assert "".join(chunk.text for chunk in chunks) == "Hi!"


async def test_log_probabilities_in_the_chat_form_become_legacy_ones(client, upstream):
    """llama.cpp's server sends the chat form."""
    upstream.play(answers(recorded("llamacpp/completion_echo_logprobs.json")))
    (choice,) = (await client.completions.create(model="m", prompt="x", logprobs=1)).choices
    logprobs = choice.logprobs
    assert "".join(logprobs.tokens) == choice.text == " Paris.\n\nThe United"
    assert [list(top) for top in logprobs.top_logprobs] == [[token] for token in logprobs.tokens]
    assert all(logprob < 0 for logprob in logprobs.token_logprobs)
    assert logprobs.text_offset == [0, 6, 7, 8, 9, 12]


def event(text, *, usage=None, **choice) -> bytes:
    """Return an event of a legacy stream."""
    fields = {"index": 0, "text": text, "logprobs": None, "finish_reason": None} | choice
    chunk = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "theirs", "choices": [fields]}
    return b"data: %b\n\n" % json.dumps(chunk if usage is None else chunk | {"usage": usage}).encode()
