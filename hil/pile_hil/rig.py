"""A rig: buses, meters, relays and cars, in this process or as `python -m pile_hil.rig --config rig.json`.

    {"clock": {"rate": 240, "origin_ms": 1767225600000},
     "buses": {"east": {"kind": "tcp"}, "west": {"kind": "rtu", "baud": 9600}},
     "piles": [{"id": "pile-1", "bus": "west", "profile": "abb-b23", "unit": 1, "relay_unit": 2,
                "start_energy_wh": 1234567, "rated_power_w": 11000, "battery_wh": 20000, "plugged": false}]}

On a serial bus a pile with "baud" is deaf to any other speed than that.

As a process it prints one JSON line when it is ready,

    {"ready": true, "buses": {"west": {"kind": "rtu", "device": "/dev/pts/4", ...}}}

each bus being the very section `open_bus` takes, and serves until SIGTERM. Commands come as JSON lines on stdin, when
that is a pipe, and each is answered by one line: {"do": "plug" | "unplug" | "weld" | "repair" | "truth", "pile": ...},
{"do": "fault", "pile": ..., "kind": ..., "on": "meter" | "relay"}. The end of the pipe ends the rig, so that it cannot
outlive the program that started it.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import stat
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pile_edge.meters import catalogue
from pile_hil.bus_server import BusServers
from pile_hil.clock import SimClock
from pile_hil.load import Load
from pile_hil.meters import SimMeter, SimRelay

if TYPE_CHECKING:
    from collections.abc import Mapping

# A silent or failing unit is what a rig is for; pymodbus would print each as an error.
logging.getLogger("pymodbus.logging").addHandler(logging.NullHandler())


class SimPile:
    """A meter, a relay and a car that share one load."""

    def __init__(self, config: Mapping[str, Any], clock: SimClock) -> None:
        """Take one entry of `piles`."""
        self.id: str = config["id"]
        self.load = Load(
            clock.now_ms,
            rated_power_w=config.get("rated_power_w", 11_000),
            battery_wh=config.get("battery_wh", 20_000),
            start_energy_wh=config.get("start_energy_wh", 0),
        )
        if config.get("plugged", False):
            self.load.plug()
        profile = catalogue.profile_mapping(config["profile"])
        baud = config.get("baud")
        self.meter = SimMeter(profile, config.get("unit", 1), self.load, config.get("serial", 12_345_678), baud=baud)
        self.relay = SimRelay(config.get("relay_unit", 2), self.load, baud=baud)

    def truth(self) -> dict[str, object]:
        """What really happened, to hold readings and bills against.

        `energy_wh` is exact and rounded down, `meter_wh` is what the meter's register can show of it.
        """
        return {
            "pile": self.id,
            "energy_wh": self.load.energy_wh(),
            "meter_wh": self.meter.energy_wh(),
            "power_w": self.load.power_w(),
            "coil": self.load.commanded,
            "plugged": self.load.plugged,
        }


class Rig:
    """All simulated hardware of one configuration, served from a thread of its own while the context is entered."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        """Build the piles; nothing is opened before `start`."""
        clock = config.get("clock", {})
        self.clock = SimClock(clock.get("rate", 1), clock.get("origin_ms", 0))
        self.piles = {entry["id"]: SimPile(entry, self.clock) for entry in config["piles"]}
        self.bus_specs: dict[str, dict[str, Any]] = {}
        self._config = config
        self._servers = BusServers()

    def start(self) -> None:
        """Open every bus; `bus_specs` then says where each is."""
        self._servers.start()
        for name, spec in self._config["buses"].items():
            piles = [self.piles[entry["id"]] for entry in self._config["piles"] if entry["bus"] == name]
            units = [unit for pile in piles for unit in (pile.meter, pile.relay)]
            self.bus_specs[name] = self._servers.serve(spec, units)

    def stop(self) -> None:
        """Close every bus and end the thread."""
        self._servers.stop()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    def command(self, order: Mapping[str, Any]) -> dict[str, object]:
        """Do what one line of the control channel says, and answer with the pile's truth after it.

        Raises:
            KeyError: no such pile.
            ValueError: no such command or fault.
        """
        pile = self.piles[order["pile"]]
        match order.get("do"):
            case "plug":
                pile.load.plug(order.get("battery_wh"))
            case "unplug":
                pile.load.unplug()
            case "weld" | "repair" as what:
                pile.load.weld(what == "weld")
            case "fault":
                unit = pile.relay if order.get("on") == "relay" else pile.meter
                unit.faults.set(order["kind"])
            case "truth":
                pass
            case what:
                raise ValueError(f"no command {what!r}")
        return pile.truth()


def _obey(rig: Rig) -> None:
    """Answer control lines until the pipe ends, then end the process as SIGTERM would."""
    for line in sys.stdin:
        try:
            answer = rig.command(json.loads(line))
        except (ValueError, KeyError, TypeError) as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)
    os.kill(os.getpid(), signal.SIGTERM)


def main(arguments: list[str] | None = None) -> int:
    """Serve a rig until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="pile_hil.rig", description="Simulated meters, relays and cars on Modbus.")
    parser.add_argument("--config", type=Path, required=True, help="JSON file as described in this module")
    options = parser.parse_args(arguments)
    stopping = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, stopping)
    with Rig(json.loads(options.config.read_text())) as rig:
        print(json.dumps({"ready": True, "buses": rig.bus_specs}), flush=True)
        if _is_pipe(sys.stdin.fileno()):
            threading.Thread(target=_obey, args=(rig,), name="control", daemon=True).start()
        signal.sigwait(stopping)
    return 0


def _is_pipe(descriptor: int) -> bool:
    mode = os.fstat(descriptor).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


if __name__ == "__main__":
    sys.exit(main())
