"""GPUs: which ones the machine has, where each engine goes, and which engine makes room for another."""
