"""Runs under MicroPython; prints JSON: erases for each append of the journal, and the time from reading to published proof.

The flash is an ESP32's: blocks of 4096 bytes, formatted as its firmware does. The journal has the default sizes.
"""

import json
import time

import vfs
from nor_flash import GEOMETRY, Flash, blank

from pile_edge.journal import Journal
from pile_edge.meters.decode import Profile, decode
from pile_edge.mqtt import encode_publish
from pile_edge.ports.micropython_storage import Storage
from pile_shared.cose import SoftwareSigner
from pile_shared.proof import NO_PREVIOUS, PERIODIC, Proof
from pile_shared.reading import Reading

BLOCK_BYTES = 4096
BLOCKS = 128
APPENDS = 400
PROFILE = {
    "id": "bench",
    "manufacturer": "bench",
    "model": "bench",
    "min_gap_ms": 0,
    "timeout_ms": 100,
    "function": 3,
    "word_order": "big",
    "energy_import": {"address": 0, "type": "u64", "scale_wh": [10, 1]},
    "power": {"address": 4, "type": "i32", "scale_w": [1, 100]},
}


class Counted(Flash):
    """Counts erases."""

    erases = 0

    def ioctl(self, op, arg):
        self.erases += op == 6
        return super().ioctl(op, arg)


def main():
    flash = Counted(blank(BLOCKS * BLOCK_BYTES), BLOCK_BYTES)
    vfs.VfsLfs2.mkfs(flash, **GEOMETRY)
    vfs.mount(vfs.VfsLfs2(flash, **GEOMETRY), "/flash")
    journal = Journal(Storage("/flash/journal"), capacity_bytes=16 * 16384, segment_bytes=16384)
    signer, profile = SoftwareSigner(bytes(range(1, 33))), Profile(PROFILE)
    previous, best_us, erases = NO_PREVIOUS, 10**9, 0
    for sequence in range(1, APPENDS + 1):
        began, before = time.ticks_us(), flash.erases
        energy = 123456 + sequence
        sample = decode(profile, [energy.to_bytes(8, "big"), (700000).to_bytes(4, "big")])
        readings = [
            Reading(1800000000000 + 10000 * i, 2, sample.raw, sample.energy_wh, sample.power_w, 1) for i in range(6)
        ]
        message = Proof(sequence, previous, bytes(32), PERIODIC, readings).sign(signer, "north-1a2b3c4d")
        journal.append(sequence, message, keep=False)
        erases += flash.erases - before
        encode_publish("pilechain/1/north-1a2b3c4d/pile-1/proof", journal.pending(sequence - 1, 1)[0][1], 1, False)
        best_us = min(best_us, time.ticks_diff(time.ticks_us(), began))
        previous = journal.head[1]
        if sequence % 60 == 0:
            journal.retire(sequence - 1)
    print(json.dumps({"erases": erases, "appends": APPENDS, "proof_us": best_us}))


main()
