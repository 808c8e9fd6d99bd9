"""One trial in a process of its own: `python -m pile_hil.trials.child SCENARIO RIG FOLDER`. SIGTERM ends it in order."""

import signal
import sys
from pathlib import Path
from types import FrameType

from pile_hil.lab.rig import Rig
from pile_hil.scenarios.registry import find
from pile_hil.trials.trial import Trial


def main(name: str, rig_file: str, folder: str) -> int:
    """Run a scenario on a rig, in a folder that does not exist yet; 0 if it came to its end."""
    signal.signal(signal.SIGTERM, _stop)
    scenario, rig = find(name), Rig(Path(rig_file))
    with Trial(rig, rig.pick(scenario.needs, scenario.piles), Path(folder), name, scenario.expects) as trial:
        scenario.run(trial)
        trial.drain()
    return 0


def _stop(_signal: int, _frame: FrameType | None) -> None:
    raise SystemExit("stopped")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
