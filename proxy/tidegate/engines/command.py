"""The engine kind `command`: any model server, started by a command of the config.

Names in the command such as `${PORT}` are replaced at each start (see `tidegate.config.commands`).
"""

import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from tidegate.config.command_line import split
from tidegate.config.commands import fill, names, needs_port, program_of, runs_container
from tidegate.config.engines import CommandConfig
from tidegate.config.replicas import engine_of, number_of
from tidegate.engines.base import Command, EngineError, PermanentEngineError, Progress
from tidegate.engines.gpus.allocator import GpuNeeds
from tidegate.engines.gpus.devices import VISIBLE_DEVICES, Gpu, visibility_of
from tidegate.engines.gpus.placement import place_command
from tidegate.engines.process.sockets import free_port
from tidegate.engines.start_limit import start_limit_s

_START_S = 600.0
_MAX_LINE = 200  # characters
_MAX_QUOTED = 3  # lines
_ERROR_WORDS = re.compile(
    r"(?i)error|cannot|could not|can't|fail|fatal|invalid|unknown|no such|not found|denied|in use"
)
_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_SECRET_NAME = re.compile(r"(?i)(key|token|secret|password)$")
_MIN_SECRET = 8  # characters; a shorter value may occur in the output by chance
# programs whose arguments may be another command, which runs in a container, on another machine or as another user
_RUN_OTHERS = frozenset(
    {"sh", "bash", "dash", "zsh", "env", "sudo", "ssh", "srun", "systemd-run", "apptainer", "singularity"}
)


class CommandEngine:
    """A model server that is started by a command; implements `kinds.Kind`.

    Args:
        name: the name of the engine or replica; `${NAME}` is the name of the engine in the config.
        config: must have no faults (see `tidegate.config.commands.faults`).
        gpus: the GPUs of the machine.
        environment: the environment that the engine inherits; None: that of Tidegate.
        find_port: returns a free port of the loopback address.
    """

    parses_thinking = False
    supports_tools = True
    parses_tool_calls = True  # assumed, as the flags of the server are not known

    def __init__(
        self,
        name: str,
        config: CommandConfig,
        gpus: Sequence[Gpu] = (),
        environment: Mapping[str, str] | None = None,
        find_port: Callable[[], int] = free_port,
    ) -> None:
        self._name = engine_of(name)
        self._number = number_of(name)
        self._config = config
        self._gpus = gpus
        self._environment = os.environ if environment is None else environment
        self._find_port = find_port
        self.dialect: str = config.dialect
        self.health_path = config.health_path
        self.metrics_path = config.metrics_path
        self.always_streams = config.dialect == "llamacpp"  # as for the kind llamacpp
        self.uses_port = needs_port(config)
        self.sleep_paths = _pair(config.sleep_path, config.wake_path)
        self.sleep_level = None if self.sleep_paths is None else 1
        self.stop_s = config.stop_timeout_s
        self.start_timeout_s = config.start_timeout_s or self._default_start_timeout_s()

    def command(self, socket_path: str, api_key: str) -> Command:
        self._check_program()
        words = split(self._config.cmd)
        port = self._find_port() if self.uses_port else None
        gpus = visibility_of(self._config.gpus, self._environment) if self._config.gpus else {}
        values = {
            "SOCKET": socket_path,
            "MODEL": _expand_home(self._config.model or ""),
            "NAME": self._name,
            "REPLICA": str(self._number),
            "GPUS": gpus.get(VISIBLE_DEVICES, ""),
            "API_KEY": api_key,
        } | ({} if port is None else {"PORT": str(port)})
        own = {key: fill(value, values) for key, value in self._config.environment.items()}
        return Command(
            [_expand_home(fill(word, values)) for word in words],
            gpus | own,
            stop=[_expand_home(fill(word, values)) for word in split(self._config.cmd_stop or ())],
            port=port,
            secrets=[api_key, *(value for key, value in own.items() if _is_secret(key, value))],
        )

    def needs(self) -> GpuNeeds:
        self._check_program()
        return place_command(self._config, self._gpus)

    def model_card(self) -> str | None:
        return None

    def model_bytes(self) -> int:
        try:
            path = Path(_expand_home(self._config.model or ""))
            return path.stat().st_size if path.is_file() else 0
        except (OSError, ValueError):
            return 0

    def progress(self, line: str) -> Progress | None:
        """Return the last line of output as the progress: that works for every server."""
        return Progress("starting the model", line=plain) if (plain := _plain_text(line)) else None

    def explain(self, lines: Sequence[str], *, has_run: bool = False) -> EngineError | None:
        """Return the last lines with a word such as "error"; they explain more than the exit status does."""
        errors = [] if has_run else [_plain_text(line) for line in lines if _ERROR_WORDS.search(line)]
        return EngineError("it ended", errors[-_MAX_QUOTED:]) if errors else None

    def faults(self) -> Iterator[str]:
        """Yield settings with which the engine could start on no machine: each as key and fault.

        These are paths that do not exist. A missing program that is named without a folder is no fault, because it is
        searched for in the PATH of the machine that starts the engine.
        """
        if Path(_expand_home(split(self._config.cmd)[0])).is_absolute():
            try:
                self._check_program()
            except PermanentEngineError as error:
                yield f"cmd: {error}"
        if self._model_is_missing() and not self._model_may_be_elsewhere():
            yield f"model: {self._config.model} does not exist: mend the path"

    def notes(self) -> Iterator[str]:
        """Yield settings that are perhaps not intended: each as key and note."""
        words = split(self._config.cmd)
        if self._model_is_missing() and self._model_may_be_elsewhere() and not runs_container(words):
            yield f"model: {self._config.model} does not exist here: mend the path, if the server is to read it here"

    def _model_is_missing(self) -> bool:
        """Return whether `model` is written as a path that does not exist."""
        model = self._config.model or ""
        try:
            return model.startswith(("/", "~/")) and not Path(_expand_home(model)).exists()
        except (OSError, ValueError):
            return True

    def _model_may_be_elsewhere(self) -> bool:
        """Return whether the server may see other files than Tidegate does, or does not get the path at all."""
        words = split(self._config.cmd)
        gets_model = "MODEL" in names([*words, *self._config.environment.values()])
        return not gets_model or runs_container(words) or program_of(words) in _RUN_OTHERS

    def _check_program(self) -> None:
        program = _expand_home(split(self._config.cmd)[0])
        path = {**self._environment, **self._config.environment}.get("PATH")
        if shutil.which(program, path=path) is None:
            raise PermanentEngineError(f"there is no program {program}: install it, or mend the key cmd")

    def _default_start_timeout_s(self) -> float:
        """Return a limit by the size of the model's file; longer if that is unknown: it may have to be downloaded."""
        size = self.model_bytes()
        return start_limit_s(_START_S, size, may_download=not size)


def _plain_text(line: str) -> str:
    """Return the line without colours and control characters, cut to `_MAX_LINE`."""
    return "".join(each for each in _ESCAPE.sub("", line) if each.isprintable()).strip()[:_MAX_LINE]


def _pair(first: str | None, second: str | None) -> tuple[str, str] | None:
    return None if first is None or second is None else (first, second)


def _expand_home(word: str) -> str:
    """Return `word` with a leading `~/` replaced by the home folder, as a shell does."""
    return str(Path(word).expanduser()) if word.startswith("~/") else word


def _is_secret(key: str, value: str) -> bool:
    return len(value) >= _MIN_SECRET and _SECRET_NAME.search(key) is not None
