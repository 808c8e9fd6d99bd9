"""ABCI's socket framing: each message behind its length as an unsigned varint (CometBFT spec, abci/abci++_tmsp_or_server).

Pure: bytes in, whole messages out, at whatever place the stream was cut.
"""

from pile_shared.errors import PilechainError

MAX_MESSAGE_BYTES = (
    64 << 20
)  # a block of CometBFT has at most 100 MB, ours far less (network.py); a snapshot chunk 4 MB
_MAX_LENGTH_BYTES = 4  # a varint of four bytes counts to 256 MiB


class FramingError(PilechainError):
    """What arrives is not ABCI: the connection cannot be understood any more and has to be closed."""

    code = "framing"


class Deframer:
    """Cuts a stream of bytes into messages."""

    def __init__(self, max_message_bytes: int = MAX_MESSAGE_BYTES) -> None:
        """Refuse messages longer than `max_message_bytes`."""
        self._max = max_message_bytes
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that `data` completes, in order; the rest is kept.

        Raises:
            FramingError: a length that is too large, or not written in the shortest form.
        """
        self._buffer += data
        messages, start = [], 0
        while (found := self._length(start)) is not None:
            body, length = found
            if len(self._buffer) < body + length:
                break
            messages.append(bytes(self._buffer[body : body + length]))
            start = body + length
        del self._buffer[:start]
        return messages

    def _length(self, start: int) -> tuple[int, int] | None:
        """Where a message's body begins and how long it is; None while its length has not arrived."""
        value = 0
        for number, byte in enumerate(self._buffer[start : start + _MAX_LENGTH_BYTES]):
            value |= (byte & 0x7F) << (7 * number)
            if byte < 0x80:
                if value > self._max or (byte == 0 and number > 0):
                    raise FramingError(f"a message of {value} bytes was announced; is this port used by CometBFT?")
                return start + number + 1, value
        if len(self._buffer) - start >= _MAX_LENGTH_BYTES:
            raise FramingError("a message's length has more than four bytes; is this port used by CometBFT?")
        return None


def frame(message: bytes) -> bytes:
    """A message behind its length."""
    length, head = len(message), bytearray()
    while length >= 0x80:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    head.append(length)
    return bytes(head) + message
