"""`python -m pile_hil.simulator`: the same as `pilechain hil simulate`, where nothing is installed."""

import argparse
import sys

from pile_hil.commands.simulate import add_options, run

if __name__ == "__main__":
    _parser = argparse.ArgumentParser(prog="python -m pile_hil.simulator")
    add_options(_parser)
    sys.exit(run(_parser.parse_args()))
