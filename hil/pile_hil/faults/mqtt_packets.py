"""MQTT 3.1.1 packets in a stream of bytes, as far as somebody between client and broker must understand them."""

from pile_hil.faults import FaultError

PUBLISH, PUBACK = 3, 4
_DUP = 0x08
_LENGTH_BYTES = 4
_MAX_BYTES = 32 << 20  # twice what a coordinator takes


class Packets:
    """Whole packets out of pieces of a stream."""

    def __init__(self) -> None:
        """Nothing has come yet."""
        self._rest = bytearray()

    def take(self, data: bytes) -> list[bytes]:
        """The packets that these bytes complete. FaultError if it is no MQTT."""
        self._rest += data
        found = []
        while (size := _size(self._rest)) and len(self._rest) >= size:
            found.append(bytes(self._rest[:size]))
            del self._rest[:size]
        return found


def is_publish(packet: bytes) -> bool:
    """Whether it carries a message."""
    return packet[0] >> 4 == PUBLISH


def quality(packet: bytes) -> int:
    """The QoS of a PUBLISH: 0 to 2."""
    return packet[0] >> 1 & 3


def again(packet: bytes) -> bytes:
    """A PUBLISH as it is sent a second time: with the DUP flag, unless its QoS is 0."""
    return bytes([packet[0] | _DUP]) + packet[1:] if quality(packet) else packet


def acknowledgement(packet: bytes) -> bytes:
    """The PUBACK of a PUBLISH with QoS 1."""
    start = _header(packet)
    topic_end = start + 2 + int.from_bytes(packet[start : start + 2], "big")
    return bytes([PUBACK << 4, 2]) + packet[topic_end : topic_end + 2]


def _header(packet: bytes | bytearray) -> int:
    """Bytes before the variable header; 0 while they are not all there."""
    for place in range(1, 1 + _LENGTH_BYTES):
        if place >= len(packet):
            return 0
        if packet[place] < 0x80:
            return place + 1
    raise FaultError("no MQTT: a length of more than 4 bytes")


def _size(packet: bytearray) -> int:
    """Of the first packet, in bytes; 0 while that is not known."""
    header = _header(packet)
    if not header:
        return 0
    length = sum((packet[place] & 0x7F) << 7 * (place - 1) for place in range(1, header))
    if length > _MAX_BYTES:
        raise FaultError(f"an MQTT packet of {length} bytes")
    return header + length
