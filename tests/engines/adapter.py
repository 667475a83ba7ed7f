"""Writes a LoRA adapter with random weights, without the package safetensors, which is not in this environment."""

import json
import random
import struct
from array import array
from pathlib import Path

_RANK = 8
_MAX_WEIGHT = 0.2  # large enough to change the model's answers


def write_adapter(folder: Path, checkpoint: Path) -> Path:
    """Write an adapter for the query projections of all layers of a Llama; returns `folder`."""
    model = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    hidden, numbers, header, data = model["hidden_size"], random.Random(0), {}, bytearray()
    for layer in range(model["num_hidden_layers"]):
        for side, shape in (("A", [_RANK, hidden]), ("B", [hidden, _RANK])):
            values = array("f", (numbers.uniform(-_MAX_WEIGHT, _MAX_WEIGHT) for _ in range(_RANK * hidden)))
            name = f"base_model.model.model.layers.{layer}.self_attn.q_proj.lora_{side}.weight"
            header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + 4 * len(values)]}
            data += values.tobytes()
    head = json.dumps(header).encode()
    (folder / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(head)) + head + data)
    config = {"peft_type": "LORA", "r": _RANK, "lora_alpha": _RANK, "target_modules": ["q_proj"], "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder
