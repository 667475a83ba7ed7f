"""The words of a command line under `engines`, and the names in them that only a start can replace; pure."""

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import takewhile

from proxy.config.engines import CommandConfig

STARTING = ("PORT", "SOCKET", "MODEL", "NAME", "REPLICA", "GPUS", "API_KEY")
STOPPING = (*STARTING, "PID")

_NAME = re.compile(r"\$\{([^}]*)\}")
_OF_A_SHELL = frozenset({"&&", "||", "|", ";", "&", ">", ">>", "<", "2>&1"})
_CONTAINERS = frozenset({"docker", "podman", "nerdctl"})
_DETACHED = re.compile(r"-[it]*d[it]*|--detach(?:=true)?")
_EVERYWHERE = re.compile(r"(?:.*=)?(?:0\.0\.0\.0|::|\[::\])")


def split(command: str | Sequence[str]) -> list[str]:
    """The words; of a text those that a shell would make of it, with a backslash at the end of a line or without.

    Raises:
        ValueError: a quotation mark is not closed.
    """
    return shlex.split(command.replace("\\\n", " ")) if isinstance(command, str) else list(command)


def fill(text: str, values: Mapping[str, str]) -> str:
    """`text` with a value for each `${NAME}`; one that has none stays."""
    return _NAME.sub(lambda found: values.get(found[1], found[0]), text)


def names(texts: Iterable[str]) -> set[str]:
    """The names that stand in them as `${NAME}`."""
    return {name for text in texts for name in _NAME.findall(text)}


def needs_port(config: CommandConfig) -> bool:
    """Whether its server listens on a port, in place of a Unix socket."""
    return "PORT" in names([*split(config.cmd), *config.environment.values()])


def faults(config: CommandConfig) -> Iterator[str]:
    """What cannot work: key, fault and cure, to be set behind the engine's path."""
    for key, command in (("cmd", config.cmd), ("cmd_stop", config.cmd_stop)):
        if command is not None and (fault := _word_fault(command)) is not None:
            yield f".{key}: {fault}"
            return
    starting, variables = names(split(config.cmd)), names(config.environment.values())
    stopping = names(split(config.cmd_stop or ()))
    yield from _name_faults("cmd", starting, STARTING)
    yield from _name_faults("environment", variables, STARTING)
    yield from _name_faults("cmd_stop", stopping, STOPPING)
    yield from _address_faults(starting | variables)
    yield from _missing(config, starting | variables | stopping)
    yield from _replica_faults(config)
    if config.replicas == 1 and config.gpus is not None and len(set(config.gpus)) < len(config.gpus):
        yield ".gpus: one is named twice; name each once"


def advice(config: CommandConfig) -> Iterator[str]:
    """What may be meant, but seldom is: others than this machine could ask the server, past Tidegate."""
    words = split(config.cmd)
    is_container = words[0].rpartition("/")[2] in _CONTAINERS
    if any(word.startswith("${PORT}:") for word in words):
        yield ".cmd: a port published without an address is open to other machines; write 127.0.0.1:${PORT}:…"
    if is_container and _is_detached(words):
        yield ".cmd: with -d the command ends at once, and an engine ends with its command; take it out"
    if not is_container and any(_EVERYWHERE.fullmatch(word) for word in words):
        yield ".cmd: its server listens for other machines too, past Tidegate; 127.0.0.1 is enough"


def _word_fault(command: str | Sequence[str]) -> str | None:
    try:
        words = split(command)
    except ValueError:
        return "a quotation mark is not closed; close it, or write a list of words"
    if not words or not words[0].strip():
        return "empty; write the program and its arguments"
    if isinstance(command, str) and (strange := next((word for word in words if word in _OF_A_SHELL), None)):
        return f"no shell runs it, so that {strange} would be an argument; write [sh, -c, '…'] where one is wanted"
    return None


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
    """Whether a container runs in the background, as far as that stands in front of the image."""
    flags = takewhile(lambda word: word.startswith("-"), words[words.index("run") + 1 :] if "run" in words else ())
    return any(_DETACHED.fullmatch(word) for word in flags)


def _container_name(words: Sequence[str]) -> str | None:
    """What a command calls the container that it starts; None where it starts none, or does not say."""
    if words[0].rpartition("/")[2] not in _CONTAINERS:
        return None
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word == "--name" or word.startswith("--name="):
            return word.partition("=")[2] or following
    return None


def _name_faults(key: str, used: set[str], known: Sequence[str]) -> Iterator[str]:
    for name in sorted(used - set(known)):
        yield (
            f".{key}: ${{{name}}} means nothing here: known are {', '.join(known)}; a shell's variable is written "
            f"${name}, in [sh, -c, '…']"
        )


def _address_faults(used: set[str]) -> Iterator[str]:
    if {"PORT", "SOCKET"} <= used:
        yield ".cmd: both ${PORT} and ${SOCKET}, but it is asked at one address; keep ${SOCKET} if it can listen there"
    elif not {"PORT", "SOCKET"} & used:
        yield (
            ".cmd: neither ${PORT} nor ${SOCKET}, so that it would not be found: write --port ${PORT}, or the flag "
            "for a Unix socket with ${SOCKET}"
        )


def _missing(config: CommandConfig, used: set[str]) -> Iterator[str]:
    if "MODEL" in used and config.model is None:
        yield ".model: missing, as ${MODEL} stands for it; set it, or write the model into the command"
    if "GPUS" in used and config.gpus is None:
        yield ".gpus: missing, as ${GPUS} stands for them; name the GPUs by number"
    if (config.sleep_path is None) != (config.wake_path is None):
        missing = "sleep_path" if config.sleep_path is None else "wake_path"
        yield f".{missing}: missing; one that can sleep needs sleep_path and wake_path, else set neither"
