"""The life of one engine whose process is ours: starting, watching, restarting, putting to sleep and stopping it."""
