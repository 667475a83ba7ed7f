"""The credentials that an upstream receives, over real sockets: turns, rotation, tokens, JWTs, a broken endpoint."""

import asyncio
import json
from collections import Counter

import openai
import pytest
from joserfc import jwk, jwt

from tests.fakes import proxy
from tests.fakes.clock import FakeClock
from tests.fakes.tokens import TokenEndpoint
from tests.fakes.upstream import Call, ScenarioUpstream, answers, hangs
from tests.fakes.wire import completion
from tidegate.config.credentials import ApiKeyConfig, OAuth2Config
from tidegate.config.secret import Secret
from tidegate.errors import UpstreamRateLimited, UpstreamTimeout
from tidegate.transport.credential_specs import CredentialSpec, of_keys
from tidegate.transport.credentials import CredentialPool
from tidegate.transport.oauth import TokenClient
from tidegate.transport.wire import Timeouts, Transport

ASK = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
TIMEOUTS = Timeouts(connect_s=60, first_byte_s=60, answer_s=60, idle_s=60)


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
async def endpoint():
    async with TokenEndpoint(life_s=1000).running() as running:
        yield running


@pytest.fixture
async def transport_of(upstream, clock):
    """Return a function that makes a transport to the scenario upstream, with the given credentials."""
    opened = []

    def make(*specs: CredentialSpec, timeout_s: float = 60) -> Transport:
        credentials = CredentialPool(specs, clock=clock, client=TokenClient(timeout_s))
        opened.append(Transport(upstream.url, timeouts=TIMEOUTS, credentials=credentials))
        return opened[-1]

    yield make
    for transport in opened:
        await transport.close()


def oauth(endpoint: TokenEndpoint) -> CredentialSpec:
    return CredentialSpec(OAuth2Config(token_url=endpoint.url, client_id="us", client_secret=Secret("env:X")), "s3cret")


async def status_of(transport: Transport, model: str = "") -> int:
    response = await transport.post("/chat/completions", b"{}", is_stream=False, model=model)
    await response.read_all()
    response.close()
    return response.status


def accepts(*tokens: str):
    """Return the script of a host that accepts these bearer tokens, and answers others with 401."""

    async def script(call: Call) -> None:
        is_known = call.headers["authorization"].removeprefix("Bearer ") in tokens
        await answers(b"{}", status=200 if is_known else 401)(call)

    return script


def sent_keys(upstream: ScenarioUpstream) -> list[str]:
    return [call.headers["authorization"].removeprefix("Bearer ") for call in upstream.calls]


async def test_keys_are_used_by_their_weight(upstream, transport_of):
    config = ApiKeyConfig(key=Secret("env:X"), weight=3)
    transport = transport_of(CredentialSpec(config, "three"), *of_keys(["one"]))
    upstream.play(answers(b"{}"))
    for _ in range(8):
        await status_of(transport)
    assert Counter(sent_keys(upstream)) == {"three": 6, "one": 2}


async def test_an_answer_holds_the_credential_that_was_sent(upstream, transport_of):
    """The reader reports the outcome to it; after a refusal the next requests are sent with the other one."""
    transport = transport_of(*of_keys(["good", "revoked"]))
    upstream.play(accepts("good"))
    for _ in range(6):
        response = await transport.post("/x", b"{}", is_stream=False)
        await response.read_all()
        response.close()
        if response.status == 200:
            response.credential.worked()
        else:
            assert transport.credentials.has_other(response.credential)
            response.credential.refused(response.status)
    assert sent_keys(upstream) == ["good", "revoked", "good", "good", "good", "good"]


async def test_nothing_is_sent_while_all_are_limited(upstream, transport_of, clock):
    transport = transport_of()
    upstream.play(answers(b"{}", status=429), answers(b"{}"))
    response = await transport.post("/x", b"{}", is_stream=False)
    response.credential.limited(20)
    response.close()
    with pytest.raises(UpstreamRateLimited) as caught:
        await status_of(transport)
    assert (caught.value.retry_after_s, len(upstream.calls)) == (20, 1)
    clock.advance(20)
    assert await status_of(transport) == 200


async def test_fifty_requests_at_once_fetch_one_token(upstream, transport_of, endpoint):
    transport = transport_of(oauth(endpoint))
    upstream.play(accepts("token-1"))
    assert await asyncio.gather(*(status_of(transport) for _ in range(50))) == [200] * 50
    assert endpoint.issued == 1


async def test_a_token_is_renewed_after_80_percent_of_its_lifetime_while_the_old_one_is_used(
    upstream, transport_of, endpoint, clock
):
    transport = transport_of(oauth(endpoint))
    upstream.play(answers(b"{}"))
    await status_of(transport)
    clock.advance(799)
    await status_of(transport)
    assert endpoint.issued == 1
    has_arrived = asyncio.Event()
    may_answer = asyncio.Event()

    async def slow(call: Call) -> None:
        has_arrived.set()
        await may_answer.wait()
        await endpoint.issue(call)

    endpoint.host.play(slow)
    clock.advance(1)
    await status_of(transport)
    await has_arrived.wait()
    await status_of(transport)
    assert sent_keys(upstream) == ["token-1"] * 4
    may_answer.set()
    await asyncio.gather(*transport.credentials._tasks)
    await status_of(transport)
    assert (sent_keys(upstream)[-1], endpoint.issued) == ("token-2", 2)


async def test_an_expired_token_is_never_sent(upstream, transport_of, endpoint, clock):
    transport = transport_of(oauth(endpoint))
    upstream.play(answers(b"{}"))
    await status_of(transport)
    clock.advance(5000)
    await status_of(transport)
    assert sent_keys(upstream) == ["token-1", "token-2"]


async def test_a_refused_token_is_renewed_and_the_request_sent_once_more(upstream, transport_of, endpoint):
    """As after a revocation that Tidegate did not notice. Fifty refused requests share one new token."""
    transport = transport_of(oauth(endpoint))
    upstream.play(accepts("token-1"))
    await status_of(transport)
    upstream.play(accepts("token-2"))
    assert await asyncio.gather(*(status_of(transport) for _ in range(50))) == [200] * 50
    assert endpoint.issued == 2
    assert all(call.body == b"{}" for call in upstream.calls)


async def test_a_request_whose_new_token_is_refused_too_gets_the_401(upstream, transport_of, endpoint):
    transport = transport_of(oauth(endpoint))
    upstream.play(accepts())
    assert [await status_of(transport) for _ in range(3)] == [401] * 3
    assert (endpoint.issued, sent_keys(upstream)) == (2, ["token-1", "token-2", "token-2", "token-2"])


async def test_a_refused_key_is_not_tried_again(upstream, transport_of):
    transport = transport_of(*of_keys(["k"]))
    upstream.play(accepts())
    assert (await status_of(transport), len(upstream.calls)) == (401, 1)


async def test_a_request_gets_the_401_if_no_new_token_can_be_fetched(upstream, transport_of, endpoint):
    transport = transport_of(oauth(endpoint))
    upstream.play(accepts("token-1"))
    await status_of(transport)
    upstream.play(accepts())
    endpoint.host.play(answers(b"", status=500))
    assert await status_of(transport) == 401


async def test_fault_95_all_requests_time_out_if_the_endpoint_does_not_answer(upstream, transport_of, endpoint):
    transport = transport_of(oauth(endpoint), timeout_s=0.2)
    endpoint.host.play(hangs)
    results = await asyncio.gather(*(status_of(transport) for _ in range(50)), return_exceptions=True)
    assert {(type(error), error.may_try_another_target) for error in results} == {(UpstreamTimeout, True)}
    assert len(endpoint.host.calls) <= 1  # on a busy machine the time may be over before the request has arrived
    assert upstream.calls == []


async def test_requests_in_flight_keep_their_key_after_a_rotation(upstream, transport_of):
    transport = transport_of(*of_keys(["old"]))
    has_arrived = asyncio.Event()
    may_answer = asyncio.Event()

    async def slow(call: Call) -> None:
        has_arrived.set()
        await may_answer.wait()
        await answers(b"{}")(call)

    upstream.play(slow)
    waiting = asyncio.create_task(status_of(transport))
    await has_arrived.wait()
    transport.credentials.replace(of_keys(["new"]))
    may_answer.set()
    assert await waiting == 200
    await status_of(transport)
    assert sent_keys(upstream) == ["old", "new"]
    assert set(transport.secrets) == {"old", "new"}


async def test_an_engine_gets_the_key_that_was_set_last(upstream, transport_of):
    transport = transport_of()
    upstream.play(answers(b"{}"))
    for key in ("first", "second"):
        transport.use_keys([key])
        await transport.get("/models")
    assert sent_keys(upstream) == ["first", "second"]


# --- Tidegate as a whole ------------------------------------------------------------------------------------------


def client_of(url: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="callers-own", max_retries=0)


def config_of(upstream, credential: str) -> str:
    return f"""
upstreams: {{host: {{base_url: "{upstream.url}", dialect: azure, credentials: [{{{credential}}}]}}}}
models: {{m: {{targets: [{{upstream: host, model: there}}]}}}}
"""


@pytest.fixture
def secret(tmp_path):
    (tmp_path / "secret").write_text("s3cret")
    return f"file:{tmp_path}/secret"


async def test_a_token_is_sent_in_the_authorization_header(upstream, endpoint, secret):
    """At Azure too, where keys are sent in `api-key`."""
    upstream.play(answers(completion("Hello")))
    config = config_of(upstream, f'kind: oauth2, token_url: "{endpoint.url}", client_id: us, client_secret: {secret}')
    async with proxy.serving(config) as url, client_of(url) as client:
        answer = await client.chat.completions.create(**ASK)
    assert answer.choices[0].message.content == "Hello"
    assert (sent_keys(upstream), "api-key" in upstream.calls[0].headers) == (["token-1"], False)


@pytest.mark.parametrize("status", [200, 401, 500])
async def test_fault_95_the_next_target_answers_if_no_token_can_be_fetched(upstream, endpoint, secret, status):
    endpoint.host.play(answers(b"<html>", status=status))
    upstream.play(answers(completion("from the other")))
    config = f"""
upstreams:
  host:
    base_url: "{upstream.url}"
    credentials: [{{kind: oauth2, token_url: "{endpoint.url}", client_id: us, client_secret: {secret}}}]
  other: {{base_url: "{upstream.url}"}}
models: {{m: {{targets: [{{upstream: host, model: there}}, {{upstream: other, model: there}}]}}}}
"""
    async with proxy.serving(config) as url, client_of(url) as client:
        answer = await client.chat.completions.create(**ASK)
    assert answer.choices[0].message.content == "from the other"
    assert "authorization" not in upstream.calls[0].headers


async def test_no_token_and_no_secret_is_shown_to_callers(upstream, endpoint, secret):
    message = "token-1 of us, s3cret, is not good enough"
    upstream.play(answers(json.dumps({"error": {"message": message}}).encode(), status=400))
    config = config_of(upstream, f'kind: oauth2, token_url: "{endpoint.url}", client_id: us, client_secret: {secret}')
    async with proxy.serving(config) as url, client_of(url) as client:
        with pytest.raises(openai.BadRequestError) as caught:
            await client.chat.completions.create(**ASK)
    assert "*** of us, ***, is not good enough" in caught.value.message


@pytest.fixture(scope="module")
def key():
    return jwk.ECKey.generate_key("P-256")


@pytest.fixture
def jwt_config(tmp_path, key):
    (tmp_path / "pem").write_bytes(key.as_pem(private=True))
    return f"kind: private_key_jwt, algorithm: ES256, issuer: us, key_id: k1, key: file:{tmp_path}/pem"


def verified(signed: str, key, audience: str) -> dict:
    """Verify the JWT with the public key, as a host does, and return its header."""
    public = jwk.import_key(key.as_dict(private=False))
    token = jwt.decode(signed, public, algorithms=["ES256"])
    jwt.JWTClaimsRegistry(
        iss={"essential": True, "value": "us"},
        sub={"essential": True, "value": "us"},
        aud={"essential": True, "value": audience},
        exp={"essential": True},
        jti={"essential": True},
    ).validate(token.claims)
    return token.header


async def test_a_signed_jwt_is_sent_to_the_host(upstream, jwt_config, key):
    upstream.play(answers(completion("Hello")))
    async with (
        proxy.serving(config_of(upstream, f"{jwt_config}, audience: them")) as url,
        client_of(url) as client,
    ):
        for _ in range(2):
            await client.chat.completions.create(**ASK)
    first, second = sent_keys(upstream)
    assert first == second
    assert verified(first, key, "them")["kid"] == "k1"


async def test_a_signed_jwt_is_sent_to_the_token_endpoint(upstream, endpoint, jwt_config, key):
    upstream.play(answers(completion("Hello")))
    config = config_of(upstream, f'{jwt_config}, token_url: "{endpoint.url}"')
    async with proxy.serving(config) as url, client_of(url) as client:
        await client.chat.completions.create(**ASK)
    assert sent_keys(upstream) == ["token-1"]
    (form,) = endpoint.forms
    verified(form["client_assertion"], key, endpoint.url)
