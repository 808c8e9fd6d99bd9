"""A contactor's relay on a GPIO line of a Raspberry Pi, through the kernel's character device; CPython only.

`gpiod` 2 (the extra `gpio`; the Python bindings of libgpiod, by its authors) requests the line as an output that is
inactive from the first moment, and keeps it while this process lives. Then the kernel frees it, and what a freed line does
is the driver's choice: see docs/pile.md, which says what to set so that the contactor opens.
"""

import time
from collections.abc import Callable
from typing import Any

from pile_edge.control import ControlError, config_flag
from pile_edge.modbus import config_int, config_text
from pile_shared.errors import BusError, ConfigError

CHIP = "/dev/gpiochip0"  # the pin header of every Raspberry Pi with a kernel of 2024 or later
LAST_LINE = 1023  # far above any chip's
FOLLOW_S = 0.5  # a contactor and its auxiliary contact move in less than 0.1 s
_LOOK_S = 0.02
_BEAT_S = 5.0  # between two looks of `keep`


class GpioContactor:
    """A line that drives the contactor, and optionally one that its auxiliary contact drives.

    With a feedback line `is_energised` is what that contact says, else the level at the output itself.
    """

    unit = 0  # on no bus

    def __init__(self, spec: dict[str, object], clock_s: Callable[[], float] = time.monotonic) -> None:
        """Take the `control` section; ConfigError names a wrong key. Nothing is requested yet."""
        self._chip = config_text(spec, "control.chip", 255) if "chip" in spec else CHIP
        self._pin = config_int(spec, "control.pin", 0, LAST_LINE)
        self._is_low = config_flag(spec, "control.active_low")
        self._feedback = config_int(spec, "control.feedback_pin", 0, LAST_LINE) if "feedback_pin" in spec else None
        self._is_feedback_low = config_flag(spec, "control.feedback_active_low")
        if self._feedback == self._pin:
            raise ConfigError("control.feedback_pin must be another line than control.pin")
        self._clock_s = clock_s
        self._lines: Any = None
        self._is_on = False
        self._looked_s = clock_s()

    def energise(self) -> None:
        """Close the contactor.

        Raises:
            BusError: the line cannot be had, with what to check.
            ControlError: the contactor does not follow; its line is inactive again.
        """
        try:
            self._switch(True)
        except ControlError:
            self._set(False)
            raise

    def de_energise(self) -> None:
        """Open the contactor. BusError as `energise`; ControlError: it stays closed."""
        self._switch(False)

    def is_energised(self) -> bool:
        """Whether current can flow, by the auxiliary contact or, without one, the level at the pin; BusError as `energise`."""
        return self._look(self._pin if self._feedback is None else self._feedback)

    def keep(self) -> None:
        """Every few seconds, see that the contactor is as commanded. ControlError: it fell, or somebody closed it."""
        now_s = self._clock_s()
        if now_s - self._looked_s < _BEAT_S:
            return
        self._looked_s = now_s
        self._check(self._is_on)

    def close(self) -> None:
        """Free the lines."""
        if self._lines is not None:
            self._lines.release()
            self._lines = None

    def _switch(self, is_on: bool) -> None:
        self._set(is_on)
        give_up_s = self._clock_s() + FOLLOW_S
        while self._feedback is not None and self.is_energised() is not is_on and self._clock_s() < give_up_s:
            time.sleep(_LOOK_S)
        self._check(is_on)

    def _check(self, is_on: bool) -> None:
        if self.is_energised() is is_on:
            return
        if self._feedback is None:
            raise ControlError(
                f"line {self._pin} stays {'off' if is_on else 'on'}: something else drives it; check the wiring"
            )
        advice = "is its coil wired and powered?" if is_on else "its contacts may be welded: switch the supply off"
        raise ControlError(f"the contactor stays {'open' if is_on else 'closed'} by line {self._feedback}: {advice}")

    def _set(self, is_on: bool) -> None:
        value = _library().line.Value
        self._is_on = is_on
        self._do(lambda lines: lines.set_value(self._pin, value.ACTIVE if is_on else value.INACTIVE))

    def _look(self, line: int) -> bool:
        value = self._do(lambda lines: lines.get_value(line))
        return bool(value.value)

    def _do(self, action: Callable[[Any], Any]) -> Any:
        try:
            if self._lines is None:
                self._lines = self._request()
            return action(self._lines)
        except OSError as error:
            self.close()
            advice = (
                "is it the right chip (`gpiodetect`), may this user open it (group gpio), does another program have the"
                " line (`gpioinfo`)?"
            )
            raise BusError(
                f"line {self._pin} of {self._chip}: {error.strerror or error}: {advice}", "closed"
            ) from error

    def _request(self) -> Any:
        gpiod = _library()
        direction, value = gpiod.line.Direction, gpiod.line.Value
        config = {
            self._pin: gpiod.LineSettings(
                direction=direction.OUTPUT, active_low=self._is_low, output_value=value.INACTIVE
            )
        }
        if self._feedback is not None:
            config[self._feedback] = gpiod.LineSettings(direction=direction.INPUT, active_low=self._is_feedback_low)
        return gpiod.request_lines(self._chip, consumer="pile-edge", config=config)


def _library() -> Any:
    try:
        import gpiod
    except ImportError as error:
        raise ConfigError('control.kind "gpio" needs the library gpiod: pip install "pilechain[gpio]"') from error
    return gpiod
