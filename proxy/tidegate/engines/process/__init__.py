"""Processes of engines: starting a process, reading its output, and ending it with all that it has started."""
