"""GPUs: which ones the machine has, which ones each engine uses, and which engine is unloaded for another."""
