"""The names in the commands of engines of `kind: command`, and what can be wrong with the config of such an engine."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.config.command_line import split
from tidegate.config.commands import fill, names
from tidegate.config.engines import CommandConfig, dialect_of, served_name, source_of
from tidegate.config.load import load, parse
from tidegate.errors import ConfigError


def config(**keys):
    return CommandConfig(**{"cmd": "serve --port ${PORT}"} | keys)


@given(st.text(), st.dictionaries(st.sampled_from(["PORT", "MODEL", "X"]), st.text()))
def test_nothing_but_a_known_name_is_replaced(text, values):
    """A name in an inserted value is not replaced."""
    assert fill(text.replace("$", ""), values) == text.replace("$", "")
    assert fill("${PORT}|${MODEL}", {"PORT": "${MODEL}", "MODEL": "m"}) == "${MODEL}|m"


def test_names_are_found_anywhere_in_a_word():
    assert names(["--port=${PORT}", "a${B}${C}", "$D", "{E}"]) == {"PORT", "B", "C"}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("cmd: serve", r"cmd: has neither \$\{PORT\} nor \$\{SOCKET\}"),
        ("cmd: 'serve ${PORT} ${SOCKET}'", r"cmd: has both \$\{PORT\} and \$\{SOCKET\}"),
        ("cmd: 'serve ${PORT} ${HOST}'", r"cmd: \$\{HOST\} is not a known name: known are PORT, SOCKET, MODEL"),
        ("cmd: 'serve ${PORT} ${PID}'", r"cmd: \$\{PID\} is not a known name"),
        ("cmd: 'serve ${PORT} ${}'", r"cmd: \$\{\} is not a known name"),
        ("cmd: 'serve ${PORT}', environment: {A: '${B}'}", r"environment: \$\{B\} is not a known name"),
        ("cmd: 'serve ${PORT}', cmd_stop: 'stop ${HOST}'", r"cmd_stop: \$\{HOST\} is not a known name: .*PID"),
        ("cmd: 'serve ${PORT} ${MODEL}'", r"model: missing"),
        ("cmd: 'serve ${PORT} ${GPUS}'", r"gpus: missing"),
        ("cmd: 'serve ${PORT}', gpus: [0, 0]", r"gpus: a GPU is named twice"),
        (
            "cmd: 'docker run --name x-${NAME} -p 127.0.0.1:${PORT}:80 x', replicas: 2",
            r"cmd: 2 replicas cannot share the container's name; end it in -\$\{REPLICA\}",
        ),
        ("cmd: 'podman run --name=x -p 127.0.0.1:${PORT}:80 x', replicas: 2", r"cmd: 2 replicas cannot share"),
        (
            "cmd: 'docker run --name x-${REPLICA} -p 127.0.0.1:${PORT}:80 x', cmd_stop: docker stop x, replicas: 2",
            r"cmd_stop: 2 replicas cannot share the container's name",
        ),
        ("cmd: 'serve ${PORT}', replicas: 2, gpus: [0]", r"gpus: 1 cannot be divided evenly among 2 replicas"),
        ("cmd: 'serve ${PORT}', sleep_path: /sleep", r"wake_path: missing"),
        ("cmd: 'serve ${PORT}', wake_path: /wake_up", r"sleep_path: missing"),
        ('cmd: "serve \'${PORT}"', r"cmd: a quotation mark is not closed"),
        ("cmd: ' '", r"cmd: empty"),
        ("cmd: ['']", r"cmd: empty"),
        ("cmd: 'cd /x && serve ${PORT}'", r"cmd: no shell runs it, so && would be an argument"),
        ("cmd: 'serve ${PORT}', cmd_stop: 'a | b'", r"cmd_stop: no shell runs it"),
    ],
)
def test_a_setting_that_cannot_work_is_refused_with_its_key_and_the_cure(keys, message):
    with pytest.raises(ConfigError, match=rf"^f\.yaml: engines\.e\.{message}"):
        parse(f"engines: {{e: {{kind: command, {keys}}}}}", "f.yaml")


@pytest.mark.parametrize(
    "keys",
    [
        "cmd: 'serve ${SOCKET}'",
        "cmd: serve, environment: {PORT: '${PORT}'}",
        "cmd: 'serve ${PORT}', cmd_stop: 'kill ${PID}'",
        "cmd: [sh, -c, 'cd /x && exec serve ${PORT} | tee log']",
        "cmd: 'serve ${PORT} ${NAME} ${API_KEY} ${GPUS}', gpus: [1, 0]",
        "cmd: 'serve ${PORT}', sleep_path: '/sleep?level=1', wake_path: /wake_up",
        "cmd: 'docker run --name ${NAME}-${REPLICA} -p 127.0.0.1:${PORT}:80 x', replicas: 2",
        "cmd: 'docker run -p 127.0.0.1:${PORT}:80 x', replicas: 2",
        "cmd: 'serve ${PORT} --name x', replicas: 2, gpus: [0, 0], gpu_share: 0.4",
    ],
)
def test_valid_configs_are_accepted(keys):
    parse(f"engines: {{e: {{kind: command, {keys}}}}}", "f.yaml")


@pytest.mark.parametrize(
    ("keys", "name"),
    [
        ({}, "e"),
        ({"model": "Qwen/Qwen3-8B"}, "Qwen/Qwen3-8B"),
        ({"model": "Qwen/Qwen3-8B", "served_name": "qwen"}, "qwen"),
        ({"model": "/models/x.gguf"}, "e"),
        ({"model": "~/models/x.gguf"}, "e"),
        ({"model": "./x.gguf"}, "e"),
    ],
)
def test_the_served_name_is_never_a_path(keys, name):
    """Callers see the target under that name."""
    assert served_name("e", config(**keys)) == name


def test_the_source_of_an_engine_is_its_model_or_its_program():
    assert source_of(config(model="m")) == "m"
    assert source_of(config()) == source_of(config(cmd=("serve", "${PORT}"))) == "serve"


def test_its_dialect_is_the_configured_one():
    assert dialect_of(config(dialect="sglang")) == "sglang"
    assert dialect_of(config()) == "generic"


def test_a_command_of_several_lines_is_read_from_a_file(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("engines:\n  e:\n    kind: command\n    cmd: |\n      serve\n      --port ${PORT}\n")
    assert split(load(file).engines["e"].cmd) == ["serve", "--port", "${PORT}"]
