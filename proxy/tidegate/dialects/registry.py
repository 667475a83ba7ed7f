"""The table of all dialects by name."""

from collections.abc import Mapping

from tidegate.dialects import (
    azure,
    bedrock,
    deepinfra,
    deepseek,
    fireworks,
    generic,
    groq,
    llama_cpp_python,
    llamacpp,
    meta_llama,
    ollama,
    openai,
    openrouter,
    sglang,
    tgi,
    together,
    vllm,
)
from tidegate.dialects.base import Dialect

DIALECTS: Mapping[str, Dialect] = {
    dialect.name: dialect
    for dialect in (
        openai.DIALECT,
        azure.DIALECT,
        deepseek.DIALECT,
        vllm.DIALECT,
        sglang.DIALECT,
        llamacpp.DIALECT,
        llama_cpp_python.DIALECT,
        ollama.DIALECT,
        tgi.DIALECT,
        together.DIALECT,
        groq.DIALECT,
        fireworks.DIALECT,
        deepinfra.DIALECT,
        meta_llama.COMPAT,
        meta_llama.NATIVE,
        openrouter.DIALECT,
        bedrock.DIALECT,
        generic.DIALECT,
    )
}
