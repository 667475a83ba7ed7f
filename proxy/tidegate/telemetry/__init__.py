"""Logs and metrics for operators. Prompt text and secrets never reach them; secrets in texts of hosts are masked."""
