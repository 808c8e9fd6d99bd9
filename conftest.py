"""For all tests: in which order their files begin, and what none of them has to set.

How long an example of hypothesis takes says something about the machine, nothing about the code: no deadline.
"""

import gc
import os
import tempfile

import pytest
from hypothesis import settings

settings.register_profile("pilechain", deadline=None)
settings.load_profile("pilechain")

# The files that take longest begin first, so that no worker is left alone with one in the end; those that mostly wait, for
# networks, boards and browsers, and those that mostly compute in turn, so that the cores have work. By measured times; a
# file that is not named begins after these, in the order of `testpaths`.
FIRST = (
    "test_network",
    "test_power_cut",
    "test_dashboard_pages",
    "test_wire_format",
    "test_flash",
    "test_web_mariadb",
    "test_dashboard",
    "test_random_books",
    "test_evidence_kill",
    "test_web",
    "test_demo",
    "test_reference_model",
    "test_update",
    "test_web_boards",
    "test_driver_page",
    "test_replay",
    "test_demo_network",
    "test_stake_model",
    "test_alarms",
    "test_curve",
    "test_site_records",
    "test_byzantine",
    "test_kill",
    "test_lost_machine",
    "test_fleet",
    "test_linker",
    "test_broker_away",
    "test_board",
    "test_evidence_mariadb",
    "test_comet_app",
    "test_serving",
    "test_scan",
    "test_agent",
    "test_chargers",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the longest files begin first; every worker sorts alike, and within a file nothing moves."""
    places = {name: place for place, name in enumerate(FIRST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(FIRST)))


def pytest_collection_finish() -> None:
    """Keep the collector from what stays: modules of every test file, looked through again whenever a test makes much."""
    gc.collect()
    gc.freeze()


# Locks of serial lines that tests make lie in a folder of their own, gone with this process.
_locks = tempfile.TemporaryDirectory(prefix="pile-edge-locks-")
os.environ["PILE_EDGE_LOCKS"] = _locks.name
