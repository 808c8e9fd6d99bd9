"""Modbus on CPython: pymodbus' synchronous clients behind the bus interface of `pile_edge.modbus`."""

import logging
import struct
import threading

from pymodbus.client import ModbusSerialClient, ModbusTcpClient
from pymodbus.exceptions import ConnectionException, ModbusException
from pymodbus.pdu import ModbusPDU

from pile_edge import modbus
from pile_edge.modbus import Bus, BusSpec
from pile_edge.ports.cpython_line import OwnLine, SharedLine
from pile_shared.errors import BusError

# A failed exchange is raised as BusError and counted by the agent; pymodbus' own lines would say it twice on stderr.
logging.getLogger("pymodbus.logging").addHandler(logging.NullHandler())


class SharedSerialClient(ModbusSerialClient):
    """A serial device that others may open too: `SharedLine` says whose turn it is, not pyserial's exclusive mode.

    pymodbus opens exclusively, so a program that keeps the device for itself is noticed; then the claim is let go.
    """

    def connect(self) -> bool:
        """Open the device unless it is open."""
        is_open = self.socket is not None
        if super().connect() and not is_open:
            assert self.socket is not None
            self.socket.exclusive = False
        return self.socket is not None


class PymodbusBus(Bus):
    """One serial line or TCP gateway. Threads may share it, and processes a line: exchanges take turns."""

    def __init__(self, spec: BusSpec) -> None:
        self._spec = spec
        self._lock = threading.Lock()
        self._client = None  # type: ModbusTcpClient | SharedSerialClient | None
        self._line = None  # type: OwnLine | SharedLine | None
        self._received = b""

    def read(self, unit: int, function: int, address: int, count: int) -> bytes:
        """Registers or coils of a unit, as `modbus.Bus` says; BusError if there is no answer."""
        request = modbus.read_request(function, address, count)
        return self._exchange(unit, request)

    def write_coil(self, unit: int, address: int, on: bool) -> None:
        """Switch a coil and see the unit echo it; BusError otherwise."""
        self._exchange(unit, modbus.write_coil_request(address, on))

    def write_register(self, unit: int, address: int, value: int) -> None:
        """Write one holding register (function 6); BusError unless the unit echoes it."""
        data = value.to_bytes(2, "big")
        self._exchange(unit, modbus.write_registers_request(modbus.WRITE_REGISTER, address, data))

    def write_registers(self, unit: int, address: int, data: bytes) -> None:
        """Write holding registers (function 16); BusError unless the unit confirms."""
        self._exchange(unit, modbus.write_registers_request(modbus.WRITE_REGISTERS, address, data))

    def close(self) -> None:
        """Free the device or connection; the next call opens it again."""
        with self._lock:
            self._drop()

    def _exchange(self, unit: int, request: bytes) -> bytes:
        gap_ms, timeout_ms, settle_ms = self._spec.paces.get(unit) or self._spec.paces[0]
        with self._lock:
            line = self._join_line()
            if line.begin(gap_ms, timeout_ms + settle_ms):
                self._drop_client()  # opened anew, it sets the device as this bus needs it
            self._received = b""
            quiet_ms = settle_ms
            try:
                response = self._answer(unit, request, self._ask(unit, request, timeout_ms), timeout_ms)
                quiet_ms = 0
                return response
            except BusError as error:
                # A late answer may still come. A new TCP connection cannot deliver it; on a line it is waited for.
                if error.code == "exception":
                    quiet_ms = 0
                elif error.code == "closed" or self._spec.kind == "tcp":
                    self._drop_client()
                    quiet_ms = 0
                raise
            finally:
                line.end(quiet_ms)
                if self._client is None and self._spec.kind == "rtu":
                    self._drop()  # a device that is plugged in again may have another name

    def _ask(self, unit: int, request: bytes, timeout_ms: int) -> ModbusPDU | None:
        client = self._open(timeout_ms)
        address, value = request[1] << 8 | request[2], request[3] << 8 | request[4]
        try:
            if request[0] == modbus.WRITE_COIL:
                return client.write_coil(address, bool(value), device_id=unit)
            if request[0] == modbus.WRITE_REGISTER:
                return client.write_register(address, value, device_id=unit)
            if request[0] == modbus.WRITE_REGISTERS:
                words = [word for (word,) in struct.iter_unpack(">H", request[6:])]
                return client.write_registers(address, words, device_id=unit)
            ask = {
                modbus.READ_COILS: client.read_coils,
                modbus.READ_DISCRETE: client.read_discrete_inputs,
                modbus.READ_HOLDING: client.read_holding_registers,
                modbus.READ_INPUT: client.read_input_registers,
            }[request[0]]
            return ask(address, count=value, device_id=unit)
        except (ConnectionException, OSError) as error:
            raise BusError(f"bus is closed: {error}", "closed") from error
        except ModbusException:
            return None

    def _answer(self, unit: int, request: bytes, response: ModbusPDU | None, timeout_ms: int) -> bytes:
        if response is None:
            self._explain(unit, request, timeout_ms)
        assert response is not None  # _explain always raises
        return modbus.parse_response(request, bytes((response.function_code,)) + response.encode())

    def _explain(self, unit: int, request: bytes, timeout_ms: int) -> None:
        """Raise why pymodbus, which reports every failure as "no response", took none of what was received."""
        frame = self._received
        if not frame:
            raise BusError(f"unit {unit} gave no answer in {timeout_ms} ms", "timeout")
        if self._spec.kind == "rtu":
            if modbus.rtu_missing_bytes(request, frame):
                raise BusError(f"unit {unit} broke off after {len(frame)} bytes", "frame")
            modbus.rtu_pdu(unit, frame[: _rtu_length(request, frame)])
        raise BusError(f"unit {unit} answered {len(frame)} bytes that are no response", "frame")

    def _join_line(self) -> OwnLine | SharedLine:
        if self._line is None:
            spec = self._spec
            is_shared = spec.kind == "rtu"
            self._line = SharedLine(spec.device, f"{spec.baud}{spec.parity}{spec.stopbits}") if is_shared else OwnLine()
        return self._line

    def _open(self, timeout_ms: int) -> ModbusTcpClient | SharedSerialClient:
        if self._client is None:
            client = self._build(timeout_ms / 1000)
            if not client.connect():
                spec = self._spec
                where = f"{spec.host}:{spec.port}" if spec.kind == "tcp" else spec.device
                raise BusError(f"cannot open {where}", "closed")
            self._client = client
        for parameters in (self._client.comm_params, self._client.transaction.comm_params):
            parameters.timeout_connect = timeout_ms / 1000
        return self._client

    def _build(self, timeout_s: float) -> ModbusTcpClient | SharedSerialClient:
        spec = self._spec
        if spec.kind == "tcp":
            return ModbusTcpClient(
                spec.host, port=spec.port, timeout=timeout_s, retries=0, trace_packet=self._remember_packet
            )
        return SharedSerialClient(
            spec.device,
            baudrate=spec.baud,
            parity=spec.parity,
            stopbits=spec.stopbits,
            timeout=timeout_s,
            retries=0,
            trace_packet=self._remember_packet,
        )

    def _remember_packet(self, sending: bool, data: bytes) -> bytes:
        if not sending:
            self._received = data
        return data

    def _drop(self) -> None:
        self._drop_client()
        if self._line is not None:
            self._line.close()
            self._line = None

    def _drop_client(self) -> None:
        if self._client is not None:
            self._client.close()  # type: ignore[no-untyped-call]
            self._client = None


def _rtu_length(request: bytes, frame: bytes) -> int:
    pdu = modbus.EXCEPTION_PDU_BYTES if frame[1] & 0x80 else modbus.response_bytes(request)
    return pdu + modbus.RTU_OVERHEAD_BYTES


def open_bus(spec: dict[str, object]) -> PymodbusBus:
    """A bus from the `bus` section of a configuration; ConfigError names what is wrong in it. Connects on first use."""
    return PymodbusBus(BusSpec(spec))
