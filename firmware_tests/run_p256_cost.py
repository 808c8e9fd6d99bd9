"""Under MicroPython: what P-256 costs. Prints heap in bytes and time in microseconds as JSON.

Heap is what lives, so it is counted after a collection: after import, with the table, and at its highest inside a
computation, seen from every doubling (garbage waiting for collection does not count: it goes when room is needed).
"""

import gc
import json
import time

gc.collect()
start = gc.mem_alloc()

from pile_shared import p256  # noqa: E402 - its cost is being measured


def live():
    gc.collect()
    return gc.mem_alloc() - start


def best_us(call, *args):
    best = None
    for _ in range(10):
        began = time.ticks_us()
        call(*args)
        took = time.ticks_diff(time.ticks_us(), began)
        best = took if best is None or took < best else best
    return best


def live_peak(call, *args):
    """The highest heap at any doubling of a call, above the heap before it."""
    double = p256._double
    before = live()
    peak = [before]

    def watched(x, y, z):
        peak[0] = max(peak[0], live())
        return double(x, y, z)

    p256._double = watched
    call(*args)
    p256._double = double
    return peak[0] - before


def main():
    cost = {"import_bytes": live()}
    began = time.ticks_us()
    p256.comb_table()
    cost["table_us"] = time.ticks_diff(time.ticks_us(), began)
    cost["table_bytes"] = live() - cost["import_bytes"]
    cost["table_peak_bytes"] = live_peak(p256._make_table)
    secret, message = bytes(range(1, 33)), bytes(150)
    public, signature = p256.public_key(secret), p256.sign(secret, message)
    assert p256.verify(public, message, signature)
    cost["sign_peak_bytes"] = live_peak(p256.sign, secret, message)
    cost["verify_peak_bytes"] = live_peak(p256.verify, public, message, signature)
    cost["sign_us"] = best_us(p256.sign, secret, message)
    cost["verify_us"] = best_us(p256.verify, public, message, signature)
    cost["load_us"] = best_us(p256.load_comb_table, p256.comb_table())
    print(json.dumps(cost))


main()
