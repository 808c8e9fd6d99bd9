"""Runs under MicroPython: reads a meter and switches its contactor over a real bus, and prints what happened as JSON.

Arguments: a JSON file {"spec": bus section, "profile": board profile, "unit", "relay_unit", "steps": [...]}; with
"fake_uart", the device file stands behind a UART as a board has it.
"""

import gc
import json
import sys

from pile_edge.control import open_control
from pile_edge.meters.decode import MeterReader, load_profile
from pile_edge.ports.micropython_bus import open_bus
from pile_shared.errors import PilechainError


class FakePin:
    """A pin that keeps every level it was set to."""

    OUT = 1
    levels = []

    def __init__(self, _number, _mode, value):
        FakePin.levels.append(value)

    def value(self, level):
        FakePin.levels.append(level)


def fake_machine(path):
    """A `machine` module whose UART is the file at `path`: the API of a board's UART as far as the bus uses it."""

    class Uart:
        def __new__(cls, number, **options):
            Uart.made = (number, options)
            stream = open(path, "r+b")
            return stream

    class Machine:
        UART = Uart
        Pin = FakePin

    sys.modules["machine"] = Machine
    return Uart


def step(name, reader, control, bus, config):
    if name == "read":
        sample = reader.read()
        return [sample.energy_wh, sample.power_w, sample.raw.hex()]
    if name == "serial":
        return reader.serial()
    if name == "on":
        return control.energise()
    if name == "off":
        return control.de_energise()
    if name == "state":
        return control.is_energised()
    if name == "wrong_function":
        return bus.read(config["unit"], 3, 72, 2).hex()
    if name == "heap":
        gc.collect()
        return gc.mem_alloc()
    raise ValueError(name)


def main(path):
    with open(path) as file:
        config = json.load(file)
    uart = fake_machine(config["fake_uart"]) if "fake_uart" in config else None
    bus = open_bus(config["spec"])
    reader = MeterReader(bus, load_profile(config["profile"]), config["unit"])
    control = open_control({"kind": "coil", "unit": config["relay_unit"], "coil": 0}, bus)
    results = []
    for name in config["steps"]:
        try:
            results.append(step(name, reader, control, bus, config))
        except PilechainError as error:
            results.append({"code": error.code, "message": error.message})
    bus.close()
    print(json.dumps({"results": results, "uart": uart.made if uart else None, "pin": FakePin.levels}))


main(sys.argv[1])
