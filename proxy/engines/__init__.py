"""Local model servers as child processes: what starts, watches, restarts and stops them.

`base` says what a kind of engine is; `llamacpp` is one, vLLM will be another; `supervisor` runs any of them.
"""
