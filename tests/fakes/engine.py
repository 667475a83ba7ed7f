"""`FakeKind`: an engine kind whose engine is `engine_process.py`, a real child process."""

import sys
from pathlib import Path

from tidegate.engines.base import Command, EngineError, Progress

_CHILD = str(Path(__file__).with_name("engine_process.py"))


class FakeKind:
    """Starts the child with the given habits: one set for each start, and the last set for all further starts."""

    dialect = "generic"
    health_path = "/health"
    metrics_path = "/metrics"
    always_streams = False
    stop_s = 5.0

    def __init__(self, *habits: str, start_timeout_s: float = 120, sleep_level: int | None = None) -> None:
        self.start_timeout_s = start_timeout_s
        self.sleep_level = sleep_level
        self.starts = 0
        self._habits = list(habits)

    def command(self, socket_path: str, api_key: str) -> Command:
        self.starts += 1
        habits = self._habits.pop(0) if len(self._habits) > 1 else self._habits[0]
        return Command((sys.executable, _CHILD, habits, socket_path), {"VLLM_API_KEY": api_key})

    def model_bytes(self) -> int:
        return 0

    def progress(self, line: str) -> Progress | None:
        return Progress("loading", float(line.split()[1])) if line.startswith("loading ") else None

    def explain(self, lines, *, has_run=False) -> EngineError | None:
        return EngineError("out of memory; take a smaller model") if "out of memory" in lines else None
