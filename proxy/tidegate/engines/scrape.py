"""Reads the metrics of engines in Prometheus' text format into a `Load`, and passes them on with the label `engine`.

`read_load` searches for the few samples that it needs and does not parse the rest: vLLM's metrics are about 40 kB, and
they are read once a second.
"""

import re
from collections.abc import Iterator, Mapping

from tidegate.engines.base import Load

_NUMBER = r"([-+]?[0-9]+(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?)(?=\s|$)"  # no match for NaN and Inf
_RUNNING = (
    "vllm:num_requests_running",
    "llamacpp:requests_processing",
    "sglang:num_running_reqs",
    "trtllm_num_requests_running",
)
_WAITING = (
    "vllm:num_requests_waiting",
    "llamacpp:requests_deferred",
    "sglang:num_queue_reqs",
    "trtllm_num_requests_waiting",
)
_KV_USED = (
    "vllm:kv_cache_usage_perc",
    "vllm:gpu_cache_usage_perc",
    "sglang:token_usage",
    "trtllm_kv_cache_utilization",
)
# TensorRT-LLM has no such counter: its counters change only when a request ends
_STEPS = ("vllm:iteration_tokens_total_count", "llamacpp:n_decode_total", "sglang:generation_tokens_total")
_HITS, _QUERIES = ("vllm:prefix_cache_hits_total",), ("vllm:prefix_cache_queries_total",)
_TTFT = "vllm:time_to_first_token_seconds"
_SAMPLE = re.compile(
    rf"^({'|'.join(map(re.escape, (*_RUNNING, *_WAITING, *_KV_USED, *_STEPS, *_HITS, *_QUERIES)))}"
    rf"|{_TTFT}_sum|{_TTFT}_count)(?:\{{[^\n]*\}})? {_NUMBER}",
    re.MULTILINE,
)
# other lines, such as HTML, would make Tidegate's own metrics unreadable
_IS_SAMPLE = re.compile(r"[A-Za-z_:][\w:]*(?:\{.*\})?[ \t]+[-+]?(?:[0-9.]|NaN|Inf)")
_OWN_LABEL = re.compile(r'(^|,)engine="')


def read_load(body: bytes) -> Load:
    """Return the load; if an engine reports several samples (data parallel), counts are added and shares averaged."""
    found: dict[str, list[float]] = {}
    for match in _SAMPLE.finditer(body.decode("utf-8", "replace")):
        found.setdefault(match[1], []).append(float(match[2]))
    kv_used, steps = _values(found, _KV_USED), _values(found, _STEPS)
    return Load(
        running=sum(_values(found, _RUNNING)),
        waiting=sum(_values(found, _WAITING)),
        kv_used=sum(kv_used) / len(kv_used) if kv_used else None,
        prefix_hit_rate=_ratio(_values(found, _HITS), _values(found, _QUERIES)),
        ttft_s=_ratio(found.get(f"{_TTFT}_sum", []), found.get(f"{_TTFT}_count", [])),
        steps=sum(steps) if steps else None,
    )


def _values(found: Mapping[str, list[float]], names: tuple[str, ...]) -> list[float]:
    """Return the samples of the first of the metrics `names` that the engine reports."""
    return next((found[name] for name in names if name in found), [])


def _ratio(part: list[float], whole: list[float]) -> float | None:
    return sum(part) / sum(whole) if sum(whole) > 0 else None


def relabelled(bodies: Mapping[str, bytes]) -> bytes:
    """Return the metrics of several engines as one text.

    Each sample gets the label `engine` with the engine's name. The description of each metric family occurs once.

    Args:
        bodies: the metrics of each engine, by engine name.
    """
    heads: dict[str, dict[str, str]] = {}
    samples: dict[str, list[str]] = {}
    for engine, body in bodies.items():
        for family, line in _lines(body.decode("utf-8", "replace")):
            if line.startswith("#"):
                heads.setdefault(family, {}).setdefault(line.split(" ", 2)[1], line)
            else:
                samples.setdefault(family, []).append(_with_label(line, engine))
    lines = [line for family in samples for line in (*heads.get(family, {}).values(), *samples[family])]
    return "".join(f"{line}\n" for line in lines).encode()


def _lines(text: str) -> Iterator[tuple[str, str]]:
    """Yield each line of the format with its metric family, which is that of the last `# HELP` or `# TYPE` line."""
    family = ""
    for line in text.splitlines():
        if line.startswith(("# HELP ", "# TYPE ")):
            family = line.split(" ", 3)[2]
            yield family, line
        elif _IS_SAMPLE.match(line):
            yield family, line


def _with_label(line: str, engine: str) -> str:
    name, brace, labels = line.partition("{")
    if not brace or " " in name:
        name, _, value = line.partition(" ")
        return f'{name}{{engine="{engine}"}} {value}'
    # vLLM uses a label of this name itself, for the ranks of data parallel engines
    labels = _OWN_LABEL.sub(r'\1exported_engine="', labels)
    return f'{name}{{engine="{engine}",{labels}'
