"""Tests here share `world.py`; with import-mode=importlib a folder of tests is not on the path by itself."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
