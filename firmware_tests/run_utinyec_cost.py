"""Runs under MicroPython; argument: a folder with utinyec. Prints the microseconds of its scalar multiplication on P-256.

In time of the processor, in batches as long as those of run_p256_cost.py.
"""

import hashlib
import sys
import time

sys.path.append(sys.argv[1])

from utinyec import registry

BATCHES = 3
COUNT = 2

curve = registry.get_curve("secp256r1")
scalar = int.from_bytes(hashlib.sha256(b"bench").digest(), "big")  # as many bits as any
best_us = 10**9
for _ in range(BATCHES):
    began = time.clock()
    for _ in range(COUNT):
        point = scalar * curve.g
    best_us = min(best_us, int((time.clock() - began) * 1000000) // COUNT)
print(best_us)
