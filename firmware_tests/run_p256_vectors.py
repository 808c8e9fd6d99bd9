"""Under MicroPython: every line of the P-256 vector file. Prints the number of cases of each kind and of failures."""

import gc
import json
import sys
from binascii import unhexlify

from pile_shared import p256, platform


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
    return p256.verify(public, unhexlify(case["message"]), unhexlify(case["signature"])) is case["valid"]


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
