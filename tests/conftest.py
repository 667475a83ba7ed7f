"""For all tests: Hypothesis without deadlines (machines are busy), and the page of the contract's rows."""

import os

import pytest
from hypothesis import HealthCheck, settings

from tests.fakes.contract_page import ContractPage

# the same examples on every run of CI
settings.register_profile("local", deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("local"), derandomize=True, database=None)
settings.load_profile("ci" if os.environ.get("CI") else "local")

pytest.register_assert_rewrite(
    "tests.engines.crash", "tests.engines.stage", "tests.fakes.canonical", "tests.fakes.fault_stage"
)


def pytest_configure(config):
    config.pluginmanager.register(ContractPage(config.rootpath / "build" / "contract-rows.md"))
