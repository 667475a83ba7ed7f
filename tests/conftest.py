"""Settings for all tests: Hypothesis, the page of the contract's rows, the number of pytest workers.

Hypothesis runs without deadlines, because the machine may be busy. This file imports nothing of Tidegate, so that a
file of unit tests starts at once; fixtures that need the app are in `tests/integration/conftest.py`.
"""

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


_MAX_WORKERS = 4  # each worker has an embedded engine of its own


def pytest_xdist_auto_num_workers(config):
    """The number of workers: one for each core if all tests are run, none if only a part of them is.

    For a part, the start of the workers would take longer than it saves. Tests with real engines need the whole
    machine, so they run without workers too.
    """
    option = config.option
    is_part = config.args_source is not pytest.Config.ArgsSource.TESTPATHS or option.keyword
    is_part = is_part or option.markexpr != "not engines"
    return 0 if is_part else min(os.cpu_count() or 1, _MAX_WORKERS)


def pytest_configure(config):
    config.pluginmanager.register(ContractPage(config.rootpath / "build" / "contract-rows.md"))
