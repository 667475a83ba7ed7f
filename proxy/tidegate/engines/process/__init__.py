"""Processes of engines: starting one, reading its output, and ending it with everything that it has started."""
