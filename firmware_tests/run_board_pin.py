"""Runs under MicroPython as the board's program, on a board with pins: each level that one is set to is printed.

Arguments: config.cbor run, as for the program itself.
"""

import sys


class Pin:
    """An output, which can be read back, as on an ESP32."""

    OUT = 3

    def __init__(self, number, _mode, value):
        self.number = number
        self.value(value)

    def value(self, level=None):
        if level is None:
            return self.level
        self.level = int(level)
        print("pin", self.number, self.level)
        return None


class machine:  # noqa: N801 - stands for a module
    """What of a board's module the agent uses here."""

    Pin = Pin


sys.modules["machine"] = machine

from pile_board import part_agent  # noqa: E402 - the module must be there first

part_agent.main(sys.argv[2:])
