"""Builds a DeepSeek-V3 of 18 million parameters that has learnt the dialogues: `tiny_deepseek.py r1|v4 FOLDER`.

It has the special parts of the real model: multi-head latent attention, a mixture of experts, and its tokenizer with
all 129,280 rows. Its markup is that of R1 and V3 (a chat template, <think> opened in the prompt, tool calls in special
tokens), or that of V4 (vLLM's own prompt encoder, DSML tool calls). It is trained until every token of the dialogues is
far more likely than any other; the build fails if it is not. On one kind of processor the result is always the same,
byte for byte.

It is run with vLLM's Python. A comment marks each property that vLLM's CPU build needs in such a model (reference
`vllm.md`, section 2c).
"""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from dialogues import DIALOGUES, Dialogue
from tokenizer import BOS, EOS, PAD, VOCABULARY, read_tokenizer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM, PreTrainedTokenizerFast

_MAX_STEPS = 400
_MAX_TOKEN_LOSS = 0.05  # with this loss, greedy decoding finds the token with any kernel, however it rounds
_LEARNING_RATE = 3e-3
_WARM_UP_STEPS = 20
_UNSAID_STRIDE = 512  # one token in so many is trained to be unlikely; all of them would take minutes
_DSML = "｜DSML｜"

# Fields of the real config.json that vLLM reads; transformers drops them when it saves a config.
_DROPPED_FIELDS = {
    "topk_method": "noaux_tc",
    "scoring_func": "sigmoid",
    "moe_layer_freq": 1,
    "ep_size": 1,
    "num_nextn_predict_layers": 0,
    "tie_word_embeddings": False,  # vLLM's DeepSeek never ties them: all logits would be equal
}


class Row(NamedTuple):
    """A dialogue as tokens: those of the prompt, and from `start` on those of the answer."""

    tokens: Tensor
    start: int


def build(wire: str, folder: Path) -> None:
    """Train the model, and save it with its config and tokenizer in `folder`; takes seconds to minutes.

    Raises:
        RuntimeError: the model has not learnt the dialogues.
    """
    torch.manual_seed(0)
    torch.set_num_threads(1)  # sums are added in the same order on every machine
    tokenizer = read_tokenizer()
    rows = list(_encoded(tokenizer, wire))
    used = torch.cat([row.tokens for row in rows])
    known = torch.unique(torch.cat([used, torch.arange(0, VOCABULARY, _UNSAID_STRIDE)]))
    model = DeepseekV3ForCausalLM(_config(len(known))).float()
    _train(model, [Row(torch.searchsorted(known, row.tokens), row.start) for row in rows])
    _give_full_vocabulary(model, known)
    model = model.to(torch.bfloat16).eval()
    if wrong := [number for number, row in enumerate(rows) if not _gives_answer(model, row)]:
        raise RuntimeError(f"the tiny DeepSeek has not learnt the dialogues {wrong}")
    model.generation_config.update(bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD, do_sample=False)
    model.save_pretrained(folder)
    if wire == "v4":
        tokenizer.chat_template = None  # V4's prompts are made by code, not by a template
    tokenizer.save_pretrained(folder)
    config = folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | _DROPPED_FIELDS, indent=2))


def _config(vocabulary: int) -> DeepseekV3Config:
    return DeepseekV3Config(
        vocab_size=vocabulary,
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        intermediate_size=256,
        moe_intermediate_size=64,
        n_routed_experts=8,
        n_shared_experts=1,
        num_experts_per_tok=2,
        n_group=2,
        topk_group=1,
        first_k_dense_replace=1,
        q_lora_rank=64,
        # vLLM's decode kernel for latent attention on a CPU is compiled only for these two sizes
        kv_lora_rank=512,
        qk_rope_head_dim=64,
        qk_nope_head_dim=64,
        v_head_dim=64,
        routed_scaling_factor=1.0,
        norm_topk_prob=True,
        rope_interleave=True,
        max_position_embeddings=163_840,
        # as in the real model; without yarn the rotary kernel on a CPU rotates the queries wrongly
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": 10000.0,
            "factor": 40.0,
            "beta_fast": 32,
            "beta_slow": 1,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
            "original_max_position_embeddings": 4096,
        },
        rms_norm_eps=1e-6,
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
        tie_word_embeddings=True,
    )


# --- training data ----------------------------------------------------------------------------------------------------


def _encoded(tokenizer: PreTrainedTokenizerFast, wire: str) -> Iterator[Row]:
    render = _v4_renderer(tokenizer) if wire == "v4" else tokenizer.apply_chat_template
    answer = _v4_answer if wire == "v4" else _r1_answer
    for dialogue in DIALOGUES:
        prompt = render(
            dialogue.messages,
            tools=dialogue.tools,
            add_generation_prompt=True,
            thinking=dialogue.thinking is not None,
            tokenize=False,
        )
        # encoded separately, as the engine does: no token may span the end of the prompt
        head = tokenizer.encode(prompt, add_special_tokens=False)
        tail = tokenizer.encode(answer(dialogue), add_special_tokens=False)
        yield Row(torch.tensor([*head, *tail, EOS]), len(head))


def _v4_renderer(tokenizer: PreTrainedTokenizerFast) -> Callable[..., str]:
    from vllm.tokenizers.deepseek_v4 import get_deepseek_v4_tokenizer  # noqa: PLC0415 - takes ten seconds

    return get_deepseek_v4_tokenizer(tokenizer).apply_chat_template


def _r1_answer(dialogue: Dialogue) -> str:
    thinking = "" if dialogue.thinking is None else f"{dialogue.thinking}\n</think>\n\n"
    calls = "".join(
        f'<｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n{{"city": "{city}"}}\n```<｜tool▁call▁end｜>'
        for city in dialogue.cities
    )
    return thinking + dialogue.content + (calls and f"<｜tool▁calls▁begin｜>{calls}<｜tool▁calls▁end｜>")


def _v4_answer(dialogue: Dialogue) -> str:
    thinking = "" if dialogue.thinking is None else f"{dialogue.thinking}</think>"
    calls = "".join(
        f'<{_DSML}invoke name="get_weather">\n'
        f'<{_DSML}parameter name="city" string="true">{city}</{_DSML}parameter>\n'
        f"</{_DSML}invoke>\n"
        for city in dialogue.cities
    )
    return thinking + dialogue.content + (calls and f"<{_DSML}tool_calls>\n{calls}</{_DSML}tool_calls>")


# --- training ---------------------------------------------------------------------------------------------------------


def _train(model: DeepseekV3ForCausalLM, rows: list[Row]) -> None:
    """Train until no token's loss is above `_MAX_TOKEN_LOSS`, or `_MAX_STEPS` steps are done."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(
            not name.endswith("e_score_correction_bias")
        )  # set by the load of the experts, not by gradients
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=_LEARNING_RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _rate)
    count = sum(len(row.tokens) - row.start for row in rows)
    for _ in range(_MAX_STEPS):
        worst = 0.0
        optimizer.zero_grad()
        for row in rows:
            losses = _losses(model, row)
            (losses.sum() / count).backward()
            worst = max(worst, losses.max().item())
        if worst < _MAX_TOKEN_LOSS:
            return
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()


def _rate(step: int) -> float:
    return min(1.0, (step + 1) / _WARM_UP_STEPS) * (1 - 0.95 * step / _MAX_STEPS)


def _losses(model: DeepseekV3ForCausalLM, row: Row) -> Tensor:
    return cross_entropy(_logits(model, row), row.tokens[row.start :], reduction="none")


def _logits(model: DeepseekV3ForCausalLM, row: Row) -> Tensor:
    """Return the logits for each token of the answer."""
    hidden = model.model(input_ids=row.tokens[None, :-1]).last_hidden_state
    return model.lm_head(hidden[0, row.start - 1 :])


def _give_full_vocabulary(model: DeepseekV3ForCausalLM, known: Tensor) -> None:
    """Give the model the whole vocabulary and a separate output layer; rows of tokens not in `known` are random."""
    hidden = model.config.hidden_size
    table = torch.randn(VOCABULARY, hidden) * model.config.initializer_range
    table[known] = model.get_input_embeddings().weight.detach()
    model.set_input_embeddings(nn.Embedding.from_pretrained(table))
    model.lm_head = nn.Linear(hidden, VOCABULARY, bias=False)
    model.lm_head.weight = nn.Parameter(table.clone())
    model.config.vocab_size = VOCABULARY
    model.config.tie_word_embeddings = False


@torch.no_grad()
def _gives_answer(model: DeepseekV3ForCausalLM, row: Row) -> bool:
    """Return whether greedy decoding gives the answer: each token is the most likely one after those before it."""
    return torch.equal(_logits(model, row).argmax(-1), row.tokens[row.start :])


if __name__ == "__main__":
    build(sys.argv[1], Path(sys.argv[2]))
