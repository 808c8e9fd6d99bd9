"""What a meter, or whoever sits on its line, answers."""

import logging
from collections.abc import Callable, Iterator

from pymodbus.framer import FramerRTU, FramerSocket
from pymodbus.pdu import DecodePDU

from fuzz.target import attempt, target
from pile_edge import modbus
from pile_edge.meters import catalogue
from pile_edge.meters.decode import Profile, decode, load_profile, requests
from pile_shared.units import MAX_ENERGY_WH, MAX_POWER_W

logging.getLogger("pymodbus").disabled = True
MAX_ANSWER_BYTES = 300
UNIT, TRANSACTION = 7, 0x1234
# The first byte of an input chooses the question, the rest is what came back.
QUESTIONS = [
    modbus.read_request(modbus.READ_INPUT, 0, 2),
    modbus.read_request(modbus.READ_HOLDING, 0x5000, 4),
    modbus.read_request(modbus.READ_HOLDING, 1, modbus.MAX_REGISTERS),
    modbus.read_request(modbus.READ_COILS, 9, 11),
    modbus.read_request(modbus.READ_DISCRETE, 0, 2000),
    modbus.write_coil_request(3, on=True),
    modbus.write_registers_request(modbus.WRITE_REGISTER, 5, b"\x01\x02"),
    modbus.write_registers_request(modbus.WRITE_REGISTERS, 5, bytes(8)),
]


def question(data: bytes) -> tuple[bytes, bytes]:
    return QUESTIONS[data[0] % len(QUESTIONS)], data[1:]


def answers() -> Iterator[tuple[int, bytes]]:
    """(question, PDU): right, refused, and right for another question."""
    for number, asked in enumerate(QUESTIONS):
        size = modbus.response_bytes(asked) - 2
        yield number, asked[:5] if asked[0] >= modbus.WRITE_COIL else bytes((asked[0], size)) + b"\x42" * size
        yield number, bytes((asked[0] | 0x80, 2))
        yield number, b"\x04\x04\x43\x66\x33\x34"


def rtu_seeds() -> Iterator[bytes]:
    for number, pdu in answers():
        frame = modbus.rtu_frame(UNIT, pdu)
        yield bytes((number,)) + frame
        yield bytes((number,)) + frame[:-2]  # the check writes the CRC itself


def tcp_seeds() -> Iterator[bytes]:
    for number, pdu in answers():
        yield bytes((number,)) + modbus.tcp_frame(TRANSACTION, UNIT, pdu)


@target("modbus-rtu", seeds=rtu_seeds, max_bytes=MAX_ANSWER_BYTES)
def rtu(data: bytes) -> None:
    """A frame counts only with unit, CRC, function and length right; the bytes asked for lead to it; pymodbus agrees."""
    if not data:
        return
    asked, frame = question(data)
    crc = FramerRTU.compute_CRC(frame).to_bytes(2, "big")
    for line in (frame, frame + crc):
        pdu = attempt(lambda line=line: modbus.rtu_pdu(UNIT, line))
        if pdu is not None:
            assert line[-2:] == FramerRTU.compute_CRC(line[:-2]).to_bytes(2, "big")
            assert modbus.rtu_frame(UNIT, pdu) == line
            answered(asked, pdu, lambda line=line: FramerRTU(DecodePDU(False)).handleFrame(line, UNIT, 0)[1])
        read_in_pieces(line, lambda received: modbus.rtu_missing_bytes(asked, received))


@target("modbus-tcp", seeds=tcp_seeds, max_bytes=MAX_ANSWER_BYTES)
def tcp(data: bytes) -> None:
    """The same behind an MBAP header: transaction, protocol, length and unit."""
    if not data:
        return
    asked, frame = question(data)
    pdu = attempt(lambda: modbus.tcp_pdu(TRANSACTION, UNIT, frame))
    if pdu is not None:
        assert modbus.tcp_frame(TRANSACTION, UNIT, pdu) == frame
        answered(asked, pdu, lambda: FramerSocket(DecodePDU(False)).handleFrame(frame, UNIT, TRANSACTION)[1])
    read_in_pieces(frame, modbus.tcp_missing_bytes)


def answered(asked: bytes, pdu: bytes, by_pymodbus: Callable[[], object]) -> None:
    """What is taken for an answer has the length that was asked for, and is what pymodbus reads in it."""
    found = attempt(lambda: modbus.parse_response(asked, pdu))
    if found is None:
        return
    theirs = by_pymodbus()
    assert bytes((theirs.function_code,)) + theirs.encode() == pdu
    if asked[0] >= modbus.WRITE_COIL:
        assert (found, pdu) == (b"", asked[:5])
    else:
        assert found == pdu[2:]
        assert len(found) == modbus.response_bytes(asked) - 2


def read_in_pieces(stream: bytes, missing: Callable[[bytes], int]) -> None:
    """A port reads as many bytes as are missing until none are: it ends, and never holds more than the longest frame."""
    held = 0
    while (wants := attempt(lambda held=held: missing(stream[:held]))) and held < len(stream):
        assert wants > 0
        held = min(held + wants, len(stream))
        assert held <= modbus.MAX_FRAME_BYTES


# --- registers -------------------------------------------------------------------------------------------------------

PROFILES = [load_profile(catalogue.board_profile(mapping)) for mapping in catalogue.profile_mappings()]


def blocks_of(profile: Profile, data: bytes) -> list[bytes]:
    """The data cut into the blocks that a profile asks for; what is missing is missing."""
    blocks, at = [], 0
    for _, _, count in requests(profile):
        blocks.append(data[at : at + 2 * count])
        at += 2 * count
    return blocks


def register_seeds() -> Iterator[bytes]:
    for number in range(len(PROFILES)):
        for filling in (b"\x00", b"\xff", b"\x80", b"\x7f\xc0\x00\x00", b"\x47\x12\x34\x56"):
            yield bytes((number,)) + (filling * 40)[:40]


@target("registers", seeds=register_seeds, max_bytes=65)
def registers(data: bytes) -> None:
    """Whatever stands in a meter's registers is a reading within bounds or a typed error, by every profile."""
    if not data:
        return
    profile = PROFILES[data[0] % len(PROFILES)]
    sample = attempt(lambda: decode(profile, blocks_of(profile, data[1:])))
    if sample is not None:
        assert 0 <= sample.energy_wh <= MAX_ENERGY_WH
        assert abs(sample.power_w) <= MAX_POWER_W
        assert 2 <= len(sample.raw) <= 8
        assert sample.step_wh >= 0
