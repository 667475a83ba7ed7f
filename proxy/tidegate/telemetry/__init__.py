"""What operators see: logs, metrics. Prompt text and secrets never come here, so there is nothing to redact."""
