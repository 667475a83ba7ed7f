"""`engines:` model servers of our own: child processes, or servers that somebody else runs on our machines."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, cast

from msgspec import Meta, Struct

from proxy.config.admission import AdmissionConfig
from proxy.config.cards import Tokens
from proxy.config.secret import Secret
from proxy.config.server import Seconds
from proxy.config.upstreams import BASE_URL, DialectName

Start = Literal["eager", "on_demand"]
Distributed = Literal["ray"]
SleepLevel = Literal[1, 2]
Size = Annotated[int, Meta(ge=1, le=4096)]


class _Engine(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """What every engine has."""

    first_byte_timeout_s: Annotated[Seconds, Meta(description="Until the first token: prefill and queue.")] = 600.0
    idle_timeout_s: Annotated[Seconds, Meta(description="Silence in the middle of an answer.")] = 120.0
    admission: Annotated[
        AdmissionConfig, Meta(description="How many requests it has at once; each of its replicas, where it has any.")
    ] = AdmissionConfig()


class _Managed(_Engine, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every engine has whose process we own."""

    start: Annotated[
        Start, Meta(description="eager: with Tidegate; on_demand: when the first request asks for it.")
    ] = "eager"
    start_timeout_s: Annotated[
        Seconds | None, Meta(description="A start that takes longer is a failed one; null: by the size of the model.")
    ] = None
    queue_timeout_s: Annotated[
        Seconds, Meta(description="How long a request waits for the engine to load, if nobody else has the model.")
    ] = 30.0
    drain_timeout_s: Annotated[
        Seconds, Meta(description="How long running answers may go on when the engine is to stop.")
    ] = 30.0
    idle_unload_s: Annotated[
        Seconds | None, Meta(description="Sleep, or stop, after so long without a request; null: never.")
    ] = None
    pinned: Annotated[bool, Meta(description="true: it never makes room for another engine.")] = False


class Replicated(_Managed, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every engine has of which there may be several alike under one name (see `config.replicas`)."""

    replicas: Annotated[
        int,
        Meta(
            ge=1,
            le=64,
            description="So many of it under one name, each on GPUs of its own: those of gpus, or the first ones.",
        ),
    ] = 1


class LlamaCppConfig(_Managed, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="llamacpp"):
    """llama.cpp's server on the CPU, from the package xllamacpp."""

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


class VllmConfig(Replicated, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="vllm"):
    """vLLM, in a Python environment of its own or in ours."""

    model: Annotated[str, Meta(min_length=1, description="A hub id, or a folder with a checkpoint.")]
    python: Annotated[
        Annotated[str, Meta(min_length=1)] | None,
        Meta(description="The Python that has vLLM; null: the one that runs Tidegate."),
    ] = None
    args: Annotated[
        Mapping[str, Any],
        Meta(description="Anything else that `vllm serve` takes, as NAME: VALUE; it wins over what we would choose."),
    ] = {}
    environment: Annotated[Mapping[str, str], Meta(description="Environment variables of the engine.")] = {}
    gpu_memory_utilization: Annotated[
        Annotated[float, Meta(gt=0, le=1)] | None, Meta(description="Share of each GPU's memory; null: vLLM's 0.92.")
    ] = None
    gpus: Annotated[
        tuple[Annotated[int, Meta(ge=0, le=1023)], ...] | None,
        Meta(
            description="Which GPUs of the machine, by number, those of the first replica first; null: as many of the"
            " first ones as it needs."
        ),
    ] = None
    max_model_len: Annotated[Tokens | None, Meta(description="The window in tokens; null: the model's.")] = None
    kv_cache_dtype: Annotated[str | None, Meta(description="fp8 halves the cache; null: the model's own.")] = None
    quantization: Annotated[str | None, Meta(description="null: as the checkpoint says.")] = None
    cpu_offload_gb: Annotated[
        Annotated[float, Meta(ge=0)] | None, Meta(description="GiB of weights kept in the machine's memory, per GPU.")
    ] = None
    tensor_parallel_size: Annotated[Size, Meta(description="GPUs that share each layer.")] = 1
    pipeline_parallel_size: Annotated[Size, Meta(description="Groups of GPUs that share the layers out.")] = 1
    data_parallel_size: Annotated[Size, Meta(description="Copies of the engine behind one address.")] = 1
    enable_expert_parallel: Annotated[bool, Meta(description="Share experts out, in place of slicing each.")] = False
    distributed: Annotated[
        Distributed | None, Meta(description="ray: on the Ray cluster that this machine belongs to.")
    ] = None
    sleep_level: Annotated[
        SleepLevel | None,
        Meta(description="How it makes room: 1 keeps the weights in memory, 2 drops them; null: it stops."),
    ] = None
    adapters: Annotated[
        Mapping[str, str], Meta(description="LoRA adapters by the name that callers use: a folder or a hub id.")
    ] = {}
    runtime_adapters: Annotated[
        bool, Meta(description="true: the administrator may load and unload adapters while it runs.")
    ] = False


class ExternalConfig(_Engine, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="external"):
    """An engine that somebody else runs: production-stack, llm-d, Ray Serve, trtllm-serve, SGLang."""

    base_url: Annotated[
        str,
        Meta(pattern=BASE_URL, description="As an SDK takes it; a machine of ours: local_only requests go there too."),
    ]
    dialect: Annotated[DialectName, Meta(description="The server's accent.")] = "vllm"
    api_keys: Annotated[tuple[Secret, ...], Meta(description="The server's keys, used in turn.")] = ()
    health_path: Annotated[str, Meta(pattern="^/", description="200 means that it answers; beside /v1.")] = "/health"
    metrics_path: Annotated[
        Annotated[str, Meta(pattern="^/")] | None, Meta(description="vLLM's metrics, beside /v1; null: it has none.")
    ] = "/metrics"


ManagedConfig = LlamaCppConfig | VllmConfig
EngineConfig = LlamaCppConfig | VllmConfig | ExternalConfig
EngineKindName = Literal["llamacpp", "vllm", "external"]


def kind_of(config: EngineConfig) -> EngineKindName:
    """The word under `kind:`."""
    return cast("EngineKindName", config.__struct_config__.tag)


def source_of(config: EngineConfig) -> str:
    """What it loads or, where somebody else runs it, its address."""
    return config.base_url if isinstance(config, ExternalConfig) else config.model
