"""Modbus on CPython: pymodbus' synchronous clients behind the bus interface of `pile_edge.modbus`."""

import logging
import struct
import threading
import time

from pymodbus.client import ModbusSerialClient, ModbusTcpClient
from pymodbus.exceptions import ConnectionException, ModbusException
from pymodbus.pdu import ModbusPDU

from pile_edge import modbus
from pile_edge.modbus import Bus, BusSpec
from pile_shared.errors import BusError

# A failed exchange is raised as BusError and counted by the agent; pymodbus' own lines would say it twice on stderr.
logging.getLogger("pymodbus.logging").addHandler(logging.NullHandler())


class PymodbusBus(Bus):
    """One serial line or TCP gateway. Threads may share it: exchanges queue on its lock."""

    def __init__(self, spec: BusSpec) -> None:
        self._spec = spec
        self._lock = threading.Lock()
        self._client = None  # type: ModbusTcpClient | ModbusSerialClient | None
        self._received = b""
        self._quiet_since = 0.0
        self._quiet_ms = spec.gap_ms

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
        with self._lock:
            self._wait_for_gap()
            self._received = b""
            self._quiet_ms = self._spec.gap_ms
            try:
                return self._answer(unit, request, self._ask(unit, request))
            except BusError as error:
                # A late answer may still come. A new TCP connection cannot deliver it; on a line it is waited for.
                if error.code == "closed" or (self._spec.kind == "tcp" and error.code != "exception"):
                    self._drop()
                elif error.code != "exception":
                    self._quiet_ms = self._spec.settle_ms
                raise
            finally:
                self._quiet_since = time.monotonic()

    def _ask(self, unit: int, request: bytes) -> ModbusPDU | None:
        client = self._open()
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

    def _answer(self, unit: int, request: bytes, response: ModbusPDU | None) -> bytes:
        if response is None:
            self._explain(unit, request)
        assert response is not None  # _explain always raises
        return modbus.parse_response(request, bytes((response.function_code,)) + response.encode())

    def _explain(self, unit: int, request: bytes) -> None:
        """Raise why pymodbus, which reports every failure as "no response", took none of what was received."""
        frame = self._received
        if not frame:
            raise BusError(f"unit {unit} gave no answer in {self._spec.timeout_ms} ms", "timeout")
        if self._spec.kind == "rtu":
            if modbus.rtu_missing_bytes(request, frame):
                raise BusError(f"unit {unit} broke off after {len(frame)} bytes", "frame")
            modbus.rtu_pdu(unit, frame[: _rtu_length(request, frame)])
        raise BusError(f"unit {unit} answered {len(frame)} bytes that are no response", "frame")

    def _wait_for_gap(self) -> None:
        rest = self._quiet_since + self._quiet_ms / 1000 - time.monotonic()
        if self._quiet_since and rest > 0:
            time.sleep(rest)

    def _open(self) -> ModbusTcpClient | ModbusSerialClient:
        if self._client is None:
            client = self._build()
            if not client.connect():
                spec = self._spec
                where = f"{spec.host}:{spec.port}" if spec.kind == "tcp" else spec.device
                raise BusError(f"cannot open {where}", "closed")
            self._client = client
        return self._client

    def _build(self) -> ModbusTcpClient | ModbusSerialClient:
        spec, timeout = self._spec, self._spec.timeout_ms / 1000
        if spec.kind == "tcp":
            return ModbusTcpClient(
                spec.host, port=spec.port, timeout=timeout, retries=0, trace_packet=self._remember_packet
            )
        return ModbusSerialClient(
            spec.device,
            baudrate=spec.baud,
            parity=spec.parity,
            stopbits=spec.stopbits,
            timeout=timeout,
            retries=0,
            trace_packet=self._remember_packet,
        )

    def _remember_packet(self, sending: bool, data: bytes) -> bytes:
        if not sending:
            self._received = data
        return data

    def _drop(self) -> None:
        if self._client is not None:
            self._client.close()  # type: ignore[no-untyped-call]
            self._client = None


def _rtu_length(request: bytes, frame: bytes) -> int:
    pdu = modbus.EXCEPTION_PDU_BYTES if frame[1] & 0x80 else modbus.response_bytes(request)
    return pdu + modbus.RTU_OVERHEAD_BYTES


def open_bus(spec: dict[str, object]) -> PymodbusBus:
    """A bus from the `bus` section of a configuration; ConfigError names what is wrong in it. Connects on first use."""
    return PymodbusBus(BusSpec(spec))
