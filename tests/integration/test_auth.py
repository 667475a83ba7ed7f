"""Which requests are accepted with which keys."""

import aiohttp
import pytest

from tests.fakes import proxy
from tests.fakes.upstream import answers
from tests.fakes.wire import completion

REQUEST = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
FORWARDED = {"x-forwarded-for": "203.0.113.7"}  # set by a reverse proxy on this machine, for a caller elsewhere


@pytest.fixture
def config(config, tmp_path):
    (tmp_path / "key").write_text("sk-good\n")
    (tmp_path / "other").write_text("sk-other\n")
    (tmp_path / "admin").write_text("sk-admin\n")
    keys = f"[file:{tmp_path}/other, file:{tmp_path}/key]"
    return config + f"auth: {{keys: {keys}, admin_key: file:{tmp_path}/admin}}\n"


@pytest.fixture
async def session(upstream):
    upstream.play(answers(completion()))
    async with aiohttp.ClientSession() as client:
        yield client


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer sk-good"},
        {"authorization": "bearer sk-other"},
        {"x-api-key": "sk-good"},
        {"api-key": "sk-good"},
    ],
)
async def test_a_valid_key_is_accepted(url, session, headers):
    async with session.post(f"{url}/v1/chat/completions", json=REQUEST, headers=headers) as response:
        assert response.status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer sk-bad"},
        {"authorization": "Basic sk-good"},
        {"x-api-key": "sk-goo"},
        {"api-key": "sk-admin"},
    ],
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/embeddings"])
async def test_a_missing_or_wrong_key_is_a_401_before_the_body_is_read(url, upstream, session, headers, path):
    async with session.post(url + path, data=b"{", headers=headers) as response:
        error = (await response.json())["error"]
    assert response.status == 401
    assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_api_key")
    assert upstream.calls == []


async def test_the_list_of_models_needs_a_key_too(url, session):
    async with session.get(f"{url}/v1/models") as response:
        assert response.status == 401


async def test_health_needs_no_key(url, session):
    for path in ("/livez", "/readyz"):
        async with session.get(url + path, headers=FORWARDED) as response:
            assert response.status == 200
            assert "engines" not in await response.json()


async def test_only_this_machine_and_the_administrator_get_details(url, session):
    for headers, status in ((FORWARDED, 401), ({}, 200), (FORWARDED | {"authorization": "Bearer sk-admin"}, 200)):
        async with session.get(f"{url}/metrics", headers=headers) as response:
            assert response.status == status
    async with session.get(f"{url}/readyz", headers=FORWARDED | {"x-api-key": "sk-admin"}) as response:
        assert (await response.json())["upstreams"] == ["host"]


async def test_without_an_admin_key_only_this_machine_gets_details(upstream, session):
    config = f'upstreams: {{host: {{base_url: "{upstream.url}"}}}}'
    async with proxy.serving(config) as url:
        async with session.get(f"{url}/metrics", headers=FORWARDED) as response:
            assert response.status == 403
        async with session.get(f"{url}/metrics") as response:
            assert response.status == 200


async def test_admin_paths_accept_only_the_admin_key(url, session):
    for path, status in (("/admin/status", 200), ("/admin", 404), ("/admin/other", 404)):
        async with session.get(url + path, headers={"authorization": "Bearer sk-admin"}) as response:
            assert response.status == status
    for headers in ({}, {"authorization": "Bearer sk-good"}, FORWARDED):
        for path in ("/admin/status", "/admin/other"):
            async with session.get(url + path, headers=headers) as response:
                assert response.status == 401
    async with session.get(f"{url}/v1/models", headers={"authorization": "Bearer sk-admin"}) as response:
        assert response.status == 401


async def test_without_an_admin_key_only_this_machine_can_use_admin_paths(upstream, session):
    async with proxy.serving(f'upstreams: {{host: {{base_url: "{upstream.url}"}}}}') as url:
        async with session.get(f"{url}/admin/status") as response:
            assert response.status == 200
            status = {"status": "ready", "engines": {}, "upstreams": ["host"], "is_offline": False}
            assert await response.json() == status
        async with session.get(f"{url}/admin/status", headers=FORWARDED) as response:
            assert response.status == 403
        async with session.post(f"{url}/admin/status") as response:
            assert response.status == 405
