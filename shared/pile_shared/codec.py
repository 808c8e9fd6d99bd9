"""Deterministic CBOR (RFC 8949 section 4.2.1), strict on the way in: one value has one encoding, all else is refused.

Allowed: integers of 64 bits with sign, byte strings, UTF-8 text, arrays, maps, true, false, null. A map's keys are all
text or all non-negative integers, so that "bytewise order of the encoded keys" needs no cases. No tags, floats,
undefined, indefinite lengths, duplicate keys, trailing bytes, or nesting deeper than MAX_DEPTH.

CPython encodes with cbor2, MicroPython with `cbor_small`; golden vectors and property tests hold the two equal.
"""

from pile_shared.errors import CodecError
from pile_shared.platform import MICROPYTHON

MAX_DEPTH = 12
INT_MIN = -(1 << 63)
INT_MAX = (1 << 63) - 1

if MICROPYTHON:
    from pile_shared.cbor_small import decode, encode
else:
    import cbor2

    def _check(value: object, depth: int) -> bool:
        """Whether there is a map in `value` whose keys may stand out of order; CodecError unless it is allowed.

        Leaves are checked where they stand: most values are leaves. Only a map can be written in two ways.
        """
        kind, must_sort = type(value), False
        if kind is list or kind is tuple:
            children = value
        elif kind is dict:
            must_sort = _check_keys(value)  # type: ignore[arg-type]
            children = value.values()  # type: ignore[attr-defined]
        else:
            children = (value,)
            depth += 1
        if depth == 0:
            raise CodecError("nested too deep")
        for item in children:  # type: ignore[attr-defined]
            kind = type(item)
            if kind is int:
                if not INT_MIN <= item <= INT_MAX:
                    raise CodecError("integer outside 64 bits")
            elif kind is bytes or kind is str or kind is bool or item is None:
                continue
            elif kind is list or kind is tuple or kind is dict:
                must_sort = _check(item, depth - 1) or must_sort
            else:
                raise CodecError("type not allowed: " + kind.__name__)
        return must_sort

    def _check_keys(mapping: dict[object, object]) -> bool:
        """Whether they may stand out of order, as texts may: integers that ascend need no sorting, which takes longer."""
        texts, last, ascend = 0, -1, True
        for key in mapping:
            kind = type(key)
            if kind is str:
                texts += 1
            elif kind is not int:
                raise CodecError("map keys must be all text or all non-negative integers")
            elif not 0 <= key <= INT_MAX:  # type: ignore[operator]
                raise CodecError("map key outside 0 .. 2^63 - 1")
            else:
                ascend = ascend and key > last  # type: ignore[operator]
                last = key  # type: ignore[assignment]
        if texts not in {0, len(mapping)}:
            raise CodecError("map keys must be all text or all non-negative integers")
        return texts > 0 or not ascend

    def encode(value: object) -> bytes:
        """The one encoding of `value`. Raises CodecError for anything outside the allowed types and ranges."""
        must_sort = _check(value, MAX_DEPTH)
        try:
            return cbor2.dumps(value, canonical=must_sort)
        except (cbor2.CBOREncodeError, UnicodeError) as error:
            raise CodecError("not encodable: " + str(error)) from None

    def decode(data: bytes, max_bytes: int) -> object:
        """The value that `data` encodes, if `data` is its one encoding and at most `max_bytes` long; else CodecError."""
        if len(data) > max_bytes:
            raise CodecError("longer than " + str(max_bytes) + " bytes", "oversized")
        try:
            value = cbor2.loads(data, max_depth=MAX_DEPTH + 1, allow_indefinite=False, allow_duplicate_keys=False)
        except Exception as error:  # noqa: BLE001 - cbor2 lets hostile tags raise what they like; all of it is bad input
            raise CodecError("not CBOR: " + type(error).__name__) from None
        if cbor2.dumps(value, canonical=_check(value, MAX_DEPTH)) != data:
            raise CodecError("not the deterministic encoding")
        return value


def array(value: object, length: int) -> list:  # type: ignore[type-arg]
    """`value` if it is an array of exactly `length` items, else CodecError."""
    if not isinstance(value, list) or len(value) != length:
        raise CodecError("expected an array of " + str(length))
    return value


def items(value: object, most: int) -> list:  # type: ignore[type-arg]
    """`value` if it is an array of at most `most` items, else CodecError."""
    if not isinstance(value, list) or len(value) > most:
        raise CodecError("expected an array of at most " + str(most))
    return value


__all__ = ["MAX_DEPTH", "array", "decode", "encode", "items"]
