"""Tests of the whole use the chain of the coordinator's tests (`world`), the surroundings of a pile (`scripted_pile`), each other."""

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "coordinator/tests"), str(ROOT / "firmware_tests"), str(ROOT / "tests")]
