"""Framing against pymodbus' own framers and against frames printed in vendors' manuals, and fuzzed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymodbus.framer import FramerRTU, FramerSocket
from pymodbus.pdu import DecodePDU

from pile_edge import modbus
from pile_shared.errors import BusError, ConfigError

units = st.integers(1, 247)
reads = st.builds(modbus.read_request, st.sampled_from([3, 4]), st.integers(0, 0xFFFF - 125), st.integers(1, 125))
coil_reads = st.builds(
    modbus.read_request, st.sampled_from([1, 2]), st.integers(0, 0xFFFF - 2000), st.integers(1, 2000)
)
writes = st.builds(modbus.write_coil_request, st.integers(0, 0xFFFF), st.booleans())
requests = st.one_of(reads, coil_reads, writes)


def answer_to(request: bytes, data: bytes) -> bytes:
    return request if request[0] == modbus.WRITE_COIL else bytes((request[0], len(data))) + data


def test_frames_from_the_sdm630_manual():
    request = modbus.rtu_frame(1, modbus.read_request(4, 0, 2))
    assert request == bytes.fromhex("01040000000271cb")
    pdu = modbus.rtu_pdu(1, bytes.fromhex("010404436633341b38"))
    assert modbus.parse_response(modbus.read_request(4, 0, 2), pdu) == bytes.fromhex("43663334")


@given(requests, units, st.integers(0, 0xFFFF))
def test_requests_are_what_pymodbus_understands(request_pdu, unit, transaction):
    serial, tcp = FramerRTU(DecodePDU(True)), FramerSocket(DecodePDU(True))
    used, pdu = serial.handleFrame(modbus.rtu_frame(unit, request_pdu), 0, 0)
    assert pdu is not None
    assert (used, pdu.dev_id) == (len(request_pdu) + 3, unit)
    assert bytes((pdu.function_code,)) + pdu.encode() == request_pdu
    used, pdu = tcp.handleFrame(modbus.tcp_frame(transaction, unit, request_pdu), 0, 0)
    assert pdu is not None
    assert (used, pdu.dev_id, pdu.transaction_id) == (len(request_pdu) + 7, unit, transaction)
    assert bytes((pdu.function_code,)) + pdu.encode() == request_pdu


@given(st.binary(max_size=300))
def test_crc_is_pymodbus_crc(data):
    crc = modbus.crc16(data)
    assert (crc & 255) << 8 | crc >> 8 == FramerRTU.compute_CRC(data)


@given(requests, units, st.integers(0, 0xFFFF), st.data())
def test_answers_round_trip(request_pdu, unit, transaction, data):
    size = modbus.response_bytes(request_pdu) - 2
    payload = data.draw(st.binary(min_size=size, max_size=size))
    response = answer_to(request_pdu, payload)
    expected = b"" if request_pdu[0] == modbus.WRITE_COIL else payload
    serial, tcp = modbus.rtu_frame(unit, response), modbus.tcp_frame(transaction, unit, response)
    assert modbus.parse_response(request_pdu, modbus.rtu_pdu(unit, serial)) == expected
    assert modbus.parse_response(request_pdu, modbus.tcp_pdu(transaction, unit, tcp)) == expected
    for at in range(len(serial)):
        missing = modbus.rtu_missing_bytes(request_pdu, serial[:at])
        assert 0 < missing <= len(serial) - at  # asking for more than will come would be a timeout
    assert modbus.rtu_missing_bytes(request_pdu, serial) == 0
    for at in range(len(tcp)):
        assert 0 < modbus.tcp_missing_bytes(tcp[:at]) <= len(tcp) - at
    assert modbus.tcp_missing_bytes(tcp) == 0


@given(requests, units, st.integers(0, 0xFFFF), st.binary(max_size=300))
def test_any_bytes_are_an_answer_or_a_bus_error(request_pdu, unit, transaction, junk):
    for parse in (
        lambda: modbus.parse_response(request_pdu, junk),
        lambda: modbus.parse_response(request_pdu, modbus.rtu_pdu(unit, junk)),
        lambda: modbus.parse_response(request_pdu, modbus.tcp_pdu(transaction, unit, junk)),
        lambda: modbus.tcp_missing_bytes(junk),
        lambda: modbus.rtu_missing_bytes(request_pdu, junk),
    ):
        code = None
        try:
            parse()
        except BusError as error:
            code = error.code
        assert code in {None, "crc", "frame", "exception"}


@given(reads, units, st.integers(0, 0xFFFF), st.data())
def test_every_flipped_bit_is_noticed(request_pdu, unit, transaction, data):
    size = modbus.response_bytes(request_pdu) - 2
    response = answer_to(request_pdu, data.draw(st.binary(min_size=size, max_size=size)))
    serial = bytearray(modbus.rtu_frame(unit, response))
    bit = data.draw(st.integers(0, 8 * len(serial) - 1))
    serial[bit >> 3] ^= 1 << (bit & 7)
    with pytest.raises(BusError):
        modbus.parse_response(request_pdu, modbus.rtu_pdu(unit, bytes(serial)))
    tcp = bytearray(modbus.tcp_frame(transaction, unit, response))
    bit = data.draw(st.integers(0, 8 * 9 - 1))  # header, function and byte count: TCP's own checksum guards the data
    tcp[bit >> 3] ^= 1 << (bit & 7)
    with pytest.raises(BusError):
        modbus.parse_response(request_pdu, modbus.tcp_pdu(transaction, unit, bytes(tcp)))


@pytest.mark.parametrize(
    ("code", "name"),
    [(1, "illegal function"), (2, "illegal data address"), (6, "server device busy"), (7, "unknown"),
     (8, "memory parity error"), (11, "gateway target device failed to respond"), (0, "unknown"), (255, "unknown")],
)  # fmt: skip
def test_exceptions_are_named(code, name):
    with pytest.raises(BusError) as caught:
        modbus.parse_response(modbus.read_request(3, 0, 2), bytes((0x83, code)))
    assert caught.value.code == "exception"
    assert caught.value.message == f"Modbus exception {code}: {name}"


def test_an_exception_to_another_function_is_no_answer():
    with pytest.raises(BusError) as caught:
        modbus.parse_response(modbus.read_request(3, 0, 2), bytes((0x84, 2)))
    assert caught.value.code == "frame"


def test_a_coil_echo_with_the_other_value_is_no_answer():
    with pytest.raises(BusError) as caught:
        modbus.parse_response(modbus.write_coil_request(7, True), modbus.write_coil_request(7, False))
    assert caught.value.code == "frame"


@pytest.mark.parametrize(
    "build",
    [
        lambda: modbus.read_request(3, 0, 0),
        lambda: modbus.read_request(3, 0, 126),
        lambda: modbus.read_request(3, 0xFFFF, 2),
        lambda: modbus.read_request(6, 0, 1),
        lambda: modbus.read_request(1, 0, 2001),
        lambda: modbus.write_coil_request(0x10000, True),
        lambda: modbus.rtu_frame(0, b"\x03"),
        lambda: modbus.rtu_frame(248, b"\x03"),
        lambda: modbus.tcp_frame(1, 256, b"\x03"),
    ],
)
def test_impossible_requests_are_refused(build):
    with pytest.raises(BusError):
        build()


def test_silence_between_frames():
    assert modbus.silence_us(9600) == 4011  # 3.5 characters of 11 bits
    assert modbus.silence_us(115_200) == 1750


def test_bus_spec_defaults_and_silence():
    spec = modbus.BusSpec({"kind": "rtu", "device": "/dev/ttyUSB0", "baud": 1200})
    assert (spec.parity, spec.stopbits, spec.paces) == ("N", 1, {0: (33, 1000, 33)})
    assert modbus.BusSpec({"kind": "tcp", "host": "meter.example"}).port == 502


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"kind": "udp"}, "bus.kind"),
        ({"device": ""}, "bus.device"),
        ({"device": None}, "bus.device"),
        ({"baud": 0}, "bus.baud"),
        ({"baud": "9600"}, "bus.baud"),
        ({"parity": "X"}, "bus.parity"),
        ({"stopbits": 3}, "bus.stopbits"),
        ({"timeout_ms": 0}, "bus.timeout_ms"),
        ({"timeout_ms": True}, "bus.timeout_ms"),
        ({"gap_ms": -1}, "bus.gap_ms"),
    ],
)
def test_bus_spec_names_the_wrong_key(change, key):
    with pytest.raises(ConfigError, match=key):
        modbus.BusSpec({"kind": "rtu", "device": "/dev/ttyUSB0", **change})
