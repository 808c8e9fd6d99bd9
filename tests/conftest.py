"""Tests of the whole use the chain of the coordinator's tests (`world`) and the surroundings of a pile (`scripted_pile`)."""

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "coordinator/tests"), str(ROOT / "firmware_tests")]
