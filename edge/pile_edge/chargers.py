"""Charging stations that are switched over Modbus TCP instead of by a contactor of ours; CPython only, a board has no room.

They share the interface of `control`: `energise` permits the configured current, `de_energise` permits none. And each is a
watchdog: the agent calls `keep` in every step, which repeats the command every third of `failsafe_s`; a station that hears
nothing for `failsafe_s` stops by itself. That is armed, and read back, before current is permitted: a station that would
go on charging without us is not energised.

Registers, all holding registers, 0-based addresses as on the wire, high word first. docs/chargers.md says for each what was
read where, and what nobody could be found to say:

KEBA KeContact P30 c/x (Modbus TCP Programmers Guide V1.02 and 1.07; unit 255, functions 3 and 6 alone, each value by
    itself): 5004 current, mA, 6000 to 63000; 5014 enable; 5016 failsafe current, mA; 5018 failsafe time, s, 10 to 600; 1000
    state, u32, 3 is charging; 1600 and 1602 the two failsafe settings, u32. Only writing to one of these is a sign of life.
ABB Terra AC (TACWB Modbus Communication, document 10M1003; functions 3, 6, 16): 4100h current, u32 mA, below 6 A pauses;
    4106h time without a request after which the session stops, s; 400Eh and 4020h the two as they are.
Alfen NG9xx (Implementation of Modbus Slave TCP/IP for Alfen NG9xx platform, version 2.3, sections 1.1 to 1.3 and 3.4):
    1210 current, f32 A, valid for as long as the installer has set; 1208 what is left of that, u32 s; 1212 the safe
    current, f32 A, that follows, an installer's setting too: below 6 A, else this driver refuses; 1206 what is applied, f32
    A, some time after it was written.
Phoenix Contact CHARX SEC-3xxx (UM EN CHARX SEC revision 08, appendix B3; functions 3, 6, 16): 1000 x connector + 301
    current, A, 6 to 80, anything else withdraws the release; + 306 watchdog current, A; + 307 watchdog time, s, 65535 is
    off. Firmware without these two is not energised.
"""

import struct
import time
from collections.abc import Callable

from pile_edge.control import ControlError
from pile_edge.modbus import READ_HOLDING, Bus, config_int
from pile_edge.ports.cpython_bus import open_bus
from pile_shared.errors import BusError, ConfigError

MIN_MA, MAX_MA = 6_000, 80_000  # IEC 61851-1 Annex A: what a pilot signal can offer
MIN_FAILSAFE_S, MAX_FAILSAFE_S = 10, 600  # KEBA's range; the others' is no narrower
ATTEMPTS = 3
LOOKS, LOOK_S = (
    10,
    0.5,
)  # how long a station may take until it shows that it has obeyed: Alfen's section 1.3.1 says "some time"
_KEBA_CHARGING = 3


class Charger:
    """What the four have in common: bounded retries, the heartbeat, and no energy before the failsafe is armed.

    Attributes:
        unit: its address. limit_ma: the current that is permitted when energised. failsafe_s: after which the station stops
            without us.
    """

    def __init__(
        self, bus: Bus, unit: int, limit_ma: int, failsafe_s: int, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        """Use the station `unit` on `bus`; nothing is asked yet."""
        self.limit_ma = limit_ma
        self.failsafe_s = failsafe_s
        self._bus = bus
        self.unit = unit
        self._clock_s = clock_s
        self._is_on = False
        self._look_s = LOOK_S
        self._good_s = self._beat_s = clock_s()

    def energise(self) -> None:
        """Arm the failsafe and permit current.

        Raises:
            BusError: no answer.
            ControlError: the station does not take the failsafe or the current; it is told to stop then.
        """
        self._is_on = True
        try:
            self._retry(self._arm)
            self._retry(self._command)
        except BusError:
            self._is_on = False
            self._retry(self._command)
            raise

    def de_energise(self) -> None:
        """Permit no current. BusError: no answer; ControlError: it goes on charging."""
        self._is_on = False
        self._retry(self._command)

    def is_energised(self) -> bool:
        """Whether the station permits current, as it says itself; BusError: no answer."""
        return self._retry(self._permits)

    def keep(self) -> None:
        """Repeat the command when a third of the failsafe time has passed.

        Raises:
            BusError: current was permitted, and the station has not answered for so long that it has stopped by itself.
            ControlError: it permits current that we do not: somebody else has switched it on.
        """
        now_s = self._clock_s()
        if now_s - self._beat_s < self.failsafe_s / 3:
            return
        self._beat_s = now_s
        try:
            self._command()
        except ControlError:
            raise
        except BusError:
            if self._is_on and now_s - self._good_s >= self.failsafe_s:
                raise

    def close(self) -> None:
        """Give the connection back."""
        self._bus.close()

    def _retry(self, action: Callable[[], bool]) -> bool:
        for _ in range(ATTEMPTS - 1):
            try:
                return action()
            except ControlError:
                raise
            except BusError:
                continue
        return action()

    def _command(self) -> bool:
        """Write the current, and look whether a stop was obeyed. Whether to permit it is `_is_on`."""
        self._write_current(self.limit_ma if self._is_on else 0)
        if not self._is_on and self._goes_on():
            raise ControlError("the station goes on charging")
        self._good_s = self._beat_s = self._clock_s()
        return True

    def _goes_on(self) -> bool:
        """Whether it still permits current a while after it was told to stop."""
        for _ in range(LOOKS - 1):
            if not self._permits():
                return False
            time.sleep(self._look_s)
        return self._permits()

    def _arm(self) -> bool:
        raise NotImplementedError

    def _permits(self) -> bool:
        raise NotImplementedError

    def _write_current(self, current_ma: int) -> None:
        raise NotImplementedError

    def _read(self, address: int, count: int = 2) -> bytes:
        return self._bus.read(self.unit, READ_HOLDING, address, count)

    def _read_int(self, address: int, count: int = 2) -> int:
        return int.from_bytes(self._read(address, count), "big")

    def _check_armed(self, address: int, count: int, expected: int, what: str) -> None:
        found = self._read_int(address, count)
        if found != expected:
            raise ControlError(f"the station has {what} {found} instead of {expected}: it would go on without us")


class Keba(Charger):
    """A KEBA KeContact P30.

    A station whose failsafe someone once set to 6 A and saved switches itself on when it hears nothing, stopped or not: so
    a stop also takes the failsafe current away.
    """

    def _arm(self) -> bool:
        self._bus.write_register(self.unit, 5016, 0)
        self._bus.write_register(self.unit, 5018, self.failsafe_s)
        self._check_armed(1600, 2, 0, "failsafe current (mA)")
        self._check_armed(1602, 2, self.failsafe_s, "failsafe time (s)")
        return True

    def _write_current(self, current_ma: int) -> None:
        if current_ma:
            self._bus.write_register(self.unit, 5004, current_ma)
        self._bus.write_register(self.unit, 5014, 1 if current_ma else 0)
        if not current_ma:
            self._bus.write_register(self.unit, 5016, 0)

    def _permits(self) -> bool:
        return self._read_int(1000) == _KEBA_CHARGING


class AbbTerra(Charger):
    """An ABB Terra AC. Any request keeps it going; a session it has stopped for silence begins anew with the next current."""

    def _arm(self) -> bool:
        self._bus.write_register(self.unit, 0x4106, self.failsafe_s)
        self._check_armed(0x4020, 1, self.failsafe_s, "communication timeout (s)")
        return True

    def _write_current(self, current_ma: int) -> None:
        self._bus.write_registers(self.unit, 0x4100, current_ma.to_bytes(4, "big"))

    def _permits(self) -> bool:
        return self._read_int(0x400E) != 0


class Alfen(Charger):
    """An Alfen NG9xx. How long a current is valid is the installer's setting; `failsafe_s` may not be longer."""

    def _arm(self) -> bool:
        (safe_a,) = struct.unpack(">f", self._read(1212))
        if not 0 <= safe_a * 1000 < MIN_MA:
            raise ControlError(
                f"the station's safe current is {safe_a:g} A: set it below 6 A, or it would go on without us"
            )
        self._write_current(0)
        valid_s = self._read_int(1208)
        if valid_s > self.failsafe_s:
            raise ControlError(
                f"the station stops {valid_s} s after us, not {self.failsafe_s}: set control.failsafe_s so"
            )
        return True

    def _write_current(self, current_ma: int) -> None:
        self._bus.write_registers(self.unit, 1210, struct.pack(">f", current_ma / 1000))

    def _permits(self) -> bool:
        (applied_a,) = struct.unpack(">f", self._read(1206))
        return not applied_a * 1000 < MIN_MA  # so that NaN counts as permitted


class Charx(Charger):
    """One connector of a Phoenix Contact CHARX, which takes whole amperes."""

    def __init__(self, bus: Bus, unit: int, limit_ma: int, failsafe_s: int, connector: int) -> None:
        """Use `connector` (1 to 12) of the station."""
        super().__init__(bus, unit, limit_ma, failsafe_s)
        self._base = 1000 * connector

    def _arm(self) -> bool:
        self._write(306, 0)
        self._write(307, self.failsafe_s)
        self._check_armed(self._base + 306, 1, 0, "watchdog current (A)")
        self._check_armed(self._base + 307, 1, self.failsafe_s, "watchdog time (s)")
        return True

    def _write_current(self, current_ma: int) -> None:
        self._write(301, current_ma // 1000)

    def _permits(self) -> bool:
        return self._read_int(self._base + 301, 1) != 0

    def _write(self, register: int, value: int) -> None:
        self._bus.write_registers(self.unit, self._base + register, value.to_bytes(2, "big"))


def open_charger(spec: dict[str, object], bus: Bus) -> Charger:
    """The charging station in the `control` section of a configuration.

    `kind` is "keba", "abb-terra-ac", "alfen" or "phoenix-charx"; with `host` (and `port`) it has a connection of its own, else
    it is a unit on the meter's bus. `limit_ma` is what it permits, `failsafe_s` when it stops without us.

    Raises:
        ConfigError: the section names a wrong value.
    """
    kind = spec.get("kind")
    if kind not in KINDS:
        raise ConfigError('control.kind must be "coil", "gpio" or one of ' + " ".join(sorted(KINDS)))
    unit = config_int(spec, "control.unit", 1, 255, _UNITS.get(str(kind), 1))
    limit_ma = config_int(spec, "control.limit_ma", MIN_MA, _MAX_MA.get(str(kind), MAX_MA))
    failsafe_s = config_int(spec, "control.failsafe_s", MIN_FAILSAFE_S, MAX_FAILSAFE_S, 60)
    if "host" in spec:
        own: dict[str, object] = {key: spec[key] for key in ("gap_ms", "timeout_ms") if key in spec}
        try:
            bus = open_bus({"kind": "tcp", "host": spec["host"], "port": spec.get("port", 502), **own})
        except ConfigError as error:
            raise ConfigError(error.message.replace("bus.", "control.")) from error
    if kind == "phoenix-charx":
        return Charx(bus, unit, limit_ma, failsafe_s, config_int(spec, "control.connector", 1, 12, 1))
    return KINDS[str(kind)](bus, unit, limit_ma, failsafe_s)


KINDS: dict[str, type[Charger]] = {"keba": Keba, "abb-terra-ac": AbbTerra, "alfen": Alfen, "phoenix-charx": Charx}
_MAX_MA = {"keba": 63_000}  # what its register takes
_UNITS = {"keba": 255}  # KEBA answers to 255 alone; the others to 1
