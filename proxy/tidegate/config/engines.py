"""`engines:` local model servers: child processes of Tidegate, or servers that it does not start (`external`)."""

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
    """The keys that every kind of engine has."""

    first_byte_timeout_s: Annotated[
        Seconds, Meta(description="How long it may take until the first token, with its queue and prefill.")
    ] = 600.0
    idle_timeout_s: Annotated[Seconds, Meta(description="How long it may send nothing in the middle of an answer.")] = (
        120.0
    )
    concurrency: Annotated[
        ConcurrencyConfig, Meta(description="How many requests it gets at once; of replicas, each of them.")
    ] = ConcurrencyConfig()
    admission: Annotated[AdmissionConfig | None, OLD_NAME] = None


class _Managed(_Engine, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The keys of every engine whose process Tidegate starts."""

    start: Annotated[
        Start, Meta(description="When it is started. eager: with Tidegate; on_demand: at the first request for it.")
    ] = "eager"
    start_timeout_s: Annotated[
        Seconds | None, Meta(description="A start that takes longer has failed; null: by the size of the model.")
    ] = None
    queue_timeout_s: Annotated[
        Seconds, Meta(description="How long a request waits for it to load, if no other target has the model.")
    ] = 30.0
    drain_timeout_s: Annotated[
        Seconds, Meta(description="How long running answers may continue when it is to stop.")
    ] = 30.0
    idle_unload_s: Annotated[
        Seconds | None, Meta(description="It sleeps, or stops, after this long without a request; null: never.")
    ] = None
    idle_canary_s: Annotated[
        float,
        Meta(
            ge=0,
            le=86400,
            description="How often an idle engine gets a request for one token, so that a hang is noticed before a"
            " caller's request meets it; 0: never.",
        ),
    ] = 60.0
    pinned: Annotated[bool, Meta(description="true: it is never unloaded to make room for another engine.")] = False
    hooks: Annotated[HooksConfig, Meta(description="Commands that run before and after its load.")] = HooksConfig()


class Replicated(_Managed, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The keys of every engine that can run as several replicas under one name (see `config.replicas`)."""

    replicas: Annotated[
        int,
        Meta(
            ge=1,
            le=64,
            description="How many run under the one name, each on GPUs of its own: a part of gpus, or if that is null,"
            " of the machine's first ones.",
        ),
    ] = 1


class LlamaCppConfig(_Managed, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="llamacpp"):
    """llama.cpp's server on the CPU, from the package xllamacpp."""

    model: Annotated[
        str, Meta(min_length=1, description="A GGUF file, or package:NAME for the one in a Python package.")
    ]
    threads: Annotated[
        Annotated[int, Meta(ge=1, le=1024)] | None,
        Meta(
            description="CPU threads; null: physical cores minus one, at least one; more are far slower when other"
            " processes use the CPU."
        ),
    ] = None
    context_tokens: Annotated[
        int,
        Meta(
            ge=128,
            le=10_000_000,
            description="The context window of each request in tokens, at most the model's; requests do not share it.",
        ),
    ] = 8192
    parallel: Annotated[
        Annotated[int, Meta(ge=1, le=256)] | None,
        Meta(
            description="Requests answered at once; further ones queue. null: 4, or fewer if their windows would take"
            " more than a quarter of the machine's memory."
        ),
    ] = None


class VllmConfig(Replicated, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="vllm"):
    """vLLM, in a Python environment of its own or in Tidegate's."""

    model: Annotated[str, Meta(min_length=1, description="A hub id, or a folder with a checkpoint.")]
    python: Annotated[
        Annotated[str, Meta(min_length=1)] | None,
        Meta(description="The Python that has vLLM; null: the one that runs Tidegate."),
    ] = None
    args: Annotated[
        Mapping[str, Any],
        Meta(description="Further options of `vllm serve`, as NAME: VALUE; they override what Tidegate chooses."),
    ] = {}
    environment: Annotated[Mapping[str, str], Meta(description="Environment variables of the engine.")] = {}
    gpu_memory_utilization: Annotated[
        Annotated[float, Meta(gt=0, le=1)] | None, Meta(description="Share of each GPU's memory; null: vLLM's 0.92.")
    ] = None
    gpus: Annotated[
        tuple[Gpu, ...] | None,
        Meta(
            description="The numbers of the GPUs that it uses, divided among the replicas in this order; null: as many"
            " of the first ones as it needs."
        ),
    ] = None
    max_model_len: Annotated[Tokens | None, Meta(description="The context window in tokens; null: the model's.")] = None
    kv_cache_dtype: Annotated[
        str | None, Meta(description="The type of the KV cache; fp8 halves it; null: the model's own.")
    ] = None
    quantization: Annotated[str | None, Meta(description="The quantization method; null: that of the checkpoint.")] = (
        None
    )
    cpu_offload_gb: Annotated[
        Annotated[float, Meta(ge=0)] | None, Meta(description="GiB of weights kept in the machine's memory, per GPU.")
    ] = None
    tensor_parallel_size: Annotated[Size, Meta(description="GPUs that share each layer.")] = 1
    pipeline_parallel_size: Annotated[
        Size, Meta(description="Groups of GPUs, each of which has a part of the layers.")
    ] = 1
    data_parallel_size: Annotated[Size, Meta(description="Copies of the engine behind one address.")] = 1
    enable_expert_parallel: Annotated[
        bool, Meta(description="true: whole experts are distributed over the GPUs, instead of slices of each.")
    ] = False
    distributed: Annotated[
        Distributed | None, Meta(description="ray: on the Ray cluster that this machine belongs to.")
    ] = None
    sleep_level: Annotated[
        SleepLevel | None,
        Meta(
            description="How it frees the GPUs for another engine: 1 keeps the weights in the machine's memory, 2 drops"
            " them; null: it stops."
        ),
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
            description="Starts the server: a text, which is split into words as by a shell, or a list of words; no"
            " shell runs it. Replaced at each start: ${PORT} or ${SOCKET} (one of them is required), ${MODEL}, ${NAME},"
            " ${GPUS}, ${API_KEY}, ${REPLICA} (the replica's number, from 1 on)."
        ),
    ]
    cmd_stop: Annotated[
        CommandLine | None,
        Meta(
            description="Stops the server instead of SIGTERM, for example docker stop; ${PID} is the process of cmd."
            " null: SIGTERM. Processes that still run after stop_timeout_s are killed."
        ),
    ] = None
    environment: Annotated[
        Mapping[str, str],
        Meta(description="Environment variables of cmd and cmd_stop; in them the same names are replaced."),
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
    dialect: Annotated[DialectName, Meta(description="The server's variant of the OpenAI API.")] = "generic"
    health_path: Annotated[
        str, Meta(pattern="^/", description="The path, beside /v1, that answers 200 when the server is ready.")
    ] = "/health"
    metrics_path: Annotated[
        Annotated[str, Meta(pattern="^/")] | None,
        Meta(
            description="The path of its Prometheus metrics, beside /v1; null: it has none, and health_path is used"
            " instead."
        ),
    ] = "/metrics"
    sleep_path: Annotated[
        Annotated[str, Meta(pattern="^/")] | None,
        Meta(description="A POST there frees the GPUs' memory; null: it cannot sleep, and is stopped to make room."),
    ] = None
    wake_path: Annotated[
        Annotated[str, Meta(pattern="^/")] | None, Meta(description="A POST there loads the model again after sleep.")
    ] = None
    gpus: Annotated[
        tuple[Gpu, ...] | None,
        Meta(
            description="The numbers of the GPUs that it uses, for the placement of engines and CUDA_VISIBLE_DEVICES;"
            " null: none."
        ),
    ] = None
    gpu_share: Annotated[
        Annotated[float, Meta(gt=0, le=1)],
        Meta(description="The share of each of these GPUs' memory that it takes; cmd has to keep to it."),
    ] = 1.0
    stop_timeout_s: Annotated[Seconds, Meta(description="How long it may take to end once it has no requests.")] = 30.0


class ExternalConfig(_Engine, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="external"):
    """An engine that Tidegate does not start: production-stack, llm-d, Ray Serve, trtllm-serve, SGLang."""

    base_url: Annotated[
        str,
        Meta(
            pattern=BASE_URL,
            description="The base URL as an SDK takes it; it counts as local, so local_only requests go there too.",
        ),
    ]
    dialect: Annotated[DialectName, Meta(description="The server's variant of the OpenAI API.")] = "vllm"
    api_keys: Annotated[tuple[Secret, ...], Meta(description="The server's keys, used in turn.")] = ()
    health_path: Annotated[
        str, Meta(pattern="^/", description="The path, beside /v1, that answers 200 when the server is ready.")
    ] = "/health"
    metrics_path: Annotated[
        Annotated[str, Meta(pattern="^/")] | None,
        Meta(description="The path of its Prometheus metrics, beside /v1; null: it has none."),
    ] = "/metrics"


ManagedConfig = LlamaCppConfig | VllmConfig | CommandConfig
EngineConfig = ManagedConfig | ExternalConfig
EngineKindName = Literal["llamacpp", "vllm", "command", "external"]


def kind_of(config: EngineConfig) -> EngineKindName:
    """The value of `kind:`."""
    return cast("EngineKindName", config.__struct_config__.tag)


def dialect_of(config: EngineConfig) -> str:
    """The name of its API's dialect."""
    return config.dialect if isinstance(config, ExternalConfig | CommandConfig) else kind_of(config)


def source_of(config: EngineConfig) -> str:
    """What it loads (`model`); of a command without `model`, its program; of an external engine, its base URL."""
    if isinstance(config, ExternalConfig):
        return config.base_url
    if isinstance(config, CommandConfig):
        return config.model or (config.cmd.split()[0] if isinstance(config.cmd, str) else config.cmd[0])
    return config.model


def served_name(name: str, config: EngineConfig) -> str:
    """The model's name in the server of the engine `name`, for a target that does not give one."""
    if not isinstance(config, CommandConfig):
        return name
    model = None if config.model is None or config.model.startswith(("/", "~", ".")) else config.model
    return config.served_name or model or name
