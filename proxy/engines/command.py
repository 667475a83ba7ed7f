"""Any command that starts a model server: what its config says, with the names in it replaced for one start."""

import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from proxy.config.commands import fill, names, needs_port, program_of, runs_container, split
from proxy.config.engines import CommandConfig
from proxy.config.replicas import engine_of, number_of
from proxy.engines.base import Command, EngineError, Hopeless, Progress
from proxy.engines.gpus import VISIBLE, Gpu, select
from proxy.engines.placement import place_command
from proxy.engines.sharing import Needs
from proxy.engines.sockets import free_port

_START_S = 600.0
_READ_BYTES_S = 50e6  # a slow disk
_DOWNLOAD_S = 7200.0  # of a model or a container image of unknown size
_MAX_LINE = 200  # characters
_TOLD_LINES = 3
_FAULT = re.compile(r"(?i)error|cannot|could not|can't|fail|fatal|invalid|unknown|no such|not found|denied|in use")
_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_SECRET = re.compile(r"(?i)(key|token|secret|password)$")
# programs whose arguments may be a command for a container, another machine or another user
_RUN_OTHERS = frozenset(
    {"sh", "bash", "dash", "zsh", "env", "sudo", "ssh", "srun", "systemd-run", "apptainer", "singularity"}
)
_LEAST_SECRET = 8  # characters; a shorter value may be a word of the output


class CommandEngine:
    """A model server started by a command; implements `kinds.Kind`.

    Args:
        name: the engine's; ${NAME} is the one that it has in the config, which all replicas share.
        config: checked, see `proxy.config.commands.faults`.
        gpus: the machine's.
        environment: the one that the engine inherits; None: ours.
        find_port: returns a free port of the loopback address.
    """

    parses_thinking = False
    knows_tools = True
    calls_tools = True  # nothing is known of its flags

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
        self.always_streams = config.dialect == "llamacpp"  # as the kind of that name
        self.uses_port = needs_port(config)
        self.sleep_paths = _pair(config.sleep_path, config.wake_path)
        self.sleep_level = None if self.sleep_paths is None else 1
        self.stop_s = config.stop_timeout_s
        self.start_timeout_s = config.start_timeout_s or self._patience_s()

    def command(self, socket_path: str, api_key: str) -> Command:
        self._check_program()
        words = split(self._config.cmd)
        port = self._find_port() if self.uses_port else None
        gpus = select(self._config.gpus, self._environment) if self._config.gpus else {}
        values = {
            "SOCKET": socket_path,
            "MODEL": _at_home(self._config.model or ""),
            "NAME": self._name,
            "REPLICA": str(self._number),
            "GPUS": gpus.get(VISIBLE, ""),
            "API_KEY": api_key,
        } | ({} if port is None else {"PORT": str(port)})
        own = {key: fill(value, values) for key, value in self._config.environment.items()}
        return Command(
            [_at_home(fill(word, values)) for word in words],
            gpus | own,
            stop=[_at_home(fill(word, values)) for word in split(self._config.cmd_stop or ())],
            port=port,
            secrets=[api_key, *(value for key, value in own.items() if _is_secret(key, value))],
        )

    def needs(self) -> Needs:
        self._check_program()
        return place_command(self._config, self._gpus)

    def model_card(self) -> str | None:
        return None

    def model_bytes(self) -> int:
        try:
            path = Path(_at_home(self._config.model or ""))
            return path.stat().st_size if path.is_file() else 0
        except (OSError, ValueError):
            return 0

    def progress(self, line: str) -> Progress | None:
        """What every server tells: the last line of its output."""
        return Progress("starting", line=plain) if (plain := _plain(line)) else None

    def explain(self, lines: Sequence[str], *, has_run: bool = False) -> EngineError | None:
        """In its own words, where a line sounds like a reason; which exit status goes with them is of no use."""
        said = [] if has_run else [_plain(line) for line in lines if _FAULT.search(line)]
        return EngineError("it ended", said[-_TOLD_LINES:]) if said else None

    def faults(self) -> Iterator[str]:
        """What no machine could start, with its key: paths where nothing is.

        A program named without a folder is none: it is looked for in the PATH of the machine that starts it.
        """
        if Path(_at_home(split(self._config.cmd)[0])).is_absolute():
            try:
                self._check_program()
            except Hopeless as error:
                yield f"cmd: {error}"
        if self._model_is_missing() and not self._model_may_be_elsewhere():
            yield f"model: {self._config.model} does not exist: mend the path"

    def notes(self) -> Iterator[str]:
        """What is perhaps not what was meant, with its key."""
        words = split(self._config.cmd)
        if self._model_is_missing() and self._model_may_be_elsewhere() and not runs_container(words):
            yield f"model: {self._config.model} does not exist here: mend the path, if the server is to read it here"

    def _model_is_missing(self) -> bool:
        """Whether it is written as a path, and nothing is there."""
        model = self._config.model or ""
        try:
            return model.startswith(("/", "~/")) and not Path(_at_home(model)).exists()
        except (OSError, ValueError):
            return True

    def _model_may_be_elsewhere(self) -> bool:
        """Whether the server may see other files than we do, or does not get the path at all."""
        words = split(self._config.cmd)
        is_told = "MODEL" in names([*words, *self._config.environment.values()])
        return not is_told or runs_container(words) or program_of(words) in _RUN_OTHERS

    def _check_program(self) -> None:
        program = _at_home(split(self._config.cmd)[0])
        path = {**self._environment, **self._config.environment}.get("PATH")
        if shutil.which(program, path=path) is None:
            raise Hopeless(f"there is no program {program}: install it, or mend the key cmd")

    def _patience_s(self) -> float:
        """How long a start may take: by the size of what is read; longer where it may have to be downloaded first."""
        size = self.model_bytes()
        return _START_S + (size / _READ_BYTES_S if size else _DOWNLOAD_S)


def _plain(line: str) -> str:
    """What a terminal would show, as far as it is short."""
    return "".join(each for each in _ESCAPE.sub("", line) if each.isprintable()).strip()[:_MAX_LINE]


def _pair(first: str | None, second: str | None) -> tuple[str, str] | None:
    return None if first is None or second is None else (first, second)


def _at_home(word: str) -> str:
    """`word` with the home folder in place of a `~` in front, as a shell would have it."""
    return str(Path(word).expanduser()) if word.startswith("~/") else word


def _is_secret(key: str, value: str) -> bool:
    return len(value) >= _LEAST_SECRET and _SECRET.search(key) is not None
