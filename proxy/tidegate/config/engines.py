"""`engines:` model servers of our own: child processes, or servers that somebody else runs on our machines."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, cast

from msgspec import Meta, Struct

from tidegate.config.cards import Tokens
from tidegate.config.command_line import CommandLine
from tidegate.config.concurrency import OLD_NAME, AdmissionConfig, ConcurrencyConfig
from tidegate.config.hooks import HooksConfig
from tidegate.config.secret import Secret
from tidegate.config.server import Seconds
from tidegate.config.upstreams import BASE_URL, DialectName

Start = Literal["eager", "on_demand"]
Distributed = Literal["ray"]
SleepLevel = Literal[1, 2]
Size = Annotated[int, Meta(ge=1, le=4096)]
Gpu = Annotated[int, Meta(ge=0, le=1023)]


class _Engine(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """What every engine has."""

    first_byte_timeout_s: Annotated[Seconds, Meta(description="Until the first token: prefill and queue.")] = 600.0
    idle_timeout_s: Annotated[Seconds, Meta(description="Silence in the middle of an answer.")] = 120.0
    concurrency: Annotated[
        ConcurrencyConfig, Meta(description="How many requests it has at once; of replicas, each of them.")
    ] = ConcurrencyConfig()
    admission: Annotated[AdmissionConfig | None, OLD_NAME] = None


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
    idle_canary_s: Annotated[
        float,
        Meta(
            ge=0,
            le=86400,
            description="An idle engine is asked for one token this often, so that a hang is noticed before a"
            " caller meets it; 0: never.",
        ),
    ] = 60.0
    pinned: Annotated[bool, Meta(description="true: it never makes room for another engine.")] = False
    hooks: Annotated[HooksConfig, Meta(description="Commands that run before and after its load.")] = HooksConfig()


class Replicated(_Managed, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every engine has that can run as several replicas under one name (see `config.replicas`)."""

    replicas: Annotated[
        int,
        Meta(
            ge=1,
            le=64,
            description="How many run under the one name, each on its own GPUs: its part of gpus, or the first ones.",
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
        int,
        Meta(
            ge=128,
            le=10_000_000,
            description="The window of each request in tokens, at most the model's; parallel requests do not share it.",
        ),
    ] = 8192
    parallel: Annotated[
        Annotated[int, Meta(ge=1, le=256)] | None,
        Meta(
            description="Requests answered at once, further ones queue; null: 4, or fewer where their windows would"
            " take more than a quarter of the machine's memory."
        ),
    ] = None


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
        tuple[Gpu, ...] | None,
        Meta(
            description="Which GPUs of the machine, by number, dealt out to the replicas in this order; null: as many"
            " of the first ones as it needs."
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


class CommandConfig(Replicated, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="command"):
    """Any model server with OpenAI's API, started by a command: llama-server, SGLang, trtllm-serve, docker."""

    cmd: Annotated[
        CommandLine,
        Meta(
            description="Starts the server: a text, split into words as a shell would, or a list of words; without a"
            " shell. Replaced at each start: ${PORT} or ${SOCKET} (one of them is required), ${MODEL}, ${NAME},"
            " ${GPUS}, ${API_KEY}, ${REPLICA} (the replica's number, from 1 on)."
        ),
    ]
    cmd_stop: Annotated[
        CommandLine | None,
        Meta(
            description="Stops the server in place of SIGTERM, for example docker stop; ${PID} is the process of cmd."
            " null: SIGTERM. What still runs after stop_timeout_s is killed."
        ),
    ] = None
    environment: Annotated[
        Mapping[str, str], Meta(description="Environment variables of cmd and cmd_stop; the same names are replaced.")
    ] = {}
    model: Annotated[
        Annotated[str, Meta(min_length=1)] | None,
        Meta(description="The value of ${MODEL}: a path, a hub id, or any name; null: cmd names the model itself."),
    ] = None
    served_name: Annotated[
        Annotated[str, Meta(min_length=1)] | None,
        Meta(
            description="The model's name in the server; null: model or, if that is a path or null, the engine's name."
        ),
    ] = None
    dialect: Annotated[DialectName, Meta(description="The server's accent.")] = "generic"
    health_path: Annotated[str, Meta(pattern="^/", description="200 means that it answers; beside /v1.")] = "/health"
    metrics_path: Annotated[
        Annotated[str, Meta(pattern="^/")] | None,
        Meta(
            description="Its metrics for Prometheus, beside /v1; null: it has none, and health_path is asked instead."
        ),
    ] = "/metrics"
    sleep_path: Annotated[
        Annotated[str, Meta(pattern="^/")] | None,
        Meta(description="A POST there frees the GPU's memory; null: it cannot sleep, and is stopped to make room."),
    ] = None
    wake_path: Annotated[
        Annotated[str, Meta(pattern="^/")] | None, Meta(description="A POST there loads the model again after sleep.")
    ] = None
    gpus: Annotated[
        tuple[Gpu, ...] | None,
        Meta(description="The GPUs that it uses, by number, for the plan and for CUDA_VISIBLE_DEVICES; null: none."),
    ] = None
    gpu_share: Annotated[
        Annotated[float, Meta(gt=0, le=1)],
        Meta(description="Share of each of these GPUs' memory that it takes, for the plan; cmd has to keep to it."),
    ] = 1.0
    stop_timeout_s: Annotated[Seconds, Meta(description="How long it may take to end when it has no requests.")] = 30.0


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


ManagedConfig = LlamaCppConfig | VllmConfig | CommandConfig
EngineConfig = ManagedConfig | ExternalConfig
EngineKindName = Literal["llamacpp", "vllm", "command", "external"]


def kind_of(config: EngineConfig) -> EngineKindName:
    """The word under `kind:`."""
    return cast("EngineKindName", config.__struct_config__.tag)


def dialect_of(config: EngineConfig) -> str:
    """The name of its API's dialect."""
    return config.dialect if isinstance(config, ExternalConfig | CommandConfig) else kind_of(config)


def source_of(config: EngineConfig) -> str:
    """What it loads; of a command without `model`, its program; of an external engine, its address."""
    if isinstance(config, ExternalConfig):
        return config.base_url
    if isinstance(config, CommandConfig):
        return config.model or (config.cmd.split()[0] if isinstance(config.cmd, str) else config.cmd[0])
    return config.model


def served_name(name: str, config: EngineConfig) -> str:
    """The name of the model in the server of the engine `name`, where the target does not give one."""
    if not isinstance(config, CommandConfig):
        return name
    model = None if config.model is None or config.model.startswith(("/", "~", ".")) else config.model
    return config.served_name or model or name
