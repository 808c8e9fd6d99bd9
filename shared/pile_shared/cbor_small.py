"""The board's CBOR codec: the same language as `codec`, in the few hundred bytes a 64 kB heap can spare.

Not used on CPython except by the tests that prove it equal to cbor2.
"""

from pile_shared.errors import CodecError

MAX_DEPTH = 12


def _check_utf8(raw: bytes) -> None:
    """RFC 3629 section 4. MicroPython's own codec also takes surrogates and longer forms of a character.

    By bytes, because MicroPython keeps every character that a loop over text meets, for good, and texts come from strangers.
    """
    need = 0
    low, high = 0x80, 0xBF
    for byte in raw:
        if need:
            if not low <= byte <= high:
                raise CodecError("text is not UTF-8")
            need -= 1
            low, high = 0x80, 0xBF
        elif byte > 0x7F:
            need = 1 if 0xC2 <= byte < 0xE0 else 2 if 0xE0 <= byte < 0xF0 else 3 if 0xF0 <= byte < 0xF5 else 0
            if not need:
                raise CodecError("text is not UTF-8")
            low = 0xA0 if byte == 0xE0 else 0x90 if byte == 0xF0 else 0x80
            high = 0x9F if byte == 0xED else 0x8F if byte == 0xF4 else 0xBF
    if need:
        raise CodecError("text is not UTF-8")


def _encoded(text: str) -> bytes:
    try:
        raw = text.encode()
    except UnicodeError:  # CPython refuses surrogates by itself
        raise CodecError("text is not UTF-8")
    _check_utf8(raw)
    return raw


def _head(major: int, number: int) -> bytes:
    if number < 24:
        return bytes((major << 5 | number,))
    for size, code in ((1, 24), (2, 25), (4, 26), (8, 27)):
        if number < 1 << (8 * size):
            return bytes((major << 5 | code,)) + number.to_bytes(size, "big")
    raise CodecError("integer outside 64 bits")


def _write(value: object, out: bytearray, depth: int) -> None:
    if value is None or isinstance(value, bool):
        out.append(0xF6 if value is None else 0xF5 if value else 0xF4)
    elif isinstance(value, int):
        if not -(1 << 63) <= value < 1 << 63:
            raise CodecError("integer outside 64 bits")
        out.extend(_head(0, value) if value >= 0 else _head(1, -1 - value))
    elif isinstance(value, bytes):
        out.extend(_head(2, len(value)))
        out.extend(value)
    elif isinstance(value, str):
        text = _encoded(value)
        out.extend(_head(3, len(text)))
        out.extend(text)
    elif depth == 0:
        raise CodecError("nested too deep")
    elif isinstance(value, (list, tuple)):
        out.extend(_head(4, len(value)))
        for item in value:
            _write(item, out, depth - 1)
    elif isinstance(value, dict):
        _write_map(value, out, depth)
    else:
        raise CodecError("type not allowed: " + type(value).__name__)


def _write_map(mapping: dict[object, object], out: bytearray, depth: int) -> None:
    encoded = []
    texts = 0
    for key, value in mapping.items():
        if isinstance(key, str):
            texts += 1
        elif not isinstance(key, int) or isinstance(key, bool) or not 0 <= key < 1 << 63:
            raise CodecError("map keys must be all text or all non-negative integers")
        out_key = bytearray()
        _write(key, out_key, 0)
        encoded.append((bytes(out_key), value))
    if texts not in {0, len(encoded)}:
        raise CodecError("map keys must be all text or all non-negative integers")
    encoded.sort(key=lambda pair: pair[0])
    out.extend(_head(5, len(encoded)))
    for head, item in encoded:
        out.extend(head)
        _write(item, out, depth - 1)


def encode(value: object) -> bytes:
    """The one encoding of `value`; CodecError for anything outside the allowed types and ranges."""
    out = bytearray()
    _write(value, out, MAX_DEPTH)
    return bytes(out)


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, count: int) -> bytes:
        if count > len(self.data) - self.at:
            raise CodecError("truncated")
        self.at += count
        return bytes(self.data[self.at - count : self.at])

    def number(self, low: int) -> int:
        if low < 24:
            return low
        if low > 27:
            raise CodecError("indefinite or reserved length")
        size = 1 << (low - 24)
        number = int.from_bytes(self.take(size), "big")
        if number < (24 if size == 1 else 1 << (4 * size)):
            raise CodecError("not the deterministic encoding")
        return number

    def value(self, depth: int) -> object:
        first = self.take(1)[0]
        major, low = first >> 5, first & 31
        if major == 7:
            if first not in {0xF4, 0xF5, 0xF6}:
                raise CodecError("type not allowed")
            return None if first == 0xF6 else first == 0xF5
        number = self.number(low)
        if major < 2:
            if number >> 63:
                raise CodecError("integer outside 64 bits")
            return -1 - number if major else number
        if major < 4:
            return self.string(major, number)
        if major == 6:
            raise CodecError("tag not allowed")
        if depth == 0:
            raise CodecError("nested too deep")
        if number > len(self.data) - self.at:
            raise CodecError("truncated")
        if major == 4:
            return [self.value(depth - 1) for _ in range(number)]
        return self.map(number, depth)

    def string(self, major: int, length: int) -> object:
        raw = self.take(length)
        if major == 2:
            return raw
        _check_utf8(raw)
        return raw.decode()

    def map(self, count: int, depth: int) -> object:
        mapping = {}  # type: dict[object, object]
        last = b""
        kind = -1
        for _ in range(count):
            start = self.at
            key = self.value(0)
            raw = bytes(self.data[start : self.at])
            major = raw[0] >> 5
            if major not in {0, 3} or kind not in {-1, major}:
                raise CodecError("map keys must be all text or all non-negative integers")
            if raw <= last:
                raise CodecError("map keys out of order or repeated")
            last, kind = raw, major
            mapping[key] = self.value(depth - 1)
        return mapping


def decode(data: bytes, max_bytes: int) -> object:
    """The value that `data` encodes, if `data` is its one encoding and at most `max_bytes` long; else CodecError."""
    if len(data) > max_bytes:
        raise CodecError("longer than " + str(max_bytes) + " bytes", "oversized")
    reader = _Reader(data)
    value = reader.value(MAX_DEPTH)
    if reader.at != len(data):
        raise CodecError("trailing bytes")
    return value
