"""Runs under MicroPython and CPython alike: the OCMF records of a file of proofs, one a line; then the key."""

import gc
import sys
from binascii import unhexlify

from pile_edge import ocmf
from pile_shared import cose, p256
from pile_shared.proof import Origin, decode_payload


def main(path):
    p256.comb_table()  # in one piece, before the heap is in many; a board reads it from flash
    signer = cose.SoftwareSigner(bytes(range(1, 33)))
    origin = Origin("ABB B23", 'se"ri\\al|1', "abb-b23", bytes(range(32)))
    with open(path) as lines:  # noqa: PTH123 - no pathlib on a board
        for number, line in enumerate(lines):
            proof = decode_payload(unhexlify(line.strip()))
            gc.collect()
            print(ocmf.make_record(proof, number + 1, "valley/pile-1", origin, signer))
    print(ocmf.public_key_info(signer.public))


main(sys.argv[1])
