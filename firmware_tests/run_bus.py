"""Runs under MicroPython: reads a meter and switches its contactor over a real bus, and prints what happened as JSON.

Arguments: a JSON file {"spec": bus section, "profile": board profile, "unit", "relay_unit", "steps": [...]}; with
"fake_uart", the device file stands behind a UART as a board has it.
"""

import gc
import io
import json
import select
import sys
import time

from pile_edge.control import open_control
from pile_edge.meters.decode import MeterReader, load_profile
from pile_edge.ports.micropython_bus import open_bus
from pile_shared.errors import PilechainError


class FakePin:
    """A pin that keeps every level it was set to; one with `stuck` always reads as that."""

    OUT = 1
    levels = []  # noqa: RUF012 - MicroPython has no ClassVar
    stuck = None

    def __init__(self, _number, _mode, value):
        self.level = int(value)
        FakePin.levels.append(self.level)

    def value(self, level=None):
        if level is None:
            return self.level if FakePin.stuck is None else FakePin.stuck
        self.level = int(level)
        FakePin.levels.append(self.level)
        return None


def fake_machine(path):
    """A `machine` module whose UART is the file at `path`: the API of a board's UART as far as the bus uses it."""

    class Uart(io.IOBase):
        def __init__(self, number, **options):
            Uart.made = (number, options)
            self.file = open(path, "r+b")  # noqa: PTH123, SIM115 - no pathlib here; closed by deinit
            self.poll = select.poll()
            self.poll.register(self.file, select.POLLIN)

        def ioctl(self, request, flags):
            if request != 3:  # MP_STREAM_POLL; a UART has no file number to tell
                return -1
            return flags & select.POLLIN if self.poll.poll(0) else 0

        def read(self, count):
            return self.file.read(count)

        def write(self, data):
            assert not FakePin.levels or FakePin.levels[-1] == 1
            return self.file.write(data)

        def flush(self):
            FakePin.levels.append("sent")

        def deinit(self):
            self.file.close()

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
    if name == "raw":
        return bus.read(config["unit"], 3, 0, 2).hex()
    if name == "wrong_function":
        return bus.read(config["unit"], 3, 72, 2).hex()
    if name == "heap":
        gc.collect()
        return gc.mem_alloc()
    raise ValueError(name)


def main(path):
    with open(path) as file:  # noqa: PTH123 - no pathlib here
        config = json.load(file)
    uart = fake_machine(config["fake_uart"]) if "fake_uart" in config else None
    FakePin.stuck = config.get("stuck")
    if "paces" in config["spec"]:
        config["spec"]["paces"] = {int(unit): pace for unit, pace in config["spec"]["paces"].items()}  # JSON's are text
    bus = open_bus(config["spec"])
    limits = {"clock_ms": time.ticks_ms, "max_power_w": config["limit_w"]} if config.get("limit_w") else {}
    reader = MeterReader(bus, load_profile(config["profile"]), config["unit"], **limits)
    control = open_control(config.get("control") or {"kind": "coil", "unit": config["relay_unit"], "coil": 0}, bus)
    results = []
    for name in config["steps"]:
        try:
            results.append(step(name, reader, control, bus, config))
        except PilechainError as error:
            results.append({"code": error.code, "message": error.message})
    bus.close()
    print(json.dumps({"results": results, "uart": getattr(uart, "made", None), "pin": FakePin.levels}))


main(sys.argv[1])
