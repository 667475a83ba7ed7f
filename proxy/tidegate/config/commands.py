"""The names in the commands of engines of `kind: command`, such as `${PORT}`, which are replaced at each start.

Also what can be wrong with the config of such an engine.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import takewhile

from tidegate.config import command_line
from tidegate.config.command_line import split
from tidegate.config.engines import CommandConfig

NAMES = ("PORT", "SOCKET", "MODEL", "NAME", "REPLICA", "GPUS", "API_KEY")
NAMES_OF_STOP = (*NAMES, "PID")

_NAME = re.compile(r"\$\{([^}]*)\}")
_SHELL_OPERATORS = frozenset({"&&", "||", "|", ";", "&", ">", ">>", "<", "2>&1"})
_CONTAINER_PROGRAMS = frozenset({"docker", "podman", "nerdctl"})
_DETACHED = re.compile(r"-[it]*d[it]*|--detach(?:=true)?")
_ALL_ADDRESSES = re.compile(r"(?:.*=)?(?:0\.0\.0\.0|::|\[::\])")


def fill(text: str, values: Mapping[str, str]) -> str:
    """Return `text` with each `${NAME}` replaced by its value; a name without a value stays as it is."""
    return _NAME.sub(lambda found: values.get(found[1], found[0]), text)


def names(texts: Iterable[str]) -> set[str]:
    """The names that occur in the texts as `${NAME}`."""
    return {name for text in texts for name in _NAME.findall(text)}


def program_of(words: Sequence[str]) -> str:
    """The name of the program, without its folder."""
    return words[0].rpartition("/")[2]


def runs_container(words: Sequence[str]) -> bool:
    """Whether the command starts a container, so that its paths are paths inside the container."""
    return program_of(words) in _CONTAINER_PROGRAMS


def needs_port(config: CommandConfig) -> bool:
    """Whether the server listens on a port and not on a Unix socket."""
    return "PORT" in names([*split(config.cmd), *config.environment.values()])


def faults(config: CommandConfig) -> Iterator[str]:
    """Yield the settings that cannot work: each as key, fault and cure, to be appended to the engine's path."""
    for key, command in (("cmd", config.cmd), ("cmd_stop", config.cmd_stop)):
        if command is not None and (fault := _command_fault(command)) is not None:
            yield f".{key}: {fault}"
            return
    starting, variables = names(split(config.cmd)), names(config.environment.values())
    stopping = names(split(config.cmd_stop or ()))
    yield from _name_faults("cmd", starting, NAMES)
    yield from _name_faults("environment", variables, NAMES)
    yield from _name_faults("cmd_stop", stopping, NAMES_OF_STOP)
    yield from _address_faults(starting | variables)
    yield from _missing(config, starting | variables | stopping)
    yield from _replica_faults(config)
    if config.replicas == 1 and config.gpus is not None and len(set(config.gpus)) < len(config.gpus):
        yield ".gpus: a GPU is named twice; name each once"


def advice(config: CommandConfig) -> Iterator[str]:
    """Yield notes on settings that work but are seldom intended, such as a server that other machines can reach."""
    words = split(config.cmd)
    if any(word.startswith("${PORT}:") for word in words):
        yield ".cmd: a port published without an address is open to other machines; write 127.0.0.1:${PORT}:…"
    if runs_container(words) and _is_detached(words):
        yield ".cmd: with -d the command ends at once, and an engine ends with its command; take it out"
    if not runs_container(words) and any(_ALL_ADDRESSES.fullmatch(word) for word in words):
        yield ".cmd: other machines can reach the server without Tidegate; let it listen on 127.0.0.1"


def _command_fault(command: str | Sequence[str]) -> str | None:
    if (fault := command_line.fault(command)) is not None or not isinstance(command, str):
        return fault
    operator = next((word for word in split(command) if word in _SHELL_OPERATORS), None)
    if operator is None:
        return None
    return f"no shell runs it, so {operator} would be an argument; write [sh, -c, '…'] to use a shell"


def _replica_faults(config: CommandConfig) -> Iterator[str]:
    container = _container_name(split(config.cmd))
    if config.replicas == 1 or container is None:
        return
    cure = f"{config.replicas} replicas cannot share the container's name; end it in -${{REPLICA}}"
    if "REPLICA" not in names([container]):
        yield f".cmd: {cure}"
    elif config.cmd_stop is not None and not {"REPLICA", "PID"} & names(split(config.cmd_stop)):
        yield f".cmd_stop: {cure}"


def _is_detached(words: Sequence[str]) -> bool:
    """Whether a container runs in the background, by the flags between `run` and the first other word."""
    flags = takewhile(lambda word: word.startswith("-"), words[words.index("run") + 1 :] if "run" in words else ())
    return any(_DETACHED.fullmatch(word) for word in flags)


def _container_name(words: Sequence[str]) -> str | None:
    """The name that the command gives to the container that it starts; None: it starts none, or gives no name."""
    if not runs_container(words):
        return None
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word == "--name" or word.startswith("--name="):
            return word.partition("=")[2] or following
    return None


def _name_faults(key: str, used: set[str], known: Sequence[str]) -> Iterator[str]:
    for name in sorted(used - set(known)):
        yield (
            f".{key}: ${{{name}}} is not a known name: known are {', '.join(known)}; a shell's variable is written "
            f"${name}, in [sh, -c, '…']"
        )


def _address_faults(used: set[str]) -> Iterator[str]:
    if {"PORT", "SOCKET"} <= used:
        yield ".cmd: has both ${PORT} and ${SOCKET}; take one out, and keep ${SOCKET} if the server can listen there"
    elif not {"PORT", "SOCKET"} & used:
        yield (
            ".cmd: has neither ${PORT} nor ${SOCKET}, so Tidegate could not reach the server; write --port ${PORT}, or "
            "the flag for a Unix socket with ${SOCKET}"
        )


def _missing(config: CommandConfig, used: set[str]) -> Iterator[str]:
    if "MODEL" in used and config.model is None:
        yield ".model: missing, but ${MODEL} is used; set it, or write the model into the command"
    if "GPUS" in used and config.gpus is None:
        yield ".gpus: missing, but ${GPUS} is used; name the GPUs by number"
    if (config.sleep_path is None) != (config.wake_path is None):
        missing = "sleep_path" if config.sleep_path is None else "wake_path"
        yield f".{missing}: missing; an engine that can sleep needs sleep_path and wake_path; set both or neither"
