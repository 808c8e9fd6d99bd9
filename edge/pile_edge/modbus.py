"""Modbus framing, pure, for both interpreters: bytes of a request, and what a response to exactly that request carries.

RTU: Modbus over Serial Line V1.02, sections 2.5.1 (frame, t3.5) and 6.2 (CRC-16). TCP: Modbus Messaging on TCP/IP
V1.0b, section 3.1.3 (MBAP header). PDUs: Modbus Application Protocol V1.1b3, sections 6.1 to 6.6, 6.12 and 7 (exceptions).
A response counts only if unit, function, byte count and, on TCP, transaction match the request; else BusError `crc`,
`frame` or `exception`.
"""

from pile_shared.errors import BusError, ConfigError

READ_COILS = 1
READ_DISCRETE = 2
READ_HOLDING = 3
READ_INPUT = 4
WRITE_COIL = 5
WRITE_REGISTER = 6
WRITE_REGISTERS = 16

MAX_REGISTERS = 125  # Application Protocol V1.1b3, section 6.3: what fits a 253-byte PDU
MAX_FRAME_BYTES = 260  # the longest ADU, on TCP; a longer answer is refused unread
RTU_OVERHEAD_BYTES = 3  # unit, CRC
TCP_HEADER_BYTES = 7
EXCEPTION_PDU_BYTES = 2

# By exception code from 1 (Application Protocol V1.1b3, section 7); one string, as a board's heap counts every object.
_EXCEPTIONS = (
    "illegal function|illegal data address|illegal data value|server device failure|acknowledge|server device busy"
    "||memory parity error||gateway path unavailable|gateway target device failed to respond"
)


def crc16(data: bytes) -> int:
    """The CRC of Modbus over Serial Line V1.02 section 6.2.2; its low byte is sent first."""
    crc = 0xFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ 0xA001 if crc & 1 else crc >> 1
    return crc


def silence_us(baud: int) -> int:
    """The silence t3.5 between RTU frames: 3.5 characters of 11 bits; 1750 us above 19200 baud (section 2.5.1.1)."""
    return 1750 if baud > 19200 else 38_500_000 // baud + 1


def read_request(function: int, address: int, count: int) -> bytes:
    """The PDU that reads `count` registers (functions 3, 4; 1..125) or coils (functions 1, 2; 1..2000)."""
    if not READ_COILS <= function <= READ_INPUT or not 0 <= address <= 0xFFFF:
        raise BusError("cannot read function " + str(function) + " address " + str(address), "frame")
    most = MAX_REGISTERS if function >= READ_HOLDING else 16 * MAX_REGISTERS
    if not 1 <= count <= most or address + count > 0x10000:
        raise BusError("cannot read " + str(count) + " values in one request", "frame")
    return bytes((function, address >> 8, address & 255, count >> 8, count & 255))


def write_coil_request(address: int, on: bool) -> bytes:
    """The PDU that switches one coil (function 5)."""
    if not 0 <= address <= 0xFFFF:
        raise BusError("no coil " + str(address), "frame")
    return bytes((WRITE_COIL, address >> 8, address & 255, 0xFF if on else 0, 0))


def write_registers_request(function: int, address: int, data: bytes) -> bytes:
    """The PDU that writes one holding register (function 6) or up to 123 (function 16): `data`, big-endian."""
    count = len(data) // 2
    most = 1 if function == WRITE_REGISTER else 123
    if len(data) % 2 or not 1 <= count <= most or not 0 <= address <= 0x10000 - count:
        raise BusError("cannot write " + str(len(data)) + " bytes to register " + str(address), "frame")
    head = bytes((function, address >> 8, address & 255))
    return head + data if function == WRITE_REGISTER else head + bytes((0, count, 2 * count)) + data


def response_bytes(request: bytes) -> int:
    """The length of the PDU that answers a request PDU, when it is not an exception (which has 2 bytes)."""
    if request[0] >= WRITE_COIL:
        return 5
    return 2 + _data_bytes(request)


def _data_bytes(request: bytes) -> int:
    count = request[3] << 8 | request[4]
    return 2 * count if request[0] >= READ_HOLDING else (count + 7) // 8


def parse_response(request: bytes, response: bytes) -> bytes:
    """The register or coil bytes in the PDU that answers `request`; for something written, nothing.

    Raises:
        BusError: `exception` with its name when the unit refused, `frame` when this does not answer the request.
    """
    if len(response) == EXCEPTION_PDU_BYTES and response[0] == request[0] | 0x80:
        names = _EXCEPTIONS.split("|")
        name = names[response[1] - 1] if 1 <= response[1] <= len(names) else ""
        raise BusError("Modbus exception " + str(response[1]) + ": " + (name or "unknown"), "exception")
    if len(response) != response_bytes(request) or response[0] != request[0]:
        raise BusError("response does not answer the request", "frame")
    if request[0] >= WRITE_COIL:
        if response != request[:5]:  # of several registers, address and count
            raise BusError("unit echoed another address or value", "frame")
        return b""
    if response[1] != len(response) - 2:
        raise BusError("byte count " + str(response[1]) + " in a response of " + str(len(response)), "frame")
    return bytes(response[2:])


def rtu_frame(unit: int, pdu: bytes) -> bytes:
    """A PDU addressed to a unit (1..247) on a serial line."""
    if not 1 <= unit <= 247:
        raise BusError("no unit " + str(unit) + " on a serial line", "frame")
    body = bytes((unit,)) + pdu
    crc = crc16(body)
    return body + bytes((crc & 255, crc >> 8))


def rtu_pdu(unit: int, frame: bytes) -> bytes:
    """The PDU in a frame from `unit`; BusError `crc` or `frame` otherwise."""
    if not EXCEPTION_PDU_BYTES + RTU_OVERHEAD_BYTES <= len(frame) <= MAX_FRAME_BYTES:
        raise BusError("serial frame of " + str(len(frame)) + " bytes", "frame")
    if crc16(frame[:-2]) != frame[-1] << 8 | frame[-2]:
        raise BusError("CRC does not match", "crc")
    if frame[0] != unit:
        raise BusError("unit " + str(frame[0]) + " answered for unit " + str(unit), "frame")
    return bytes(frame[1:-2])


def rtu_missing_bytes(request: bytes, received: bytes | bytearray) -> int:
    """How many more bytes a serial answer to a request PDU needs before it can be complete; 0 when it has them."""
    if len(received) < 2:
        return EXCEPTION_PDU_BYTES + RTU_OVERHEAD_BYTES - len(received)
    pdu = EXCEPTION_PDU_BYTES if received[1] & 0x80 else response_bytes(request)
    return max(0, pdu + RTU_OVERHEAD_BYTES - len(received))


def tcp_frame(transaction: int, unit: int, pdu: bytes) -> bytes:
    """A PDU addressed to a unit (0..255) behind a TCP connection."""
    if not 0 <= unit <= 255:
        raise BusError("no unit " + str(unit), "frame")
    length = len(pdu) + 1
    return bytes((transaction >> 8 & 255, transaction & 255, 0, 0, length >> 8, length & 255, unit)) + pdu


def tcp_missing_bytes(received: bytes | bytearray) -> int:
    """How many more bytes a TCP answer needs; 0 when complete. BusError `frame` if it cannot become one."""
    if len(received) < TCP_HEADER_BYTES:
        return TCP_HEADER_BYTES - len(received)
    length = 6 + (received[4] << 8 | received[5])
    if not TCP_HEADER_BYTES + EXCEPTION_PDU_BYTES <= length <= MAX_FRAME_BYTES:
        raise BusError("TCP frame of " + str(length) + " bytes", "frame")
    return max(0, length - len(received))


def tcp_pdu(transaction: int, unit: int, frame: bytes) -> bytes:
    """The PDU in a frame that answers `transaction` of `unit`; BusError `frame` otherwise."""
    if len(frame) < TCP_HEADER_BYTES or tcp_missing_bytes(frame) or len(frame) != 6 + (frame[4] << 8 | frame[5]):
        raise BusError("TCP frame of " + str(len(frame)) + " bytes", "frame")
    if frame[0] << 8 | frame[1] != transaction & 0xFFFF or frame[2] or frame[3]:
        raise BusError("answer to another transaction or protocol", "frame")
    if frame[6] != unit:
        raise BusError("unit " + str(frame[6]) + " answered for unit " + str(unit), "frame")
    return bytes(frame[TCP_HEADER_BYTES:])


class Bus:
    """A serial line or TCP gateway; `ports/cpython_bus.py` and `ports/micropython_bus.py` each have one.

    One exchange at a time, never sooner after the last than the gap of the unit that is asked. One that fails raises
    BusError (`timeout`, `crc`, `frame`, `exception`, `closed`, and on CPython `busy`) and is not repeated: how often to
    retry is for the caller to bound. A connection that broke is opened again by the next call.
    """

    def read(self, unit: int, function: int, address: int, count: int) -> bytes:
        """Registers (functions 3, 4): 2 * count bytes, big-endian. Coils (1, 2): ceil(count / 8), first in bit 0."""
        raise NotImplementedError

    def write_coil(self, unit: int, address: int, on: bool) -> None:
        """Switch one coil (function 5); returns once the unit has echoed the command."""
        raise NotImplementedError

    def write_register(self, unit: int, address: int, value: int) -> None:
        """Write one holding register, 0 to 65535 (function 6); returns once the unit has echoed it. CPython only."""
        raise NotImplementedError

    def write_registers(self, unit: int, address: int, data: bytes) -> None:
        """Write holding registers, 2 bytes each (function 16); returns once the unit has confirmed. CPython only."""
        raise NotImplementedError

    def close(self) -> None:
        """Free the device or connection; the next call opens it again."""
        raise NotImplementedError


class BusSpec:
    """A checked description of a bus; which fields matter depends on `kind`.

    `kind` "tcp" has `host`, `port`; "rtu" has `device`, `baud`, `parity`, `stopbits`. `paces[0]` is (gap, timeout, settle)
    in ms, of the keys `gap_ms`, the silence before a question (default 0; on RTU at least t3.5), `timeout_ms` for an answer
    to arrive (default 1000), and `settle_ms` (default the gap): on RTU, where nothing tells which request an answer is
    for, the silence after an exchange that failed. An answer that comes in it is thrown away, not taken for that of the
    next request. `paces` also has those of the units that need their own, by unit; `config` fills it.
    """

    def __init__(self, spec: dict) -> None:  # type: ignore[type-arg]
        """Take the `bus` section of a configuration; ConfigError names the key that is wrong."""
        self.kind = spec.get("kind")
        gap_ms = config_int(spec, "bus.gap_ms", 0, 10_000, 0)
        if self.kind == "tcp":
            self.host = config_text(spec, "bus.host", 255)
            self.port = config_int(spec, "bus.port", 1, 65_535, 502)
        elif self.kind == "rtu":
            self.options = spec
            self.device = config_text(spec, "bus.device", 255)
            self.baud = config_int(spec, "bus.baud", 300, 1_000_000, 9600)
            self.stopbits = config_int(spec, "bus.stopbits", 1, 2, 1)
            self.parity = spec.get("parity", "N")
            if self.parity not in ("N", "E", "O"):
                raise ConfigError('bus.parity must be "N", "E" or "O"')
            gap_ms = max(gap_ms, (silence_us(self.baud) + 999) // 1000)
        else:
            raise ConfigError('bus.kind must be "tcp" or "rtu"')
        timeout_ms = config_int(spec, "bus.timeout_ms", 10, 60_000, 1000)
        self.paces = {0: (gap_ms, timeout_ms, config_int(spec, "bus.settle_ms", 0, 60_000, gap_ms))}
        self.paces.update(spec.get("paces", {}))


def config_int(mapping: dict, path: str, low: int, high: int, default: int | None = None) -> int:  # type: ignore[type-arg]
    """The integer in [low, high] at the last part of `path`, or the default if it is absent; ConfigError otherwise."""
    value = mapping.get(path.rsplit(".", 1)[-1], default)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ConfigError(path + " must be an integer from " + str(low) + " to " + str(high))
    return value


def config_text(mapping: dict, path: str, high: int) -> str:  # type: ignore[type-arg]
    """The text of 1 to `high` characters at the last part of `path`; ConfigError otherwise."""
    value = mapping.get(path.rsplit(".", 1)[-1])
    if not isinstance(value, str) or not 1 <= len(value) <= high:
        raise ConfigError(path + " must be text of 1 to " + str(high) + " characters")
    return value
