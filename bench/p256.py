"""ES256: what our code adds to the arithmetic it cannot do without, on CPython and on MicroPython.

CPython: `es256_verify` and `es256_sign` beside the bare OpenSSL calls. MicroPython: signing and verifying beside the time
its C code needs for the bare modular multiplications in them, which no Python around it can undercut.
"""

import json
import os
import subprocess
import tempfile
import timeit
from collections.abc import Callable, Iterator
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from bench.figures import Figure, report
from pile_edge.board.bundle import build_bundle, find_micropython
from pile_shared import platform

COST_SCRIPT = Path(__file__).parent.parent / "firmware_tests/run_p256_cost.py"
MESSAGE = bytes(150)  # about a metering proof with one reading
SECRET = bytes(range(1, 33))

# Field multiplications with reduction, on the average: a doubling takes 8, an addition 11. Signing: 20 doublings and 42
# additions, the first of which is to nothing. Verifying with a table of the key: 42 doublings and 43 + 42 additions. Without
# one: 256 doublings, an addition for each fourth digit of 257, the base point's 42, and 3Q.
MULTIPLICATIONS = {
    "sign": 20 * 8 + 41 * 11,
    "verify_known": 42 * 8 + (42 + 42) * 11,
    "verify_unknown": 256 * 8 + (63 + 42 + 1) * 11,
}
MULTIPLY_SCRIPT = """
import time
p = 0xFFFFFFFF00000001000000000000000000000000FFFFFFFFFFFFFFFFFFFFFFFF
a, b = p // 3, p // 5
def multiply(count):
    for _ in range(count):
        a * b % p
best = 10**9
for _ in range(20):
    began = time.ticks_us()
    multiply(1000)
    best = min(best, time.ticks_diff(time.ticks_us(), began))
print(best)
"""


def figures() -> Iterator[Figure]:
    """Times of signing and verifying on both interpreters."""
    yield from _cpython()
    yield from _micropython()


def _cpython() -> Iterator[Figure]:
    public, signature = platform.es256_public(SECRET), platform.es256_sign(SECRET, MESSAGE)
    bare_secret = ec.derive_private_key(int.from_bytes(SECRET, "big"), ec.SECP256R1())
    bare_public = bare_secret.public_key()
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    der, how = encode_dss_signature(r, s), ec.ECDSA(SHA256())
    how_signed = ec.ECDSA(SHA256(), deterministic_signing=True)
    ours, bare = _best_us(
        lambda: platform.es256_verify(public, MESSAGE, signature), lambda: bare_public.verify(der, MESSAGE, how)
    )
    yield Figure("p256-cpython-verify", ours, "us", bare, "bare OpenSSL", "")
    ours, bare = _best_us(lambda: platform.es256_sign(SECRET, MESSAGE), lambda: bare_secret.sign(MESSAGE, how_signed))
    yield Figure("p256-cpython-sign", ours, "us", bare, "bare OpenSSL", "")


def _micropython() -> Iterator[Figure]:
    interpreter = find_micropython()
    if interpreter is None:
        print("MicroPython: not installed, not measured")
        return
    with tempfile.TemporaryDirectory() as folder:
        build_bundle(Path(folder))
        environment = {**os.environ, "MICROPYPATH": f"{folder}:.frozen"}
        command = [str(interpreter), "-X", "heapsize=160k"]

        def run(*what: str) -> str:
            return subprocess.run([*command, *what], env=environment, check=True, capture_output=True, text=True).stdout

        cost = json.loads(run(str(COST_SCRIPT), folder + "/tables"))
        multiplication_us = int(run("-c", MULTIPLY_SCRIPT)) / 1000
    for name, count in MULTIPLICATIONS.items():
        limit_us = count * multiplication_us
        name_is = "p256-micropython-" + name.replace("_", "-")
        yield Figure(name_is, cost[f"{name}_us"], "us", limit_us, "its multiplications alone", "")


def _best_us(one: Callable[[], object], other: Callable[[], object]) -> tuple[float, float]:
    """The best of many short runs of two calls, in turns, so that a busy machine slows both alike."""
    rounds = [[timeit.timeit(call, number=50) for call in (one, other)] for _ in range(60)]
    return min(times[0] for times in rounds) / 50 * 1e6, min(times[1] for times in rounds) / 50 * 1e6


if __name__ == "__main__":
    report(figures())
