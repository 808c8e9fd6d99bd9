"""What `pilechain` loads to start: a command brings its own packages, and only those."""

import subprocess
import sys

import pytest

HEAVY = {"sqlalchemy", "rich", "nicegui", "fastapi", "google.protobuf"}
ASKS = """
import sys
from pile_coordinator.cli import _parser
parser = _parser(sys.argv[1:])
print(*(name for name in HEAVY if name in sys.modules))
"""


def loaded(*words):
    code = f"HEAVY = {sorted(HEAVY)}\n{ASKS}"
    return set(subprocess.check_output([sys.executable, "-c", code, *words], text=True, timeout=60).split())


@pytest.mark.parametrize(
    ("words", "needed"),
    [
        (("run", "--config", "coordinator.toml"), set()),
        (("evidence", "status"), {"sqlalchemy", "rich"}),
        (("demo",), set()),
    ],
)
def test_a_command_loads_only_what_it_needs(words, needed):
    assert loaded(*words) == needed


def test_who_asks_for_help_sees_every_command():
    assert {"sqlalchemy", "rich"} <= loaded("--help")
    assert {"sqlalchemy", "rich"} <= loaded("no-such-command")
