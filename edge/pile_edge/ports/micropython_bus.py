"""Modbus on MicroPython: a master on a socket, a UART, or (unix build) a device file set raw beforehand.

`device` "uart:1" is the board's UART 1, with the optional pins `tx_pin`, `rx_pin` and `de_pin` (driver enable of an
RS-485 transceiver without automatic direction) in the same section; any other name is opened as a file.
"""

import select
import socket
from time import sleep_ms, ticks_diff, ticks_ms  # type: ignore[attr-defined]

from pile_edge import modbus
from pile_edge.modbus import Bus, BusSpec
from pile_shared.errors import BusError


class _Link:
    """A stream with a poll: bytes as they come, up to a deadline."""

    def __init__(self, stream) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001 - socket, file or UART
        self.stream = stream
        self.poll = select.poll()
        self.poll.register(stream, select.POLLIN)

    def ready(self, wait_ms: int) -> bool:
        """Whether something can be read within `wait_ms`."""
        return bool(self.poll.poll(wait_ms))

    def take(self, count: int) -> bytes:
        """At least one and at most `count` of the bytes that are there."""
        return self.stream.recv(count)  # type: ignore[no-any-return]

    def send(self, frame: bytes) -> None:
        """Hand over a whole frame."""
        self.stream.sendall(frame)

    def flush(self) -> None:
        """Throw away what arrived since the last answer: it answers nothing that is asked now."""
        for _ in range(modbus.MAX_FRAME_BYTES):
            if not self.ready(0):
                return
            if not self.take(1):
                raise BusError("the other end closed", "closed")

    def close(self) -> None:
        """Give the stream back."""
        self.stream.close()


class _FileLink(_Link):
    def take(self, count: int) -> bytes:  # noqa: ARG002
        # A file's read(n) blocks until it has n bytes or an error; one byte is certain to be there.
        return self.stream.read(1)  # type: ignore[no-any-return]

    def send(self, frame: bytes) -> None:
        self.stream.write(frame)


class _UartLink(_Link):
    def __init__(self, spec: BusSpec) -> None:
        from machine import UART, Pin  # type: ignore[import-not-found]

        options = {"bits": 8, "parity": {"N": None, "E": 0, "O": 1}[spec.parity], "stop": spec.stopbits}
        for key, name in (("tx_pin", "tx"), ("rx_pin", "rx")):
            if key in spec.options:
                options[name] = spec.options[key]
        self.enable = Pin(spec.options["de_pin"], Pin.OUT, value=0) if "de_pin" in spec.options else None
        _Link.__init__(self, UART(int(spec.device[5:]), baudrate=spec.baud, **options))

    def take(self, count: int) -> bytes:  # noqa: ARG002
        return self.stream.read(1) or b""

    def send(self, frame: bytes) -> None:
        if self.enable:
            self.enable.value(1)
        self.stream.write(frame)
        self.stream.flush()  # returns when the last bit has left, and only then may the driver let go of the line
        if self.enable:
            self.enable.value(0)

    def close(self) -> None:
        self.stream.deinit()


def _open_tcp(spec: BusSpec) -> _Link:
    stream = socket.socket()
    try:
        stream.settimeout((spec.paces[0][1] + 999) // 1000)  # for connect; answers are awaited by poll, in ms
        stream.connect(socket.getaddrinfo(spec.host, spec.port)[0][-1])
    except OSError:
        stream.close()
        raise
    return _Link(stream)


class PollBus(Bus):
    """One serial line or TCP gateway, for one task at a time."""

    def __init__(self, spec: BusSpec) -> None:
        self._spec = spec
        self._link = None  # type: _Link | None
        self._transaction = 0
        self._quiet_since = ticks_ms()
        self._quiet_ms = spec.paces[0][0]

    def read(self, unit: int, function: int, address: int, count: int) -> bytes:
        """Registers or coils of a unit, as `modbus.Bus` says; BusError if there is no answer."""
        return self._exchange(unit, modbus.read_request(function, address, count))

    def write_coil(self, unit: int, address: int, on: bool) -> None:
        """Switch a coil and see the unit echo it; BusError otherwise."""
        self._exchange(unit, modbus.write_coil_request(address, on))

    def close(self) -> None:
        """Free the device or connection; the next call opens it again."""
        if self._link is not None:
            self._link.close()
            self._link = None

    def _exchange(self, unit: int, request: bytes) -> bytes:
        gap_ms, timeout_ms, settle_ms = self._spec.paces.get(unit) or self._spec.paces[0]
        quiet_ms = max(gap_ms, self._quiet_ms)
        if quiet_ms:
            quiet_ms += 1  # a tick more: what began within one is counted from its begin
        rest = quiet_ms - ticks_diff(ticks_ms(), self._quiet_since)
        if rest > 0:
            sleep_ms(min(rest, quiet_ms))  # the tick counter wraps: never wait longer than the gap
        self._quiet_ms = 0
        try:
            if self._link is None:
                self._link = self._open()
            self._link.flush()
            return modbus.parse_response(request, self._ask(self._link, unit, request, timeout_ms))
        except OSError as error:
            self.close()
            raise BusError("bus is closed: " + str(error), "closed")
        except BusError as error:
            # A late answer may still come. A new TCP connection cannot deliver it; on a line it is waited for.
            if error.code == "closed" or (self._spec.kind == "tcp" and error.code != "exception"):
                self.close()
            elif error.code != "exception":
                self._quiet_ms = settle_ms
            raise
        finally:
            self._quiet_since = ticks_ms()

    def _open(self) -> _Link:
        if self._spec.kind == "tcp":
            return _open_tcp(self._spec)
        if self._spec.device.startswith("uart:"):
            return _UartLink(self._spec)
        return _FileLink(open(self._spec.device, "r+b"))

    def _ask(self, link: _Link, unit: int, request: bytes, timeout_ms: int) -> bytes:
        if self._spec.kind == "rtu":
            link.send(modbus.rtu_frame(unit, request))
            return modbus.rtu_pdu(unit, self._receive(link, unit, request, timeout_ms))
        self._transaction = self._transaction + 1 & 0xFFFF
        link.send(modbus.tcp_frame(self._transaction, unit, request))
        return modbus.tcp_pdu(self._transaction, unit, self._receive(link, unit, None, timeout_ms))

    def _receive(self, link: _Link, unit: int, request: bytes | None, timeout_ms: int) -> bytes:
        """A whole frame: serial when the request PDU is given, whose answer's length it tells; else TCP."""
        frame = bytearray()
        start = ticks_ms()
        missing = 1
        while missing:
            rest = timeout_ms - ticks_diff(ticks_ms(), start)
            if rest <= 0 or not link.ready(rest):
                if frame:
                    raise BusError("unit " + str(unit) + " broke off after " + str(len(frame)) + " bytes", "frame")
                raise BusError("unit " + str(unit) + " gave no answer", "timeout")
            more = link.take(missing)
            if not more:
                raise BusError("the other end closed", "closed")
            frame.extend(more)
            missing = modbus.rtu_missing_bytes(request, frame) if request else modbus.tcp_missing_bytes(frame)
        return bytes(frame)


def open_bus(spec: dict) -> PollBus:  # type: ignore[type-arg]
    """A bus from the `bus` section of a configuration; ConfigError names what is wrong in it. Connects on first use."""
    return PollBus(BusSpec(spec))
