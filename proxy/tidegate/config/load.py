"""Reads a config file: YAML to a checked `Config`. Every error has the file, the key's path, the fault and the cure."""

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import msgspec
import yaml

from tidegate.config.refusals import explain, read_secret
from tidegate.config.renamed import renamed
from tidegate.config.root import Config, check
from tidegate.errors import ConfigError


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, but a key that occurs twice is an error; PyYAML itself would silently use the second."""

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:  # noqa: ANN401 - PyYAML's signature
        value = super().construct_scalar(node)
        try:
            str(value).encode()
        except UnicodeEncodeError:
            raise yaml.constructor.ConstructorError(None, None, "half of a surrogate pair", node.start_mark) from None
        return value

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:  # noqa: FBT001, FBT002 - PyYAML's signature
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a word", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key} occurs twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def load(path: Path) -> Config:
    """Read the config in a file.

    Raises:
        ConfigError: the file cannot be read, or does not hold a config that can work.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(f"{path}: cannot be read: {reason}") from error
    return parse(text, str(path))


def parse(text: str, source: str) -> Config:
    """Read the config in a YAML text; error messages begin with `source`.

    Raises:
        ConfigError: the text does not hold a config that can work.
    """
    try:
        loaded = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{source}:{mark.line + 1}:{mark.column + 1}" if mark else source
        raise ConfigError(f"{where}: not valid YAML: {error.problem}; correct this line") from error
    except (yaml.YAMLError, RecursionError, ValueError, TypeError, AttributeError, LookupError) as error:
        raise ConfigError(f"{source}: not valid YAML: {type(error).__name__}") from error
    try:
        config = msgspec.convert(
            {} if loaded is None else _without_empty_sections(loaded), Config, dec_hook=read_secret
        )
    except msgspec.ValidationError as error:
        raise ConfigError(f"{source}: {explain(str(error), loaded)}") from error
    check(config, source)
    return renamed(config)


def _without_empty_sections(loaded: object) -> object:
    # `upstreams:` with all its entries commented out is null in YAML; here it means an empty section
    if not isinstance(loaded, dict):
        return loaded
    return {key: value for key, value in loaded.items() if value is not None or key not in Config.__struct_fields__}
