"""Reads facts about a checkpoint without loading it, from its folder or from the hub's cache on this machine."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from tidegate.engines.base import PermanentEngineError

_HUB_ID = re.compile(r"(?:[\w.-]+/)?[\w.-]+")
_PATH = ("/", ".", "~")
_REMOTE = "://"
_INDEX = "model.safetensors.index.json"
_TEMPLATE_FILE = "chat_template.jinja"
_TEMPLATES = ("tokenizer_config.json", "chat_template.json")  # the second one belongs to models that read images
# the tokenizer files of mistral_common; tokenizers of versions 1 and 2 have no token for tool calls
_MISTRAL_TOKENIZERS = ("tekken.json", "tokenizer.model.v[3-9]*", "tokenizer.model.v1[0-9]*")


class Checkpoint(Struct, frozen=True, kw_only=True):
    """The facts about one checkpoint; a fact that is not known is empty, None or 0.

    Attributes:
        name: a path or a hub id, as the config has it.
        folder: where the files are; None: the checkpoint is not on this machine, or not yet.
        model_type, architectures: from `config.json`; the values are those of Transformers.
        layers: number of transformer blocks, which pipeline stages share out.
        attention_heads: number of attention heads, which tensor parallel GPUs share out.
        kv_lora_rank: set if the attention is latent (MLA).
        routed_experts: number of experts; set if the model is a mixture of experts.
        max_tokens: the largest context window that the model's positions allow, in tokens.
        quantization: the quantization method.
        template: the source of the chat template.
        has_mistral_format: the checkpoint also has the files of Mistral's own format, which vLLM prefers, and their
            tokenizer has a token for tool calls.
        size_bytes: size of the weight files that are on this machine.
        is_complete: no file has to be downloaded.
    """

    name: str
    folder: str | None = None
    model_type: str = ""
    architectures: tuple[str, ...] = ()
    layers: int | None = None
    attention_heads: int | None = None
    kv_lora_rank: int | None = None
    routed_experts: int | None = None
    max_tokens: int | None = None
    quantization: str | None = None
    template: str = ""
    has_mistral_format: bool = False
    size_bytes: int = 0
    is_complete: bool = False


class _Quantization(Struct):
    quant_method: str | None = None


class _Facts(Struct, kw_only=True):
    model_type: str | None = None
    architectures: tuple[str, ...] | None = None
    num_hidden_layers: int | None = None
    num_attention_heads: int | None = None
    kv_lora_rank: int | None = None
    n_routed_experts: int | None = None
    num_experts: int | None = None
    num_local_experts: int | None = None
    max_position_embeddings: int | None = None
    quantization_config: _Quantization | None = None
    text_config: Mapping[str, Any] | None = None


class _TokenizerFacts(Struct):
    chat_template: str | list[dict[str, str]] | None = None


class _Index(Struct):
    weight_map: dict[str, str] = {}


class _Adapter(Struct):
    r: int | None = None


def read_checkpoint(model: str, *, environment: Mapping[str, str], revision: str | None = None) -> Checkpoint:
    """Read the files of `model` that are on this machine.

    Args:
        model: a folder or a hub id, as the config has it.
        environment: the environment of the engine; its variables say where the hub's cache is.
        revision: the branch, tag or commit of a hub id; None: `main`.

    Raises:
        PermanentEngineError: `model` is a folder that does not exist or has no `config.json`, or a single file, which
            vLLM does not load.
    """
    folder = _find(model, environment, revision)
    if folder is None:
        return Checkpoint(name=model)
    is_local = Path(model).expanduser().is_dir()
    facts = _read_facts(folder / "config.json")
    files = _weights(folder)
    present = [file for file in files if file.exists()]
    return Checkpoint(
        name=model,
        folder=str(folder),
        model_type=facts.model_type or "",
        architectures=facts.architectures or (),
        layers=facts.num_hidden_layers,
        attention_heads=facts.num_attention_heads,
        kv_lora_rank=facts.kv_lora_rank,
        routed_experts=facts.n_routed_experts or facts.num_experts or facts.num_local_experts,
        max_tokens=facts.max_position_embeddings,
        quantization=None if facts.quantization_config is None else facts.quantization_config.quant_method,
        template=_read_template(folder),
        has_mistral_format=_has_mistral_format(folder),
        size_bytes=sum(file.stat().st_size for file in present),
        is_complete=is_local or (bool(files) and len(present) == len(files)),
    )


def read_adapter_rank(adapter: str, *, environment: Mapping[str, str]) -> int | None:
    """Return the rank of a LoRA adapter, or None if it is not on this machine or does not show its rank.

    vLLM needs the highest rank as a flag at its start.

    Raises:
        PermanentEngineError: `adapter` is a folder that does not exist or has no adapter.
    """
    folder = _find(adapter, environment, None, required_file="adapter_config.json")
    if folder is None:
        return None
    try:
        return msgspec.json.decode((folder / "adapter_config.json").read_bytes(), type=_Adapter).r
    except (OSError, msgspec.MsgspecError):
        return None


def _find(
    model: str, environment: Mapping[str, str], revision: str | None, required_file: str = "config.json"
) -> Path | None:
    path = Path(model).expanduser()
    if path.is_dir():
        if not (path / required_file).is_file():
            raise PermanentEngineError(f"{model} has no {required_file}: is it the folder with the safetensors files?")
        return path.absolute()
    if path.is_file():
        cure = "kind: llamacpp serves GGUF files" if path.suffix == ".gguf" else "name the folder that it is in"
        raise PermanentEngineError(f"{model} is a file, where vLLM wants a folder or a hub id: {cure}")
    if _REMOTE in model:
        return None
    if model.startswith(_PATH) or not _HUB_ID.fullmatch(model):
        raise PermanentEngineError(
            f"the folder {model} does not exist: mend the path, or give a hub id such as org/name"
        )
    snapshot = _find_snapshot(_hub_cache(environment) / f"models--{model.replace('/', '--')}", revision or "main")
    return snapshot if snapshot is not None and (snapshot / required_file).is_file() else None


def _hub_cache(environment: Mapping[str, str]) -> Path:
    """Return the folder of huggingface_hub's cache; reads the variables in the order in which that package does."""
    if cache := environment.get("HF_HUB_CACHE") or environment.get("HUGGINGFACE_HUB_CACHE"):
        return Path(cache).expanduser()
    if home := environment.get("HF_HOME"):
        return Path(home).expanduser() / "hub"
    cache = environment.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "huggingface" / "hub"


def _find_snapshot(repository: Path, revision: str) -> Path | None:
    """Return the snapshot of a revision. A branch or tag is a file with the commit's name; a commit is a folder."""
    try:
        commit = (repository / "refs" / revision).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        commit = revision
    folder = repository / "snapshots" / commit
    return folder if folder.is_dir() else None


def _read_facts(file: Path) -> _Facts:
    try:
        facts = msgspec.json.decode(file.read_bytes(), type=_Facts)
        if facts.text_config is None or facts.num_hidden_layers is not None:
            return facts
        # a model that reads images has the facts of its language model nested in `text_config`
        inner = msgspec.convert(facts.text_config, type=_Facts)
    except (OSError, msgspec.MsgspecError) as error:
        raise PermanentEngineError(f"{file} cannot be read", [str(error)]) from error
    inner.model_type, inner.architectures = facts.model_type, facts.architectures
    inner.quantization_config = facts.quantization_config or inner.quantization_config
    return inner


def _weights(folder: Path) -> list[Path]:
    """Return the paths of all weight files, whether they exist or not.

    In the hub's cache a link has no target until the file has been downloaded completely.
    """
    try:
        index = msgspec.json.decode((folder / _INDEX).read_bytes(), type=_Index)
    except (OSError, msgspec.MsgspecError):
        return sorted(folder.glob("*.safetensors"))
    return [folder / name for name in sorted(set(index.weight_map.values()))]


def _read_template(folder: Path) -> str:
    try:
        return (folder / _TEMPLATE_FILE).read_text(encoding="utf-8")
    except (OSError, ValueError):
        pass
    return next(filter(None, (_template_in(folder / name) for name in _TEMPLATES)), "")


def _template_in(file: Path) -> str:
    try:
        facts = msgspec.json.decode(file.read_bytes(), type=_TokenizerFacts)
    except (OSError, msgspec.MsgspecError):
        return ""
    if isinstance(facts.chat_template, list):  # several, by name
        named = {each.get("name"): each.get("template", "") for each in facts.chat_template}
        return named.get("tool_use") or named.get("default") or ""
    return facts.chat_template or ""


def _has_mistral_format(folder: Path) -> bool:
    """Return whether vLLM will use Mistral's format: the checks are vLLM's own (`is_mistral_model_repo`, tokenizer)."""
    if not any(folder.glob("consolidated*.safetensors")):
        return False
    return any(any(folder.glob(pattern)) for pattern in _MISTRAL_TOKENIZERS)
