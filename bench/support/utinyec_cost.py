"""Runs under MicroPython; argument: a folder with utinyec. Prints the microseconds of its scalar multiplication on P-256."""

import sys
import time

sys.path.append(sys.argv[1])

from utinyec import ec, registry  # type: ignore[import-not-found] # noqa: E402

curve = registry.get_curve("secp256r1")
scalar = int.from_bytes(bytes(range(1, 33)), "big")
best_us = 10**9
for _ in range(3):
    began = time.ticks_us()
    point = scalar * curve.g
    best_us = min(best_us, time.ticks_diff(time.ticks_us(), began))
print(best_us)
