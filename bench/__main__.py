"""`make bench`: every figure with its limit, ratio and target; also as JSON in bench/out/."""

import importlib
import sys
from pathlib import Path

from bench.figures import report

MODULES = sorted(
    p.stem for p in Path(__file__).parent.glob("*.py") if p.stem not in {"__init__", "__main__", "figures"}
)


def main() -> int:
    """Run the benches named on the command line, or all; 1 if a target was missed."""
    missed = 0
    for name in sys.argv[1:] or MODULES:
        shown = report(importlib.import_module(f"bench.{name}").figures())
        missed += sum(figure.reached is False for figure in shown)
    return 1 if missed else 0


sys.exit(main())
