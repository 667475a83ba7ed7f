"""Every dialect by name."""

from collections.abc import Mapping

from proxy.dialects import deepseek, generic, llamacpp, openai, vllm
from proxy.dialects.base import Dialect

DIALECTS: Mapping[str, Dialect] = {
    module.DIALECT.name: module.DIALECT for module in (openai, deepseek, vllm, llamacpp, generic)
}
