"""What lets current flow, or stops it: contactor drivers behind one small interface, for both interpreters.

A control has `energise()`, `de_energise()` (both may be repeated at will), `is_energised()`, which asks the hardware, not
a memory of what was last commanded, and `keep()`, which on CPython the agent calls in every step: what needs a heartbeat
stops by itself when the agent does. `unit` is its address on the meter's bus, 0 if it is not there. Charging stations,
on CPython, are in `chargers`, lines of a Raspberry Pi in `ports.cpython_gpio`. A relay alone is no safe EVSE:
proximity, residual current and pilot signal are the charging station's business; this switches its contactor.
"""

from pile_edge.modbus import READ_COILS, Bus, config_int
from pile_shared.errors import BusError, ConfigError
from pile_shared.platform import MICROPYTHON


class ControlError(BusError):
    """A contactor that answers but does not do what it is told."""

    code = "control"


class CoilContactor:
    """A contactor behind one Modbus coil: 1 energises it, and power flows."""

    def __init__(self, bus: Bus, unit: int, coil: int, attempts: int = 3) -> None:
        """Use `coil` (0-based) of `unit` on `bus`, with at most `attempts` tries for each command."""
        self._bus = bus
        self.unit = unit
        self._coil = coil
        self._attempts = attempts

    def energise(self) -> None:
        """Close the contactor. BusError if the relay gave no answer, ControlError if its coil stays off."""
        self._retry(True)

    def de_energise(self) -> None:
        """Open the contactor. BusError if the relay gave no answer, ControlError if its coil stays on."""
        self._retry(False)

    def is_energised(self) -> bool:
        """What the coil is now, read from the relay; BusError if it gave no answer."""
        return self._retry(None)

    def keep(self) -> None:
        """A coil needs no heartbeat, and has none: it stays as it is when the agent dies."""

    def _retry(self, command: bool | None) -> bool:
        """The coil's state, after the command if there is one."""
        failure = None
        for _ in range(self._attempts):
            try:
                if command is not None:
                    self._bus.write_coil(self.unit, self._coil, command)
                return self._state(command)
            except BusError as error:
                failure = error
        assert failure is not None
        raise failure

    def _state(self, expected: bool | None) -> bool:
        state = bool(self._bus.read(self.unit, READ_COILS, self._coil, 1)[0] & 1)
        if expected is not None and state != expected:
            raise ControlError("coil " + str(self._coil) + " stays " + ("on" if state else "off"))
        return state


class PinContactor:
    """A contactor's relay on a pin of a board, which becomes an output, open, when it is first used.

    A board that starts anew, by power or by its watchdog, has all pins as inputs: a resistor must open the relay then.
    """

    unit = 0

    def __init__(self, number: int, is_low: bool) -> None:
        """Use pin `number`; with `is_low` the relay closes the contactor when the pin is low."""
        self._number = number
        self._is_low = is_low
        self._pin = None

    def energise(self) -> None:
        """Close the contactor. ControlError if the pin does not follow: something else drives it."""
        self._switch(True)

    def de_energise(self) -> None:
        """Open the contactor. ControlError as `energise`."""
        self._switch(False)

    def is_energised(self) -> bool:
        """By the level at the pin (an output of a board can be read), whatever was commanded."""
        return bool(self._use().value()) != self._is_low  # type: ignore[no-untyped-call]

    def _switch(self, is_on: bool) -> None:
        self._use().value(is_on != self._is_low)  # type: ignore[no-untyped-call]
        if self.is_energised() != is_on:
            raise ControlError("pin " + str(self._number) + " stays " + ("off" if is_on else "on"))

    def _use(self):  # type: ignore[no-untyped-def] # noqa: ANN202 - machine.Pin
        if self._pin is None:
            from machine import Pin  # type: ignore[import-not-found]

            self._pin = Pin(self._number, Pin.OUT, value=self._is_low)
        return self._pin


def open_control(spec: dict, bus: Bus):  # type: ignore[type-arg, no-untyped-def] # noqa: ANN201 - or a Charger
    """The control in the `control` section of a configuration, which uses nothing yet.

    {"kind": "coil", "unit": 2, "coil": 0} or {"kind": "gpio", "pin": 17, "active_low": False}; on CPython also a station.

    Raises:
        ConfigError: the section names a wrong value, or a kind that is not supported.
    """
    if spec.get("kind") == "coil":
        return CoilContactor(bus, config_int(spec, "control.unit", 1, 255), config_int(spec, "control.coil", 0, 65_535))
    if not MICROPYTHON:
        if spec.get("kind") == "gpio":
            from pile_edge.ports.cpython_gpio import GpioContactor

            return GpioContactor(spec)
        from pile_edge.chargers import open_charger

        return open_charger(spec, bus)
    if spec.get("kind") != "gpio":
        raise ConfigError('control.kind must be "coil" or "gpio"')
    return PinContactor(config_int(spec, "control.pin", 0, 255), config_flag(spec, "control.active_low"))


def config_flag(mapping: dict, path: str) -> bool:  # type: ignore[type-arg]
    """True or false at the last part of `path`, false if it is absent; ConfigError otherwise."""
    value = mapping.get(path.rsplit(".", 1)[-1], False)
    if not isinstance(value, bool):
        raise ConfigError(path + " must be true or false")
    return value
