"""One engine whose process Tidegate starts: starting, watching, restarting, putting to sleep and stopping it."""
