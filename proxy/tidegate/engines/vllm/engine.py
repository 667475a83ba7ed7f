"""`Vllm`: the engine kind vLLM; the Python that has vLLM installed runs the script `tidegate.engines.vllm.server`."""

import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from msgspec import Struct, structs

from tidegate.config.engines import VllmConfig
from tidegate.config.replicas import engine_of, number_of
from tidegate.engines import output
from tidegate.engines.base import Command, EngineError, PermanentEngineError, Progress
from tidegate.engines.gpus.allocator import GpuNeeds
from tidegate.engines.gpus.devices import Gpu
from tidegate.engines.gpus.placement import Placement, place_vllm
from tidegate.engines.start_limit import start_limit_s
from tidegate.engines.vllm.checkpoint import Checkpoint, read_adapter_rank, read_checkpoint
from tidegate.engines.vllm.command import (
    SHUTDOWN_S,
    Machine,
    build_command,
    check_settings,
    checking_command,
    has_reasoning_parser,
    is_multi_host,
    parses_tool_calls,
)
from tidegate.engines.vllm.deepseek import CARDS, generation_of

_START_S = 600.0  # imports, compilation, graph capture
_TEARDOWN_S = 10.0  # seconds to end after its last request has ended (reference vllm.md, section 4)
_BUILD = re.compile(r"vllm(?P<name>\w*)-(?P<version>[^-]+)\.dist-info")
_RELEASE = re.compile(r"\d+(?:\.\d+)*")
_PACKAGES = ("lib/python3*/site-packages", "lib/python3*/dist-packages", "local/lib/python3*/dist-packages")


class Build(Struct, frozen=True):
    """An installed vLLM.

    Attributes:
        version: the version in the name of its distribution.
        is_cpu: whether it is the build for CPUs.
    """

    version: str
    is_cpu: bool

    @property
    def release(self) -> tuple[int, ...]:
        """The leading numbers of the version; empty if it does not begin with a number."""
        found = _RELEASE.match(self.version)
        return () if found is None else tuple(map(int, found[0].split(".")))


class Vllm:
    """A checkpoint served by vLLM; implements `kinds.Kind`.

    Args:
        name: the name of the engine or replica; the model is served under the engine's name in the config.
        config: the config of the engine.
        gpus: the GPUs of the machine.
        environment: the environment that the engine inherits; None: that of Tidegate.

    Attributes:
        parses_tool_calls: see `base.EngineKind`; updated by `command`.
        start_timeout_s: see `base.EngineKind`; updated by `command`.
    """

    dialect = "vllm"
    health_path = "/health"
    metrics_path: str | None = "/metrics"
    always_streams = False
    uses_port = False
    sleep_paths = None
    supports_tools = True

    def __init__(
        self,
        name: str,
        config: VllmConfig,
        gpus: Sequence[Gpu] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._name = engine_of(name)
        self._number = number_of(name)
        self._config = config
        self._gpus = gpus
        self._environment = os.environ if environment is None else environment
        self.sleep_level: int | None = config.sleep_level
        self.stop_s = _seconds(config.args.get("shutdown_timeout", SHUTDOWN_S)) + _TEARDOWN_S
        checkpoint = self._checkpoint_or_empty()
        self.start_timeout_s = _start_timeout_s(config, checkpoint)
        self.parses_tool_calls = self._calls_tools(checkpoint)

    def command(self, socket_path: str, api_key: str) -> Command:
        checkpoint = self._read_checkpoint()
        self.start_timeout_s = _start_timeout_s(self._config, checkpoint)
        self.parses_tool_calls = self._calls_tools(checkpoint)
        machine = self._machine()
        machine = structs.replace(machine, gpus=self._place(machine, checkpoint).gpus)
        return build_command(self._name, self._config, checkpoint, machine, socket_path=socket_path, api_key=api_key)

    def place(self) -> Placement:
        """Return which GPUs the engine takes, and how much of them.

        Raises:
            PermanentEngineError: the machine does not have what the engine needs.
        """
        return self._place(self._machine(), self._checkpoint_or_empty())

    def needs(self) -> GpuNeeds:
        return self.place().needs

    def check(self) -> Command:
        """Return a command that only lets vLLM's own parser check the flags; its exit status is 0 if they are accepted.

        Raises:
            EngineError: something that the engine needs is missing.
        """
        return checking_command(self.command("/tmp/engine.sock", ""))  # noqa: S108 - no file is created there

    def faults(self) -> Iterator[str]:
        """Yield settings with which the engine could start on no machine: each as key and fault."""
        yield from _refusals("", partial(check_settings, self._config))
        yield from _refusals("python: ", lambda: find_python(self._config.python))
        yield from _refusals("model: ", self._check_model)
        for name, path in self._config.adapters.items():
            yield from _refusals(
                f"adapters.{name}: ", partial(read_adapter_rank, path, environment=self._engine_environment())
            )

    def notes(self) -> Iterator[str]:
        """Yield settings that do nothing or are perhaps not intended: each as key, note and cure."""
        try:
            machine, checkpoint = self._machine(), self._read_checkpoint()
        except PermanentEngineError:  # `faults` or the start reports it
            return
        if self._config.gpus is not None and machine.is_cpu:
            yield "gpus: does nothing with vLLM's build for the CPU; take it out"
        flags = {key.removeprefix("--").replace("_", "-") for key in self._config.args}
        may_chat = checkpoint.folder is None or bool(checkpoint.template) or "chat-template" in flags
        if may_chat and not self.parses_tool_calls and "tool-call-parser" not in flags:
            family = checkpoint.model_type or "not known before the download"
            yield (
                f"args: no tool-call parser is known for its model (model type: {family}), so requests that need tools "
                "go to other targets, or are refused; set tool-call-parser"
            )

    @property
    def parses_thinking(self) -> bool:
        """Whether vLLM is started with a parser that separates the thinking from the answer."""
        return has_reasoning_parser(self._config, self._checkpoint_or_empty())

    def model_bytes(self) -> int:
        return self._checkpoint_or_empty().size_bytes

    def model_card(self) -> str | None:
        """Return the name of the model card that fits the checkpoint; None if the checkpoint does not show it."""
        generation = generation_of(self._checkpoint_or_empty())
        return None if generation is None else CARDS[generation]

    def progress(self, line: str) -> Progress | None:
        return output.read_progress(line)

    def explain(self, lines: Sequence[str], *, has_run: bool = False) -> EngineError | None:
        return output.explain(lines, has_run=has_run)

    def _check_model(self) -> None:
        model = Path(self._config.model).expanduser()
        is_path = model.parent != Path() and model.parent.is_dir()
        if self._read_checkpoint().folder is None and is_path:
            raise PermanentEngineError(f"the folder {self._config.model} does not exist: mend the path")

    def _calls_tools(self, checkpoint: Checkpoint) -> bool:
        try:
            return parses_tool_calls(self._config, checkpoint)
        except PermanentEngineError:  # the engine's start will fail with the same message
            return True

    def _place(self, machine: Machine, checkpoint: Checkpoint) -> Placement:
        return place_vllm(
            self._config,
            () if machine.is_cpu else self._gpus,
            attention_heads=checkpoint.attention_heads,
            is_multi_host=is_multi_host(self._config),
            number=self._number,
        )

    def _read_checkpoint(self) -> Checkpoint:
        revision = self._config.args.get("revision")
        return read_checkpoint(
            self._config.model,
            environment=self._engine_environment(),
            revision=None if revision is None else str(revision),
        )

    def _checkpoint_or_empty(self) -> Checkpoint:
        try:
            return self._read_checkpoint()
        except EngineError:
            return Checkpoint(name=self._config.model)

    def _engine_environment(self) -> Mapping[str, str]:
        return {**self._environment, **self._config.environment}

    def _machine(self) -> Machine:
        python = find_python(self._config.python)
        build = find_build(python)
        has_own_path = "PYTHONPATH" in self._engine_environment()
        if build is None and self._config.python is None and not has_own_path and find_spec("vllm") is None:
            raise PermanentEngineError(
                "vLLM is not installed beside Tidegate: pip install vllm, or point the key python at the Python of an "
                "environment that has it"
            )
        ranks = [
            read_adapter_rank(path, environment=self._engine_environment()) for path in self._config.adapters.values()
        ]
        return Machine(
            python=python,
            is_cpu=build is not None and build.is_cpu,
            environment=self._environment,
            adapter_rank=max((rank for rank in ranks if rank is not None), default=None),
            release=() if build is None else build.release,
        )


def _refusals(where: str, check: Callable[[], object]) -> Iterator[str]:
    """Yield `where` and the message of the `PermanentEngineError` that `check` raises, if it raises one."""
    try:
        check()
    except PermanentEngineError as error:
        yield f"{where}{error}"


def find_python(python: str | None) -> str:
    """Return the absolute path of the program `python`; None: the Python that runs Tidegate.

    Raises:
        PermanentEngineError: there is no such program.
    """
    if python is None:
        return sys.executable
    found = shutil.which(Path(python).expanduser())
    if found is None:
        raise PermanentEngineError(f"there is no Python at {python}: mend the key python")
    return str(Path(found).absolute())  # links are not resolved: a virtual environment is found by its link


def find_build(python: str) -> Build | None:
    """Return the vLLM that is installed beside `python`.

    Returns None if none is found in the usual folders; `python` may have one elsewhere.
    """
    prefix = Path(python).parent.parent
    for packages in _PACKAGES:
        for folder in sorted(prefix.glob(f"{packages}/vllm*.dist-info")):
            if (found := _BUILD.fullmatch(folder.name)) is not None and found["name"] in {"", "_cpu"}:
                # vLLM itself detects its CPU build by "cpu" in its version
                return Build(found["version"], is_cpu="cpu" in found["name"] + found["version"])
    return None


def _start_timeout_s(config: VllmConfig, checkpoint: Checkpoint) -> float:
    """Return how long a start may take, by the size of the weights; longer if they may have to be downloaded first."""
    if config.start_timeout_s is not None:
        return config.start_timeout_s
    return start_limit_s(_START_S, checkpoint.size_bytes, may_download=not checkpoint.is_complete)


def _seconds(value: object) -> float:
    return float(value) if isinstance(value, int | float) else float(SHUTDOWN_S)
