"""Hypothesis for all tests: no deadlines (machines are busy), and the same examples on every run of CI."""

import os

from hypothesis import HealthCheck, settings

settings.register_profile("local", deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("local"), derandomize=True, database=None)
settings.load_profile("ci" if os.environ.get("CI") else "local")
