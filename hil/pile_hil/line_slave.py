"""A unit on a serial line that answers by script, for what real ones do and a Modbus server never would."""

from __future__ import annotations

import threading
import time

import serial  # type: ignore[import-untyped]

from pile_edge import modbus

_REQUEST_BYTES = 8
_READ_SECONDS = 20


def answer(value: int, unit: int = 1) -> bytes:
    """The right answer to a read of two holding registers, with a 32-bit value."""
    return modbus.rtu_frame(unit, bytes((3, 4)) + value.to_bytes(4, "big"))


# What comes instead of the first answer, and the code it should be refused with. The second answer is always 2, at once.
DISTURBANCES: dict[str, tuple[bytes, float, str]] = {
    "crc": (answer(1)[:-1] + bytes([answer(1)[-1] ^ 1]), 0, "crc"),
    "other_unit": (answer(1, unit=7), 0, "frame"),
    "broken_off": (answer(1)[:5], 0, "frame"),
    "noise_first": (b"\x00" + answer(1), 0, "crc"),
    "noise_alone": (bytes(9), 0, "crc"),
    "other_function": (modbus.rtu_frame(1, bytes((4, 4, 0, 0, 0, 1))), 0, "frame"),
    "fewer_registers": (modbus.rtu_frame(1, bytes((3, 2, 0, 1))), 0, "frame"),
    "late": (answer(1), 0.3, "timeout"),  # after the timeout of 0.2 s, before the line has settled
    "late_by_another": (answer(1, unit=7), 0.3, "timeout"),
    "silence": (b"", 0, "timeout"),
}


class LineSlave(threading.Thread):
    """Answers each request with the next (bytes, seconds to wait before) of a script.

    Attributes:
        requests: what came, with the time of the monotonic clock, s.
    """

    def __init__(self, device: str, script: list[tuple[bytes, float]]) -> None:
        super().__init__(daemon=True)
        self._port = serial.Serial(device, timeout=_READ_SECONDS)  # now: opening drops what is there
        self._script = script
        self.requests: list[tuple[bytes, float]] = []
        self.start()

    def run(self) -> None:
        """Serve the script, then close."""
        with self._port as port:
            for data, wait_s in self._script:
                self.requests.append((port.read(_REQUEST_BYTES), time.monotonic()))
                time.sleep(wait_s)  # not to wait for anything: being late is what is tested
                port.write(data)
