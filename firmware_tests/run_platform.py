"""Under MicroPython: what platform.py and p256.py give for inputs on the command line, in hexadecimal, as JSON."""

import json
import sys
from binascii import hexlify, unhexlify

from pile_shared import p256, platform
from pile_shared.errors import BoundsError


def refused(call, *args):
    try:
        call(*args)
    except BoundsError as error:
        return error.code
    return None


def main(secret, message, signature):
    secret, message, signature = unhexlify(secret), unhexlify(message), unhexlify(signature)
    public = platform.es256_public(secret)
    answer = {
        "sha256": platform.sha256(message),
        "hmac_short": platform.hmac_sha256(secret, message[:10], message[10:]),
        "hmac_long": platform.hmac_sha256(secret * 3, message),
        "public": public,
        "signature": platform.es256_sign(secret, message),
        "table": platform.sha256(p256.comb_table()),
    }
    answer = {name: hexlify(value).decode() for name, value in answer.items()}
    answer["crc32"] = platform.crc32(message[10:], platform.crc32(message[:10]))
    answer["verified"] = platform.es256_verify(public, message, signature)
    answer["verified_other"] = platform.es256_verify(public, message + b"\x00", signature)
    answer["random_differs"] = platform.random_bytes(16) != platform.random_bytes(16)
    answer["views"] = platform.es256_verify(memoryview(public), memoryview(message), bytearray(signature))
    answer["refused"] = [
        refused(platform.es256_sign, bytes(32), b""),
        refused(platform.es256_public, b"\xff" * 32),
        refused(p256.load_comb_table, memoryview(p256.comb_table())[1:]),
    ]
    print(json.dumps(answer))


if __name__ == "__main__":
    main(*sys.argv[1:])
