"""How vLLM is started: a pure function from the config and what is known of the model to argv and environment.

What stands under `args` and `environment` in the config wins over all that is chosen here, but for what keeps the
engine ours: where it listens, who may ask it, what it is called. Flags and variables are those of vLLM 0.26 to 0.32
(reference `vllm.md`, sections 2 and 4).
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from tidegate.config.engines import VllmConfig
from tidegate.engines.base import Command, PermanentEngineError
from tidegate.engines.gpus.devices import select
from tidegate.engines.vllm import families
from tidegate.engines.vllm import server as vllm_server
from tidegate.engines.vllm.checkpoint import Checkpoint

SHUTDOWN_S = 5

_KEEP_ALIVE_S = 600  # longer than our pool keeps a connection; vLLM's 5 s cut requests off (row 58)
_LOOPBACK = "127.0.0.1"
_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # those that vLLM takes for --max-lora-rank
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*(\.[\w-]+\+?)*")

_LISTENS = "Tidegate says where the engine listens"
_REFUSED = {
    "uds": _LISTENS,
    "host": _LISTENS,
    "port": _LISTENS,
    "grpc": _LISTENS,
    "grpc-port": _LISTENS,
    "headless": _LISTENS,
    "root-path": _LISTENS,
    "ssl-keyfile": "the connection is a private socket",
    "ssl-certfile": "the connection is a private socket",
    "api-key": "Tidegate makes a new key for each start",
    "config": "write what that file says under args",
    "model": "it is the key model of the engine",
    "model-tag": "it is the key model of the engine",
    "served-model-name": "callers use the names under models",
    "lora-modules": "they are the key adapters of the engine",
}
_TYPED = (
    "gpu_memory_utilization",
    "max_model_len",
    "kv_cache_dtype",
    "quantization",
    "cpu_offload_gb",
    "tensor_parallel_size",
    "pipeline_parallel_size",
    "data_parallel_size",
    "enable_expert_parallel",
)
_REFUSED |= {key.replace("_", "-"): f"it is the key {key} of the engine" for key in _TYPED}
_EXCLUDES_TOOLS = (0, 10)  # the first release that has the flag (vllm-project/vllm#20544)
_UNSAID = VllmConfig(model="-")  # whatever has its default is left to vLLM

# one of these, and the engine is a part of something on several machines
_SPREAD = ("nnodes", "master-addr", "data-parallel-address", "data-parallel-size-local", "data-parallel-start-rank")


class Machine(Struct, frozen=True, kw_only=True):
    """What the command depends on besides the config.

    Attributes:
        python: whose vLLM is run.
        is_cpu: it is the build for CPUs.
        gpus: which ones, by number (see `placement`); empty: vLLM is not told.
        environment: the one that the engine inherits.
        adapter_rank: the highest of the adapters', where known.
        release: of vLLM, as numbers; empty: not known.
    """

    python: str
    is_cpu: bool = False
    gpus: Sequence[int] = ()
    environment: Mapping[str, str] = {}
    adapter_rank: int | None = None
    release: tuple[int, ...] = ()


def build_command(
    name: str, config: VllmConfig, checkpoint: Checkpoint, machine: Machine, *, socket_path: str, api_key: str
) -> Command:
    """What serves the model as `name` on `socket_path`.

    Raises:
        Hopeless: `args` or `environment` hold what may not be set there.
    """
    flags = _chosen(name, config, checkpoint, machine, socket_path) | _own_args(config)
    if flags.get("tool-call-parser") is None:
        flags.pop("enable-auto-tool-choice", None)  # vLLM refuses the one without the other
    else:
        flags.setdefault("enable-auto-tool-choice", True)  # row 49
    argv = [machine.python, vllm_server.__file__, str(Path(config.model).expanduser())]
    for flag, value in flags.items():
        if value is not None:  # null under args: not even what we would choose
            argv += _render(flag, value)
    return Command(argv, _environment(config, machine, api_key))


def check_settings(config: VllmConfig) -> None:
    """Check that `args` and `environment` hold only what may be set there.

    Raises:
        Hopeless: they do not.
    """
    _own_args(config)
    _check_environment(config)


def to_check(command: Command) -> Command:
    """The command that starts nothing, but has vLLM's own parser read the flags; status 0 where it takes them."""
    python, server, *rest = command.argv
    return Command([python, server, vllm_server.CHECK, *rest], command.environment)


def has_reasoning_parser(config: VllmConfig, checkpoint: Checkpoint) -> bool:
    """Whether it is told how to take thinking apart.

    Raises:
        Hopeless: as `build_command`.
    """
    return (_markup(checkpoint) | _own_args(config)).get("reasoning-parser") is not None


def calls_tools(config: VllmConfig, checkpoint: Checkpoint) -> bool:
    """Whether it has a parser for tool calls; otherwise vLLM refuses requests that need one.

    These are requests with tools whose `tool_choice` is absent, `auto`, `required` or named (vLLM 0.26 to 0.32).

    Raises:
        Hopeless: as `build_command`.
    """
    flags = _markup(checkpoint) | _own_args(config)
    return flags.get("tool-call-parser") is not None and bool(flags.get("enable-auto-tool-choice", True))


def is_spread(config: VllmConfig) -> bool:
    """Whether it runs on more machines than this one."""
    return config.distributed is not None or any(flag in _own_args(config) for flag in _SPREAD)


def _chosen(
    name: str, config: VllmConfig, checkpoint: Checkpoint, machine: Machine, socket_path: str
) -> dict[str, Any]:
    """The flags, by their names without dashes in front; True is a flag without a value."""
    flags: dict[str, Any] = {
        "served-model-name": name,
        "uds": socket_path,
        "shutdown-timeout": SHUTDOWN_S,  # with vLLM's own 0 callers would hang (reference vllm.md, section 4)
        "enable-request-id-headers": True,  # row 59
        "enable-prompt-tokens-details": True,  # row 38
        "disable-uvicorn-access-log": True,  # a line for each of our looks would bury why it died
    }
    if machine.release >= _EXCLUDES_TOOLS:
        flags["exclude-tools-when-tool-choice-none"] = True  # a model that sees tools may call them against the choice
    flags |= _markup(checkpoint)
    flags |= {_flag(key): value for key in _TYPED if (value := getattr(config, key)) != getattr(_UNSAID, key)}
    if config.distributed is not None:
        flags["distributed-executor-backend"] = config.distributed
        if config.data_parallel_size > 1:
            flags["data-parallel-backend"] = config.distributed
    if config.sleep_level is not None and not machine.is_cpu:
        flags["enable-sleep-mode"] = True
    if machine.is_cpu:
        flags["enforce-eager"] = True  # it would compile for a minute at each start (reference vllm.md, section 1)
    return flags | _adapters(config, machine.adapter_rank)


def _flag(key: str) -> str:
    return key.replace("_", "-")


def _markup(checkpoint: Checkpoint) -> dict[str, Any]:
    choices = families.choose(checkpoint)
    flags: dict[str, Any] = {}
    if choices.reasoning_parser is not None:
        flags["reasoning-parser"] = choices.reasoning_parser
    if choices.tool_call_parser is not None:
        flags["tool-call-parser"] = choices.tool_call_parser
    if choices.tokenizer_mode is not None:
        flags["tokenizer-mode"] = choices.tokenizer_mode
    if choices.template_kwargs:
        flags["default-chat-template-kwargs"] = choices.template_kwargs
    if choices.chat_template is not None:
        flags["chat-template"] = choices.chat_template
    return flags


def _adapters(config: VllmConfig, rank: int | None) -> dict[str, Any]:
    if not (config.adapters or config.runtime_adapters):
        return {}
    flags: dict[str, Any] = {"enable-lora": True}
    if config.adapters:
        flags["lora-modules"] = [
            {"name": name, "path": str(Path(path).expanduser())} for name, path in config.adapters.items()
        ]
    if config.runtime_adapters and config.data_parallel_size > 1:
        flags["api-server-count"] = 1  # vLLM would start one for each copy, and then load no adapter
    if rank is not None:
        flags["max-lora-rank"] = next((limit for limit in _RANKS if limit >= rank), rank)
    return flags


def _own_args(config: VllmConfig) -> dict[str, Any]:
    """The user's flags; `no-x: true` is `x: false`.

    Raises:
        Hopeless: one of them may not be set.
    """
    args: dict[str, Any] = {}
    for key, value in config.args.items():
        stem, dot, path = key.removeprefix("--").partition(".")
        flag = _flag(stem)
        if not _NAME.fullmatch(flag + dot + path):
            raise PermanentEngineError(f"args: {key} is not the name of a flag")
        if flag.startswith("no-") and isinstance(value, bool):
            flag, value = flag.removeprefix("no-"), not value  # noqa: PLW2901 - the same thing said plainly
        # vLLM's parser takes the beginning of a name for the whole of it
        if (refused := next((known for known in _REFUSED if known.startswith(flag)), None)) is not None:
            raise PermanentEngineError(f"args: {key} cannot be set there: {_REFUSED[refused]}")
        args[flag + dot + path] = value
    return args


def _render(flag: str, value: object) -> Sequence[str]:
    if isinstance(value, bool):
        return (f"--{flag}" if value else f"--no-{flag}",)
    if isinstance(value, list | tuple):
        return (f"--{flag}", *(_text(each) for each in value)) if value else ()
    text = _text(value)
    # a value that looks like a flag would be read as one
    return (f"--{flag}={text}",) if text.startswith("-") else (f"--{flag}", text)


def _text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, Mapping) else str(value)


def _check_environment(config: VllmConfig) -> None:
    if "VLLM_API_KEY" in config.environment:
        raise PermanentEngineError(
            "environment: VLLM_API_KEY cannot be set there: Tidegate makes a new key for each start"
        )


def _environment(config: VllmConfig, machine: Machine, api_key: str) -> dict[str, str]:
    _check_environment(config)
    variables = {
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": str(_KEEP_ALIVE_S),
    }
    if not is_spread(config):
        variables["VLLM_HOST_IP"] = _LOOPBACK  # its own sockets would listen on the machine's address
        if machine.gpus:
            variables |= select(machine.gpus, machine.environment)
    elif config.distributed == "ray" and "RAY_ADDRESS" not in machine.environment:
        variables["RAY_ADDRESS"] = "auto"  # the cluster that there is; else a new one would be started
    if config.sleep_level is not None:
        variables["VLLM_SERVER_DEV_MODE"] = "1"  # /sleep and /wake_up are there only then
    if config.runtime_adapters:
        variables["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "True"
    # by the environment, since everybody can read the arguments of a process
    return variables | dict(config.environment) | {"VLLM_API_KEY": api_key}
