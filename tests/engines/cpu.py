"""Settings with which vLLM is small and starts quickly on a CPU (reference `vllm.md`, section 2)."""

from pathlib import Path
from typing import Any

MAX_MODEL_LEN = 2048
ARGS = {
    "distributed_executor_backend": "uni",  # the worker gets no process of its own
    "enforce_eager": True,  # else vLLM compiles for a minute at each start
    "kv_cache_memory_bytes": "64M",
    # with a schema, such small models would generate spaces without end
    "structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True},
}
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",  # more threads in one process slow each other down
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_HOST_IP": "127.0.0.1",
    "VLLM_NO_USAGE_STATS": "1",
}


def engine(python: Path, checkpoint: Path, **fields: Any) -> dict[str, Any]:
    """Return an entry for `engines:` of the config; `fields` override its keys."""
    return {
        "kind": "vllm",
        "python": str(python),
        "model": str(checkpoint),
        "max_model_len": MAX_MODEL_LEN,
        "args": ARGS,
        "environment": ENVIRONMENT,
    } | fields
