"""How a token endpoint's answers are read, valid and broken ones; the second part uses a real socket."""

import base64
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes.clock import FakeClock
from tests.fakes.tokens import TokenEndpoint
from tests.fakes.upstream import answers, breaks_without_answer, hangs
from tidegate.config.credentials import OAuth2Config, PrivateKeyJwtConfig
from tidegate.config.secret import Secret
from tidegate.errors import UpstreamFailed, UpstreamRefusedUs, UpstreamTimeout, UpstreamUnreachable
from tidegate.transport.auth_headers import Token
from tidegate.transport.oauth import TokenClient, client_credentials, parse, signed


@pytest.mark.parametrize(
    ("fields", "lifetime_s"),
    [
        ({"expires_in": 60}, 60),
        ({"expires_in": 60.5, "token_type": "Bearer", "scope": "x"}, 60.5),
        ({"expires_in": "3600"}, 3600),  # as Azure's older endpoint writes it
        ({}, 300),
        ({"expires_in": None}, 300),
        ({"expires_in": 10**15}, 30 * 86400),
        ({"expires_in": "inf"}, 30 * 86400),
    ],
)
def test_a_token_has_the_lifetime_of_expires_in(fields, lifetime_s):
    assert parse(200, json.dumps({"access_token": "t"} | fields).encode()) == Token("t", lifetime_s)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"\xff",
        b"[]",
        b"{}",
        b'{"access_token": 5}',
        b'{"access_token": null}',
        b'{"access_token": ""}',
        b'{"access_token": "a b"}',
        b'{"access_token": "a\\r\\nx: y"}',
        b'{"access_token": "t", "token_type": "mac"}',
        b'{"access_token": "t", "expires_in": 0}',
        b'{"access_token": "t", "expires_in": -5}',
        b'{"access_token": "t", "expires_in": "nan"}',
        b'{"access_token": "t", "expires_in": "soon"}',
        b'{"access_token": "t", "expires_in": []}',
        b'{"access_token": "t", "x": ' + b"[" * 100_000,
    ],
)
def test_an_answer_that_is_no_token_is_an_upstream_failure(body):
    with pytest.raises(UpstreamFailed, match=r"no token|cannot be used") as caught:
        parse(200, body)
    assert caught.value.may_try_another_target


@pytest.mark.parametrize(
    ("status", "body", "kind", "text"),
    [
        (401, b'{"error": "invalid_client", "error_description": "sk-abc"}', UpstreamRefusedUs, "(invalid_client)"),
        (400, b'{"error": "sk-abc is wrong"}', UpstreamRefusedUs, "(400)"),
        (403, b"sk-abc", UpstreamRefusedUs, "(403)"),
        (500, b"sk-abc", UpstreamFailed, "answered 500"),
        (302, b"", UpstreamFailed, "answered 302"),
        (429, b"", UpstreamFailed, "answered 429"),
    ],
)
def test_a_refusal_repeats_the_endpoints_error_code_and_nothing_else(status, body, kind, text):
    with pytest.raises(kind) as caught:
        parse(status, body)
    assert text in caught.value.message
    assert "sk-abc" not in caught.value.message


@given(st.sampled_from([200, 400, 500]), st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
@settings(max_examples=80)
def test_any_body_that_is_no_token_is_an_upstream_error(status, body):
    with pytest.raises((UpstreamFailed, UpstreamRefusedUs)):
        parse(status, body)


# --- over a socket ------------------------------------------------------------------------------------------------


@pytest.fixture
async def endpoint():
    async with TokenEndpoint().running() as running:
        yield running


@pytest.fixture
async def client():
    client = TokenClient(timeout_s=60)
    yield client
    await client.close()


def oauth2(url: str, **fields) -> OAuth2Config:
    return OAuth2Config(token_url=url, client_id="a:b c", client_secret=Secret("env:X"), **fields)


async def test_client_id_and_secret_are_encoded_and_then_joined_in_the_header(endpoint, client):
    config = oauth2(endpoint.url, scope="read all", audience="them", extra={"resource": "r", "grant_type": "no"})
    assert await client_credentials(config, "s/cret", client)() == Token("token-1", 3600)
    (call,) = endpoint.host.calls
    assert (call.method, call.path) == ("POST", "/v1/token?v=1")
    assert base64.b64decode(call.headers["authorization"].removeprefix("Basic ")) == b"a%3Ab+c:s%2Fcret"
    assert call.headers["content-type"] == "application/x-www-form-urlencoded"
    assert "cookie" not in call.headers
    assert endpoint.forms == [
        {"grant_type": "client_credentials", "scope": "read all", "audience": "them", "resource": "r"}
    ]


async def test_with_auth_method_post_client_id_and_secret_are_sent_in_the_form(endpoint, client):
    await client_credentials(oauth2(endpoint.url, auth_method="post"), "s/cret", client)()
    assert endpoint.forms == [{"grant_type": "client_credentials", "client_id": "a:b c", "client_secret": "s/cret"}]
    assert "authorization" not in endpoint.host.calls[0].headers


async def test_a_signed_jwt_is_sent_in_place_of_the_secret(endpoint, client):
    class FakeSigner:
        def sign(self, *, now_s: float) -> str:
            return f"signed at {now_s:.0f}"

    config = PrivateKeyJwtConfig(
        key=Secret("env:X"), issuer="us", token_url=endpoint.url, scope="s", extra={"resource": "r"}
    )
    clock = FakeClock()
    assert (await signed(config, FakeSigner(), client, clock)()).value == "token-1"
    assert endpoint.forms == [
        {
            "resource": "r",
            "grant_type": "client_credentials",
            "client_id": "us",
            "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
            "client_assertion": "signed at 1700000000",
            "scope": "s",
        }
    ]


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        (breaks_without_answer, UpstreamUnreachable),
        (answers(b"{}", status=500), UpstreamFailed),
        (answers(b"<html>"), UpstreamFailed),
        (answers(b" " * 70_000), UpstreamFailed),
        (answers(b"", status=307, head=b"location: /v1/token\r\n"), UpstreamFailed),
        (answers(b'{"error":"invalid_client"}', status=401), UpstreamRefusedUs),
    ],
    ids=["cut", "500", "garbage", "endless", "redirect", "refused"],
)
async def test_after_a_failure_of_the_endpoint_another_target_may_be_tried(endpoint, client, script, kind):
    endpoint.host.play(script)
    with pytest.raises(kind) as caught:
        await client_credentials(oauth2(endpoint.url), "s", client)()
    assert (type(caught.value), caught.value.may_try_another_target) == (kind, True)
    assert len(endpoint.host.calls) == 1


async def test_an_endpoint_that_does_not_answer_times_out(endpoint):
    client = TokenClient(timeout_s=0.05)
    endpoint.host.play(hangs)
    with pytest.raises(UpstreamTimeout):
        await client_credentials(oauth2(endpoint.url), "s", client)()
    for call in endpoint.host.calls:
        await call.gone.wait()
    await client.close()


async def test_an_endpoint_without_a_server_is_unreachable(client):
    with pytest.raises(UpstreamUnreachable) as caught:
        await client_credentials(oauth2("http://127.0.0.1:9/token"), "s", client)()
    assert "127.0.0.1" not in caught.value.message
