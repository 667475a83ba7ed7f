"""What makes vLLM small and quick to start on a CPU (reference `vllm.md`, section 2)."""

from pathlib import Path
from typing import Any

MAX_MODEL_LEN = 2048
ARGS = {
    "distributed_executor_backend": "uni",  # no process for the worker alone
    "enforce_eager": True,  # it would compile for a minute at each start
    "kv_cache_memory_bytes": "64M",
    # held to a schema, such small models would go on with spaces for ever
    "structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True},
}
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",  # in one process, more of them get in each other's way
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_HOST_IP": "127.0.0.1",
    "VLLM_NO_USAGE_STATS": "1",
}


def engine(python: Path, checkpoint: Path, **fields: Any) -> dict[str, Any]:
    """An entry of the config's `engines:`; `fields` come on top."""
    return {
        "kind": "vllm",
        "python": str(python),
        "model": str(checkpoint),
        "max_model_len": MAX_MODEL_LEN,
        "args": ARGS,
        "environment": ENVIRONMENT,
    } | fields
