"""What a pile's bus leads to: a meter and a relay, with a car behind them. It outlives the agent, as hardware does."""

import random

from pile_hil.simulator.world import World
from pile_shared.errors import BusError

METER_UNIT, RELAY_UNIT = 1, 2
STEP_WH = 10  # of the register, that of an ABB B23
_WMS = 3_600_000  # watt milliseconds in a watt-hour
_ENERGY, _POWER = 0x5000, 0x5B14  # addresses, see its profile


class Hardware:
    """A bus for the agent, and switches for whoever breaks it.

    Attributes:
        flowed_wms: energy that ever flowed, in watt milliseconds. car_w: what the car draws when it may. wanted_wms: what it
        still takes. silent_until_ms, noisy_until_ms, stuck_until_ms: faults of the meter. relay_until_ms: the relay does not
        answer. dip_until_ms, dip_wh: until when the register shows how much too little. lost_wh: what it forgot.
    """

    def __init__(self, world: World, chance: random.Random, serial: int) -> None:
        """Begin with a meter that has counted before, and no car."""
        self.serial = serial
        self.is_on = False
        self.car_w = 0
        self.wanted_wms = 0
        self.silent_until_ms = self.noisy_until_ms = self.stuck_until_ms = self.relay_until_ms = 0
        self.dip_until_ms = self.dip_wh = self.lost_wh = 0
        self._world = world
        self._chance = chance
        self._seen_ms = world.now_ms
        self._stuck_wh = 0
        self._first_wh = chance.randint(100_000, 5_000_000)
        self.flowed_wms = self._first_wh * _WMS

    @property
    def power_w(self) -> int:
        """What flows now."""
        self._flow()
        return self.car_w if self.is_on and self.wanted_wms > 0 else 0

    @property
    def flowed_wh(self) -> int:
        """All that ever flowed."""
        self._flow()
        return self.flowed_wms // _WMS

    @property
    def given_wh(self) -> int:
        """What flowed in this world."""
        return self.flowed_wh - self._first_wh

    def plug(self, car_w: int, wanted_wh: int) -> None:
        """A car comes."""
        self._flow()
        self.car_w, self.wanted_wms = car_w, wanted_wh * _WMS

    def stick(self, until_ms: int) -> None:
        """The register stands still for a while, and then shows everything at once."""
        self._stuck_wh = self.flowed_wh - self.lost_wh
        self.stuck_until_ms = until_ms

    def reset(self) -> None:
        """The register begins anew."""
        self.lost_wh = self.flowed_wh

    def lose_power(self) -> None:
        """A relay opens by itself."""
        self._switch(on=False)

    def _flow(self) -> None:
        elapsed_ms, self._seen_ms = self._world.now_ms - self._seen_ms, self._world.now_ms
        if self.is_on and self.wanted_wms > 0:
            wms = min(self.car_w * elapsed_ms, self.wanted_wms)
            self.flowed_wms += wms
            self.wanted_wms -= wms

    def _switch(self, *, on: bool) -> None:
        self._flow()
        self.is_on = on

    # --- the agent's bus -------------------------------------------------------------------------------------------

    def read(self, unit: int, function: int, address: int, count: int) -> bytes:  # noqa: ARG002 - a bus
        """As pile_edge.modbus.Bus."""
        if unit == RELAY_UNIT:
            self._check_relay()
            return bytes((int(self.is_on),))
        if self._world.now_ms < self.silent_until_ms:
            raise BusError("no answer", "timeout")
        if self._world.now_ms < self.noisy_until_ms and self._chance.random() < 0.5:
            raise BusError("checksum", "crc")
        if address == _ENERGY:
            return (self._shown_wh() // STEP_WH).to_bytes(8, "big")
        if address == _POWER:
            return (self.power_w * 100).to_bytes(4, "big")
        return self.serial.to_bytes(4, "big")

    def _shown_wh(self) -> int:
        if self._world.now_ms < self.stuck_until_ms:
            return self._stuck_wh
        dip_wh = self.dip_wh if self._world.now_ms < self.dip_until_ms else 0
        return max(0, self.flowed_wh - self.lost_wh - dip_wh)

    def write_coil(self, unit: int, address: int, on: bool) -> None:  # noqa: ARG002 - a bus
        """As pile_edge.modbus.Bus."""
        self._check_relay()
        self._switch(on=on)

    def _check_relay(self) -> None:
        if self._world.now_ms < self.relay_until_ms:
            raise BusError("no answer", "timeout")

    def close(self) -> None:
        """Nothing to give back."""
