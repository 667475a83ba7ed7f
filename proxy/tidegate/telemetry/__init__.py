"""Logs and metrics for operators. Prompt text and secrets are never passed to them, so they need no redaction."""
