"""`LlamaCpp`: the engine kind llama.cpp, by the wheel `xllamacpp`; `tidegate.engines.llamacpp.server` is the child."""

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import msgspec

from tidegate.config.engines import LlamaCppConfig
from tidegate.engines import output
from tidegate.engines.base import Command, EngineError, PermanentEngineError, Progress
from tidegate.engines.gpus.allocator import GpuNeeds
from tidegate.engines.gpus.devices import Gpu
from tidegate.engines.llamacpp import gguf
from tidegate.engines.start_limit import start_limit_s

SPEC_VARIABLE = "TIDEGATE_LLAMACPP"

_PACKAGE = "package:"
_START_S = 300.0
_SYS_CPU = Path("/sys/devices/system/cpu")
_CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_CGROUP_MEMORY = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
_PARALLEL = 4
_CACHE_SHARE = 4  # the cache may take a quarter of the machine's memory if the config sets no `parallel`


class ServerSpec(msgspec.Struct, frozen=True):
    """The settings of the child process.

    They are passed as JSON in an environment variable, since every user of the machine can read the arguments of a
    process.

    Attributes:
        model: the path of the GGUF file.
        alias: the model's name in the server.
        socket_path: the Unix socket on which the server listens.
        api_key: the key that requests have to send.
        threads: number of threads.
        context_tokens: the context window of each of the parallel requests, in tokens.
        parallel: how many requests are answered at once.
    """

    model: str
    alias: str
    socket_path: str
    api_key: str
    threads: int
    context_tokens: int
    parallel: int


class LlamaCpp:
    """A GGUF file served by llama.cpp; implements `kinds.Kind`."""

    dialect = "llamacpp"
    health_path = "/health"
    metrics_path: str | None = "/metrics"
    always_streams = True
    uses_port = False
    sleep_paths = None
    parses_thinking = False
    parses_tool_calls = True  # emulated in the prompt if the chat template has no tools
    sleep_level: int | None = None
    stop_s = 5.0

    def __init__(self, name: str, config: LlamaCppConfig, gpus: Sequence[Gpu] = ()) -> None:  # noqa: ARG002 - see `kinds`
        self._name = name
        self._config = config
        self.start_timeout_s = config.start_timeout_s or start_limit_s(_START_S, self.model_bytes())

    def command(self, socket_path: str, api_key: str) -> Command:
        if find_spec("xllamacpp") is None:
            raise PermanentEngineError("the package xllamacpp is not installed: pip install 'tidegate[embedded]'")
        model = find_model(self._config.model)
        # llama.cpp would allocate memory for a larger window, but never use it
        window = min(self._config.context_tokens, gguf.trained_window(model) or self._config.context_tokens)
        spec = ServerSpec(
            model=str(model),
            alias=self._name,
            socket_path=socket_path,
            api_key=api_key,
            threads=self._config.threads or default_threads(),
            context_tokens=window,
            parallel=self._config.parallel or _default_parallel(model, window),
        )
        environment = {SPEC_VARIABLE: msgspec.json.encode(spec).decode()}
        return Command((sys.executable, "-m", "tidegate.engines.llamacpp.server"), environment)

    def faults(self) -> Iterator[str]:
        """Yield settings with which the engine could start on no machine: each as key and fault."""
        try:
            find_model(self._config.model)
        except PermanentEngineError as error:
            yield f"model: {error}"

    @property
    def supports_tools(self) -> bool:
        """Whether the model's chat template reads tools; True if the file cannot be read."""
        try:
            return gguf.supports_tools(find_model(self._config.model)) is not False
        except EngineError:  # the start of the engine reports it
            return True

    def needs(self) -> GpuNeeds:
        return GpuNeeds()

    def model_card(self) -> str | None:
        return None

    def model_bytes(self) -> int:
        try:
            return find_model(self._config.model).stat().st_size
        except (EngineError, OSError):
            return 0

    def progress(self, line: str) -> Progress | None:  # noqa: ARG002 - its output shows no progress
        return None

    def explain(self, lines: Sequence[str], *, has_run: bool = False) -> EngineError | None:
        return output.explain(lines, has_run=has_run)


def find_model(source: str) -> Path:
    """Return the GGUF file that `source` names: a path, or `package:NAME` for the file inside an installed package.

    Raises:
        PermanentEngineError: there is no such file or package, or the package has no GGUF file or several.
    """
    if not source.startswith(_PACKAGE):
        path = Path(source).expanduser()
        if path.is_dir():
            raise PermanentEngineError(f"{source} is a folder, where a GGUF file is wanted: name the file in it")
        if not path.is_file():
            raise PermanentEngineError(f"the model file {source} does not exist: mend the path")
        return path.absolute()
    package = source.removeprefix(_PACKAGE)
    try:
        spec = find_spec(package)
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise PermanentEngineError(
            f"the package {package}, which carries the model, is not installed: install it, or name a file"
        )
    found = sorted(file for place in spec.submodule_search_locations for file in Path(place).rglob("*.gguf"))
    if len(found) != 1:
        raise PermanentEngineError(
            f"the package {package} carries {len(found)} GGUF files, where one is wanted: name a file"
        )
    return found[0]


def _default_parallel(model: Path, context_tokens: int) -> int:
    token_bytes, memory = gguf.kv_bytes_per_token(model), memory_bytes()
    return _PARALLEL if token_bytes is None else parallel_for(memory, token_bytes * context_tokens)


def parallel_for(memory: int, window_bytes: int) -> int:
    """Return how many requests are answered at once: 4, or fewer if their caches would take over a quarter of `memory`.

    Args:
        memory: the memory of the machine, in bytes.
        window_bytes: the size of the key-value cache of one request, in bytes.
    """
    return max(1, min(_PARALLEL, memory // _CACHE_SHARE // window_bytes))


def memory_bytes(limits: Sequence[Path] = _CGROUP_MEMORY) -> int:
    """Return the memory of the machine in bytes, or the limit of the container if that is less.

    Args:
        limits: the files that may contain the limit, of cgroup v2 and v1.
    """
    sizes = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for limit in limits:
        with contextlib.suppress(OSError, ValueError):  # "max": there is no limit
            sizes.append(int(limit.read_text(encoding="ascii")))
    return min(sizes)


def default_threads() -> int:
    """Return the number of physical cores that Tidegate may use, minus one, but at least one.

    llama.cpp's threads wait for each other in busy loops, so with more threads it becomes very slow on a busy machine.
    """
    cores = _physical_cores()
    quota = _cpu_quota()
    return max(1, (cores if quota is None else min(cores, quota)) - 1)


def _physical_cores() -> int:
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    siblings = set()
    for cpu in usable:
        try:
            siblings.add((_SYS_CPU / f"cpu{cpu}/topology/thread_siblings_list").read_text(encoding="ascii"))
        except OSError:
            return len(usable)
    return len(siblings)


def _cpu_quota() -> int | None:
    """Return the CPU limit of the container in whole cores (cgroup v2), or None if there is no limit."""
    try:
        quota, period = _CGROUP_QUOTA.read_text(encoding="ascii").split()
        return max(1, int(quota) // int(period))
    except (OSError, ValueError):
        return None
