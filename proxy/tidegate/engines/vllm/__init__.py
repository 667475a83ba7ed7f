"""The engine kind `vllm`: its command line, its parsers by model family, its checkpoints and its LoRA adapters."""
