"""A serial line without hardware: two pseudo-terminals in raw mode and a pump that joins them."""

from __future__ import annotations

import os
import select
import termios
import threading
import tty
from typing import Self

_BAUDS = {getattr(termios, name): int(name[1:]) for name in dir(termios) if name[:1] == "B" and name[1:].isdigit()}
_CHUNK_BYTES = 4096  # far above a Modbus frame of 256 bytes; a pty holds no more


class PtyBus:
    """Two device paths; what is written to one is read from the other, byte for byte, at once.

    The paths stay open here as long as the bus is: raw mode is a property of the terminal, so a program that only opens
    and reads its path (MicroPython's unix port has no termios) finds it raw.

    A pty moves bytes at any speed, but it remembers the speed that was set: `master_baud` tells it, so that a simulated
    unit can be deaf at another. Parity it does not remember; every setting reads back as 8N.
    """

    def __init__(self) -> None:
        self._masters = []
        self._slaves = []
        for _ in range(2):
            master, slave = os.openpty()
            tty.setraw(slave)
            os.set_blocking(master, False)
            self._masters.append(master)
            self._slaves.append(slave)
        self.server_device, self.master_device = (os.ttyname(slave) for slave in self._slaves)
        self._wake_out, self._wake_in = os.pipe()
        self._pump = threading.Thread(target=self._run, name="pty-bus", daemon=True)
        self._pump.start()

    def master_baud(self) -> int:
        """The speed that the program on `master_device` has set, in bits per second."""
        return _BAUDS[termios.tcgetattr(self._slaves[1])[5]]

    def close(self) -> None:
        """Stop the pump and remove both devices."""
        os.write(self._wake_in, b"x")
        self._pump.join()
        for descriptor in (*self._masters, *self._slaves, self._wake_out, self._wake_in):
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def _run(self) -> None:
        other = dict(zip(self._masters, reversed(self._masters), strict=True))
        while True:
            ready, _, _ = select.select([*self._masters, self._wake_out], [], [])
            if self._wake_out in ready:
                return
            for master in ready:
                self._forward(os.read(master, _CHUNK_BYTES), other[master])

    @staticmethod
    def _forward(data: bytes, master: int) -> None:
        try:
            os.write(master, data)
        except BlockingIOError:
            # Nobody reads the far end and its buffer is full. A line does not wait either: the bytes are gone.
            return
