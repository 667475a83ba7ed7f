"""Builds the command line and the environment of vLLM from the config and the facts about the checkpoint; pure.

`args` and `environment` of the config override every flag and variable that is chosen here. Three things cannot be
overridden: the address on which the engine listens, its API key, and its model name. The flags and variables are those
of vLLM 0.26 to 0.32 (reference `vllm.md`, sections 2 and 4). "Row" in a comment is a row of the contract.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from tidegate.config.engines import VllmConfig
from tidegate.engines.base import Command, PermanentEngineError
from tidegate.engines.gpus.devices import visibility_of
from tidegate.engines.vllm import families
from tidegate.engines.vllm import server as vllm_server
from tidegate.engines.vllm.checkpoint import Checkpoint

SHUTDOWN_S = 5

_KEEP_ALIVE_S = 600  # longer than Tidegate keeps a connection; vLLM's default of 5 s cuts requests off (row 58)
_LOOPBACK = "127.0.0.1"
_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # the values that vLLM accepts for --max-lora-rank
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*(\.[\w-]+\+?)*")

_ADDRESS_REASON = "Tidegate says where the engine listens"
_REFUSED = {
    "uds": _ADDRESS_REASON,
    "host": _ADDRESS_REASON,
    "port": _ADDRESS_REASON,
    "grpc": _ADDRESS_REASON,
    "grpc-port": _ADDRESS_REASON,
    "headless": _ADDRESS_REASON,
    "root-path": _ADDRESS_REASON,
    "ssl-keyfile": "the connection is a private socket",
    "ssl-certfile": "the connection is a private socket",
    "api-key": "Tidegate makes a new key for each start",
    "config": "write what that file says under args",
    "model": "it is the key model of the engine",
    "model-tag": "it is the key model of the engine",
    "served-model-name": "callers use the names under models",
    "lora-modules": "they are the key adapters of the engine",
}
_CONFIG_KEYS = (
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
_REFUSED |= {key.replace("_", "-"): f"it is the key {key} of the engine" for key in _CONFIG_KEYS}
_EXCLUDES_TOOLS = (0, 10)  # the first release with --exclude-tools-when-tool-choice-none (vllm-project/vllm#20544)
_DEFAULTS = VllmConfig(model="-")  # a key with its default gives no flag, so vLLM's own default holds

# with one of these flags the engine is part of a deployment on several machines
_MULTI_HOST_FLAGS = (
    "nnodes",
    "master-addr",
    "data-parallel-address",
    "data-parallel-size-local",
    "data-parallel-start-rank",
)


class Machine(Struct, frozen=True, kw_only=True):
    """Facts about the machine and its vLLM that the command depends on, besides the config.

    Attributes:
        python: the Python program that runs vLLM.
        is_cpu: whether its vLLM is the build for CPUs.
        gpus: the numbers of the GPUs that the engine uses (see `placement`); empty: `CUDA_VISIBLE_DEVICES` is not set.
        environment: the environment that the engine inherits.
        adapter_rank: the highest rank of the adapters; None if it is not known.
        release: the version of vLLM as numbers; empty if it is not known.
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
    """Return the command that serves the model under the name `name` on `socket_path`.

    Raises:
        PermanentEngineError: `args` or `environment` contain something that may not be set there.
    """
    flags = _default_flags(name, config, checkpoint, machine, socket_path) | _flags_of_args(config)
    if flags.get("tool-call-parser") is None:
        flags.pop("enable-auto-tool-choice", None)  # vLLM refuses this flag without a parser
    else:
        flags.setdefault("enable-auto-tool-choice", True)  # row 49
    argv = [machine.python, vllm_server.__file__, str(Path(config.model).expanduser())]
    for flag, value in flags.items():
        if value is not None:  # null under `args` removes a flag that is chosen here
            argv += _render(flag, value)
    return Command(argv, _environment(config, machine, api_key))


def check_settings(config: VllmConfig) -> None:
    """Check that `args` and `environment` contain only what may be set there.

    Raises:
        PermanentEngineError: they contain something else.
    """
    _flags_of_args(config)
    _check_environment(config)


def checking_command(command: Command) -> Command:
    """Return a command that only lets vLLM's own parser check the flags; its exit status is 0 if they are accepted."""
    python, server, *rest = command.argv
    return Command([python, server, vllm_server.CHECK, *rest], command.environment)


def has_reasoning_parser(config: VllmConfig, checkpoint: Checkpoint) -> bool:
    """Return whether vLLM is started with a reasoning parser, which separates the thinking from the answer.

    Raises:
        PermanentEngineError: as for `build_command`.
    """
    return (_parser_flags(checkpoint) | _flags_of_args(config)).get("reasoning-parser") is not None


def parses_tool_calls(config: VllmConfig, checkpoint: Checkpoint) -> bool:
    """Return whether vLLM is started with a parser for tool calls; otherwise it refuses requests that need one.

    These are requests with tools whose `tool_choice` is absent, `auto`, `required` or a named tool (vLLM 0.26 to 0.32).

    Raises:
        PermanentEngineError: as for `build_command`.
    """
    flags = _parser_flags(checkpoint) | _flags_of_args(config)
    return flags.get("tool-call-parser") is not None and bool(flags.get("enable-auto-tool-choice", True))


def is_multi_host(config: VllmConfig) -> bool:
    """Return whether the engine runs on more machines than this one."""
    return config.distributed is not None or any(flag in _flags_of_args(config) for flag in _MULTI_HOST_FLAGS)


def _default_flags(
    name: str, config: VllmConfig, checkpoint: Checkpoint, machine: Machine, socket_path: str
) -> dict[str, Any]:
    """Return the flags that Tidegate chooses, by name without leading dashes; True means a flag without a value."""
    flags: dict[str, Any] = {
        "served-model-name": name,
        "uds": socket_path,
        "shutdown-timeout": SHUTDOWN_S,  # with vLLM's default, 0, requests would hang (reference vllm.md, section 4)
        "enable-request-id-headers": True,  # row 59
        "enable-prompt-tokens-details": True,  # row 38
        "disable-uvicorn-access-log": True,  # one line per health check would push error lines out of the kept output
    }
    if machine.release >= _EXCLUDES_TOOLS:
        flags["exclude-tools-when-tool-choice-none"] = True  # else the model sees the tools, and may call one
    flags |= _parser_flags(checkpoint)
    flags |= {_flag(key): value for key in _CONFIG_KEYS if (value := getattr(config, key)) != getattr(_DEFAULTS, key)}
    if config.distributed is not None:
        flags["distributed-executor-backend"] = config.distributed
        if config.data_parallel_size > 1:
            flags["data-parallel-backend"] = config.distributed
    if config.sleep_level is not None and not machine.is_cpu:
        flags["enable-sleep-mode"] = True
    if machine.is_cpu:
        flags["enforce-eager"] = True  # else it compiles for a minute at each start (reference vllm.md, section 1)
    return flags | _adapters(config, machine.adapter_rank)


def _flag(key: str) -> str:
    return key.replace("_", "-")


def _parser_flags(checkpoint: Checkpoint) -> dict[str, Any]:
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
        flags["api-server-count"] = 1  # vLLM would start one API server per rank, and then load no adapter
    if rank is not None:
        flags["max-lora-rank"] = next((limit for limit in _RANKS if limit >= rank), rank)
    return flags


def _flags_of_args(config: VllmConfig) -> dict[str, Any]:
    """Return the flags that the config has under `args`; `no-x: true` becomes `x: false`.

    Raises:
        PermanentEngineError: one of the flags may not be set.
    """
    args: dict[str, Any] = {}
    for key, value in config.args.items():
        stem, dot, path = key.removeprefix("--").partition(".")
        flag = _flag(stem)
        if not _NAME.fullmatch(flag + dot + path):
            raise PermanentEngineError(f"args: {key} is not the name of a flag")
        if flag.startswith("no-") and isinstance(value, bool):
            flag, value = flag.removeprefix("no-"), not value  # noqa: PLW2901 - the same flag, normalised
        # vLLM's parser accepts abbreviated flag names, so an abbreviation of a refused flag is refused too
        if (found := next((each for each in _REFUSED if each.startswith(flag)), None)) is not None:
            raise PermanentEngineError(f"args: {key} cannot be set there: {_REFUSED[found]}")
        args[flag + dot + path] = value
    return args


def _render(flag: str, value: object) -> Sequence[str]:
    if isinstance(value, bool):
        return (f"--{flag}" if value else f"--no-{flag}",)
    if isinstance(value, list | tuple):
        return (f"--{flag}", *(_text(each) for each in value)) if value else ()
    text = _text(value)
    # as a separate argument, a value that begins with a dash would be read as a flag
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
    if not is_multi_host(config):
        variables["VLLM_HOST_IP"] = _LOOPBACK  # else vLLM's internal sockets listen on the machine's address
        if machine.gpus:
            variables |= visibility_of(machine.gpus, machine.environment)
    elif config.distributed == "ray" and "RAY_ADDRESS" not in machine.environment:
        variables["RAY_ADDRESS"] = "auto"  # use the running cluster; otherwise Ray would start a new one
    if config.sleep_level is not None:
        variables["VLLM_SERVER_DEV_MODE"] = "1"  # vLLM has /sleep and /wake_up only with this
    if config.runtime_adapters:
        variables["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "True"
    # the key is passed by the environment, since every user of the machine can read the arguments of a process
    return variables | dict(config.environment) | {"VLLM_API_KEY": api_key}
