"""Runs under MicroPython; argument: a folder with utinyec. Prints the microseconds of its scalar multiplication on P-256."""

import hashlib
import sys
import time

sys.path.append(sys.argv[1])

from utinyec import registry  # type: ignore[import-not-found]

curve = registry.get_curve("secp256r1")
scalar = int.from_bytes(hashlib.sha256(b"bench").digest(), "big")  # as many bits as any
best_us = 10**9
for _ in range(3):
    began = time.ticks_us()
    point = scalar * curve.g
    best_us = min(best_us, time.ticks_diff(time.ticks_us(), began))
print(best_us)
