"""Facts about a checkpoint that are read from its files."""

import json

import pytest

from tidegate.engines.base import PermanentEngineError
from tidegate.engines.vllm.checkpoint import Checkpoint, read_adapter_rank, read_checkpoint

V3 = {
    "model_type": "deepseek_v3",
    "architectures": ["DeepseekV3ForCausalLM"],
    "num_hidden_layers": 61,
    "num_attention_heads": 128,
    "kv_lora_rank": 512,
    "n_routed_experts": 256,
    "max_position_embeddings": 163840,
    "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]},
    "rope_scaling": {"type": "yarn"},
}


def make(folder, config=V3, **files):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


def test_the_facts_are_read_from_a_folder(tmp_path):
    folder = make(tmp_path / "v3", chat_template__jinja="{{ messages }}")
    (folder / "model.safetensors").write_bytes(b"12345")
    assert read_checkpoint(str(folder), environment={}) == Checkpoint(
        name=str(folder),
        folder=str(folder),
        model_type="deepseek_v3",
        architectures=("DeepseekV3ForCausalLM",),
        layers=61,
        attention_heads=128,
        kv_lora_rank=512,
        routed_experts=256,
        max_tokens=163840,
        quantization="fp8",
        template="{{ messages }}",
        size_bytes=5,
        is_complete=True,
    )


def test_a_multimodal_model_has_its_facts_in_text_config(tmp_path):
    config = {"model_type": "llama4", "architectures": ["Llama4"], "text_config": {"num_hidden_layers": 48}}
    found = read_checkpoint(str(make(tmp_path, config)), environment={})
    assert (found.model_type, found.architectures, found.layers) == ("llama4", ("Llama4",), 48)


@pytest.mark.parametrize(
    ("template", "read"),
    [
        ("{{ one }}", "{{ one }}"),
        ([{"name": "default", "template": "D"}, {"name": "tool_use", "template": "T"}], "T"),
        ([{"name": "default", "template": "D"}], "D"),
        (None, ""),
    ],
)
def test_an_older_checkpoint_has_its_template_in_the_tokenizer_config(tmp_path, template, read):
    folder = make(tmp_path, tokenizer_config__json=json.dumps({"chat_template": template}))
    assert read_checkpoint(str(folder), environment={}).template == read


def test_a_multimodal_model_may_have_its_template_in_chat_template_json(tmp_path):
    folder = make(tmp_path, chat_template__json=json.dumps({"chat_template": "{{ two }}"}))
    assert read_checkpoint(str(folder), environment={}).template == "{{ two }}"
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ one }}"}))
    assert read_checkpoint(str(folder), environment={}).template == "{{ one }}"


@pytest.mark.parametrize(
    ("files", "has"),
    [
        (("consolidated.safetensors", "tekken.json"), True),
        (("consolidated-00001-of-00002.safetensors", "tokenizer.model.v7"), True),
        (("consolidated.safetensors", "tokenizer.model.v1"), False),
        (("consolidated.safetensors",), False),
        (("model.safetensors", "tekken.json"), False),
    ],
)
def test_mistrals_own_format_is_recognised_by_its_files(tmp_path, files, has):
    folder = make(tmp_path)
    for name in files:
        (folder / name).touch()
    assert read_checkpoint(str(folder), environment={}).has_mistral_format is has


def snapshot(cache, model="org/name", commit="c0ffee"):
    repository = cache / f"models--{model.replace('/', '--')}"
    make(repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    return repository / "snapshots" / commit


@pytest.mark.parametrize(
    "variables",
    [
        {"HF_HUB_CACHE": "{}/hf/hub", "HF_HOME": "/elsewhere"},
        {"HF_HOME": "{}/hf"},
        {"XDG_CACHE_HOME": "{}"},
    ],
)
def test_a_hub_id_is_read_from_the_hubs_cache(tmp_path, variables):
    cache = tmp_path / ("huggingface" if "XDG_CACHE_HOME" in variables else "hf") / "hub"
    folder = snapshot(cache)
    environment = {name: value.format(tmp_path) for name, value in variables.items()}
    found = read_checkpoint("org/name", environment=environment)
    assert (found.folder, found.model_type, found.is_complete) == (str(folder), "deepseek_v3", False)


def test_a_revision_is_a_branch_or_a_commit(tmp_path):
    folder = snapshot(tmp_path)
    environment = {"HF_HUB_CACHE": str(tmp_path)}
    assert read_checkpoint("org/name", environment=environment, revision="c0ffee").folder == str(folder)
    assert read_checkpoint("org/name", environment=environment, revision="other").folder is None


def test_a_file_that_is_not_downloaded_has_no_size(tmp_path):
    """The cache has links to files, and a link has no target until its file is complete."""
    folder = snapshot(tmp_path)
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-1.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model-1.safetensors").write_bytes(b"123")
    (folder / "model-2.safetensors").symlink_to(tmp_path / "not-yet")
    environment = {"HF_HUB_CACHE": str(tmp_path)}
    found = read_checkpoint("org/name", environment=environment)
    assert (found.size_bytes, found.is_complete) == (3, False)
    (tmp_path / "not-yet").write_bytes(b"4567")
    found = read_checkpoint("org/name", environment=environment)
    assert (found.size_bytes, found.is_complete) == (7, True)


@pytest.mark.parametrize("model", ["org/name", "gpt2", "s3://bucket/model"])
def test_a_checkpoint_that_is_not_on_this_machine_has_only_a_name(tmp_path, model):
    assert read_checkpoint(model, environment={"HF_HOME": str(tmp_path)}) == Checkpoint(name=model)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("/nowhere/model", "the folder /nowhere/model does not exist: mend the path, or give a hub id"),
        ("a/b/c", "the folder a/b/c does not exist"),
        ("{}", r"has no config\.json"),
        ("{}/model.gguf", "is a file, .*: kind: llamacpp serves GGUF files"),
        ("{}/model.bin", "name the folder that it is in"),
        ("{}/broken", "cannot be read"),
    ],
)
def test_a_model_that_vllm_cannot_load_is_an_error_with_the_cure(tmp_path, model, message):
    (tmp_path / "model.gguf").write_bytes(b"")
    (tmp_path / "model.bin").write_bytes(b"")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    with pytest.raises(PermanentEngineError, match=message):
        read_checkpoint(model.format(tmp_path), environment={})


def test_the_rank_of_an_adapter_is_read(tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"r": 64, "peft_type": "LORA"}')
    assert read_adapter_rank(str(tmp_path), environment={}) == 64
    assert read_adapter_rank("org/adapter", environment={"HF_HOME": str(tmp_path)}) is None


def test_a_folder_without_an_adapter_is_an_error(tmp_path):
    with pytest.raises(PermanentEngineError, match=r"has no adapter_config\.json"):
        read_adapter_rank(str(tmp_path), environment={})
