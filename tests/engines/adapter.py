"""A LoRA adapter of random numbers, written by hand: our Python has no safetensors."""

import json
import random
import struct
from array import array
from pathlib import Path

_RANK = 8
_SPREAD = 0.2  # enough to be heard, whatever the numbers are


def write_adapter(folder: Path, checkpoint: Path) -> Path:
    """An adapter for the queries of all layers of a Llama; the folder."""
    model = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    hidden, numbers, header, data = model["hidden_size"], random.Random(0), {}, bytearray()
    for layer in range(model["num_hidden_layers"]):
        for side, shape in (("A", [_RANK, hidden]), ("B", [hidden, _RANK])):
            values = array("f", (numbers.uniform(-_SPREAD, _SPREAD) for _ in range(_RANK * hidden)))
            name = f"base_model.model.model.layers.{layer}.self_attn.q_proj.lora_{side}.weight"
            header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + 4 * len(values)]}
            data += values.tobytes()
    head = json.dumps(header).encode()
    (folder / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(head)) + head + data)
    config = {"peft_type": "LORA", "r": _RANK, "lora_alpha": _RANK, "target_modules": ["q_proj"], "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder
