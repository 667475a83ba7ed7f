"""`engines:` local model servers, as child processes."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from proxy.config.server import Seconds

EngineKind = Literal["llamacpp"]


class EngineConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One engine."""

    kind: Annotated[EngineKind, Meta(description="The server to run.")] = "llamacpp"
    model: Annotated[
        str, Meta(min_length=1, description="A GGUF file, or package:NAME for the one that a Python package carries.")
    ]
    threads: Annotated[
        Annotated[int, Meta(ge=1, le=1024)] | None,
        Meta(description="null: physical cores minus one, at least one; more collapse when others work."),
    ] = None
    context_tokens: Annotated[
        int, Meta(ge=128, le=10_000_000, description="The window, shared by the parallel requests.")
    ] = 8192
    parallel: Annotated[int, Meta(ge=1, le=256, description="Requests answered at once; further ones queue.")] = 4
    start_timeout_s: Annotated[Seconds, Meta(description="A start that takes longer is a failed one.")] = 300.0
    first_byte_timeout_s: Annotated[Seconds, Meta(description="Until the first token: prefill and queue.")] = 600.0
    idle_timeout_s: Annotated[Seconds, Meta(description="Silence in the middle of an answer.")] = 120.0
