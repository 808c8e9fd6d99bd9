"""Under MicroPython: every line of the P-256 vector file. Prints the number of cases of each kind and of failures.

Every signature is verified twice: without a table of its key, and with one.
"""

import gc
import io
import json
import sys
from binascii import unhexlify

from pile_shared import p256, platform

KEY_TABLE_BYTES = 2048


def holds(case):
    kind = case["kind"]
    if kind == "key":
        return p256.public_key(unhexlify(case["secret"])) == unhexlify(case["public"])
    if kind == "sign":
        return p256.sign(unhexlify(case["secret"]), unhexlify(case["message"])) == unhexlify(case["signature"])
    public = unhexlify(case["public"])
    if kind == "point":
        # No key is a key for a signature of somebody else's, and what is no point least of all.
        return p256.is_on_curve(public) is case["valid"] and not p256.verify(public, b"", b"\x01" * 64)
    message, signature = unhexlify(case["message"]), unhexlify(case["signature"])
    p256.use_key_tables(None)
    general = p256.verify(public, message, signature)
    if p256.is_on_curve(public):
        table = bytearray(KEY_TABLE_BYTES)
        p256.fill_table(table, public, 6, 43)
        p256.use_key_tables(lambda _: io.BytesIO(table))
    return general is case["valid"] and p256.verify(public, message, signature) is general


def main(path):
    assert platform.MICROPYTHON
    counts = {"failed": 0}
    with open(path) as lines:  # noqa: PTH123 - no pathlib on a board
        for line in lines:
            case = json.loads(line)
            counts[case["kind"]] = counts.get(case["kind"], 0) + 1
            if not holds(case):
                counts["failed"] += 1
                print("failed:", line, file=sys.stderr)
    gc.collect()
    print(json.dumps(counts))


if __name__ == "__main__":
    main(sys.argv[1])
