"""A YAML file becomes a checked `Config`; every error message has the file, the key, the fault and the cure."""

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.fakes.configs import HOST, refusal
from tidegate.config.load import load, parse
from tidegate.config.root import Config
from tidegate.config.secret import Secret
from tidegate.errors import ConfigError


@pytest.mark.parametrize(
    "text", ["", "# nothing\n", "{}", "---\n", "server:\nauth:\nupstreams:\nmodels:\n", "server: {}"]
)
def test_an_empty_file_means_the_defaults(text):
    """Also a file with sections without entries, which are null in YAML."""
    assert parse(text, "f") == Config()


def test_every_section_is_read():
    config = parse(
        f"""
        server: {{host: 0.0.0.0, port: 0, max_body_bytes: 2048, shutdown_grace_s: 1}}
        auth: {{keys: [env:A, "file:/b"], admin_key: env:C}}
        telemetry: {{log_format: json, log_level: debug}}
        upstreams:
          host: {{{HOST}, dialect: vllm, api_keys: [env:D], keepalive_s: 2.5, first_byte_timeout_s: null}}
        engines:
          tiny: {{kind: llamacpp, model: package:x, threads: 2}}
        models:
          m:
            targets: [{{engine: tiny}}, {{upstream: host, model: a/b}}]
        """,
        "f",
    )
    assert (config.server.host, config.server.port, config.server.shutdown_grace_s) == ("0.0.0.0", 0, 1.0)
    assert config.auth.keys == (Secret("env:A"), Secret("file:/b"))
    assert config.auth.admin_key == Secret("env:C")
    assert (config.telemetry.log_format, config.telemetry.log_level) == ("json", "debug")
    assert (config.upstreams["host"].dialect, config.upstreams["host"].keepalive_s) == ("vllm", 2.5)
    assert (config.engines["tiny"].model, config.engines["tiny"].threads) == ("package:x", 2)
    assert [(target.engine, target.upstream, target.model) for target in config.models["m"].targets] == [
        ("tiny", None, None),
        (None, "host", "a/b"),
    ]


def test_a_config_cannot_be_changed():
    with pytest.raises(AttributeError):
        parse("", "f").server.port = 1


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("server: {", "tidegate.yaml:1:10: not valid YAML"),
        ("server:\n  port: 1\n bad", "tidegate.yaml:3:"),
        ("a: !!python/object:os.system x", "tidegate.yaml:1:4: not valid YAML"),
        ("a: 'open", "tidegate.yaml:1:"),
        ("a: *unknown", "tidegate.yaml:1:4: not valid YAML"),
        ("a: 1\n---\nb: 2", "tidegate.yaml:2:1: not valid YAML"),
        ("a: \x00", "tidegate.yaml: not valid YAML"),
        ("a: 2024-99-99", "tidegate.yaml: not valid YAML"),
        ("a: !!timestamp x", "tidegate.yaml: not valid YAML"),
        ('a: {b: "\\ud800"}', "tidegate.yaml:1:8: not valid YAML: half of a surrogate pair"),
        ("[" * 3000, "tidegate.yaml: not valid YAML"),
    ],
)
def test_invalid_yaml_is_refused_with_its_line(text, place):
    assert refusal(text).startswith(place)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("server: {}\nserver: {}", "tidegate.yaml:2:1: not valid YAML: the key server occurs twice; correct this line"),
        (
            "server:\n  port: 1\n  port: 2",
            "tidegate.yaml:3:3: not valid YAML: the key port occurs twice; correct this line",
        ),
        (
            f"upstreams:\n  a: {{{HOST}}}\n  'a': {{{HOST}}}",
            "tidegate.yaml:3:3: not valid YAML: the key a occurs twice",
        ),
    ],
)
def test_a_key_that_occurs_twice_is_refused(text, place):
    """PyYAML itself would silently use the second."""
    assert refusal(text).startswith(place)


@pytest.mark.parametrize("text", ["{[1]: 2}", "? {a: 1}\n: 2", "server: {[1]: 2}"])
def test_a_key_that_is_a_list_is_refused(text):
    assert refusal(text).startswith("tidegate.yaml:")


def test_an_anchor_can_be_merged():
    """`<<` is YAML's way to reuse settings."""
    text = f"upstreams:\n  a: &a {{{HOST}, dialect: vllm}}\n  b:\n    <<: *a\n    dialect: openai\n"
    upstreams = parse(text, "f").upstreams
    assert [upstream.dialect for upstream in upstreams.values()] == ["vllm", "openai"]


@pytest.mark.parametrize(
    "text",
    [
        "auth: {keys: [sk-abc]}",
        "auth: {keys: sk-abc}",
        "auth: {admin_key: sk-abc}",
        "auth: {admin_key: {value: sk-abc}}",
        f"upstreams: {{a: {{{HOST}, api_keys: [env:A, sk-abc]}}}}",
        f"upstreams: {{a: {{{HOST}, api_keys: sk-abc}}}}",
        "upstreams: {a: {base_url: 'https://sk-abc@api.example/v1'}}",
        "upstreams: {a: {base_url: 'https://user:sk-abc@api.example/v1'}}",
        "upstreams: {a: {base_url: 'https://api.example/v1?key=sk-abc'}}",
    ],
)
def test_a_secret_in_the_file_is_refused_and_not_repeated(text):
    """The message does not show it."""
    assert "sk-abc" not in refusal(text)


def test_a_file_is_read(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text("server: {port: 9}")
    assert load(path).server.port == 9
    path.write_text("server: {prot: 9}")
    with pytest.raises(ConfigError, match="unknown key") as caught:
        load(path)
    assert caught.value.message.startswith(f"{path}: server.prot")


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"missing.yaml: cannot be read: No such file"):
        load(tmp_path / "missing.yaml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"a: \xff")
    with pytest.raises(ConfigError, match="cannot be read: it is not UTF-8"):
        load(tmp_path / "latin.yaml")


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["env:A", "x", "https://h/v1", "tiny"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(
                [
                    *("server", "auth", "upstreams", "engines", "models", "targets", "port", "keys", "base_url"),
                    *("dialect", "model", "upstream", "engine", "a"),
                ]
            ),
            inner,
            max_size=3,
        )
    ),
)


def message_of(text: str) -> str:
    """Return the error message for a text, or the name of the file if the text is accepted."""
    try:
        parse(text, "tidegate.yaml")
    except ConfigError as error:
        return error.message
    return "tidegate.yaml"


@given(values)
@example({"upstreams": {"a/b": {"base_url": "https://h"}}})
def test_any_data_is_a_config_or_a_refusal(value):
    """No exception but ConfigError is raised, and its message names the file."""
    assert message_of(msgspec.yaml.encode(value).decode()).startswith("tidegate.yaml")


@given(st.text("ab:-[]{}&*!|>'\"%@`#,? \n\t01<=", max_size=20))
@example("? [")
@example("{[a]: b}")
@example("<<: 5")
@example("=: 5")
def test_any_text_is_a_config_or_a_refusal(text):
    assert message_of(text).startswith("tidegate.yaml")
