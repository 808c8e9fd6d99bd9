"""Under MicroPython; argument: an empty folder. What P-256 costs: prints heap in bytes and time in microseconds as JSON.

Heap is what lives, so it is counted after a collection: after import, with the table, and at its highest inside a
computation, seen from every doubling (garbage waiting for collection does not count: it goes when room is needed).
"""

import gc
import json
import sys
import time

gc.collect()
start = gc.mem_alloc()

from pile_shared import p256  # noqa: E402 - its cost is being measured

BATCH_US = 100000  # the processor's clock counts in ms
BATCHES = 3


def live():
    gc.collect()
    return gc.mem_alloc() - start


def best_us(call, *args):
    """Of some batches, each as long as other libraries take for one multiplication, and in time of the processor.

    A batch pays for its garbage collections, and is as likely to meet a busy neighbour as what it is compared with.
    """
    began = time.ticks_us()
    call(*args)
    count = max(1, BATCH_US // max(1, time.ticks_diff(time.ticks_us(), began)))
    best = None
    for _ in range(BATCHES):
        began = time.clock()
        for _ in range(count):
            call(*args)
        took = int((time.clock() - began) * 1000000) // count
        best = took if best is None or took < best else best
    return best


def live_peak(call, *args):
    """The highest heap at any doubling of a call, above the heap before it."""
    double = p256._double
    before = live()
    peak = [before]

    def watched(*args):
        peak[0] = max(peak[0], live())
        return double(*args)

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
    secret, message = bytes(range(1, 33)), bytes(150)
    public, signature = p256.public_key(secret), p256.sign(secret, message)
    cost["sign_peak_bytes"] = live_peak(p256.sign, secret, message)
    cost["sign_us"] = best_us(p256.sign, secret, message)
    assert p256.verify(public, message, signature)
    cost["verify_unknown_peak_bytes"] = live_peak(p256.verify, public, message, signature)
    cost["verify_unknown_us"] = best_us(p256.verify, public, message, signature)
    table = bytearray(p256.KEY_TABLE_BYTES)
    comb = p256.KEY_ROWS, p256.KEY_DISTANCE
    cost["key_table_peak_bytes"] = live_peak(p256.fill_table, table, public, *comb)
    cost["key_table_us"] = best_us(p256.fill_table, table, public, *comb)
    measure_known(cost, table, public, message, signature)
    cost["load_us"] = best_us(p256.load_comb_table, p256.comb_table())
    print(json.dumps(cost))


def measure_known(cost, table, *signed):
    """With the table of the key in a file, as on a board; here a file system's cost is the system's."""
    from pile_edge import key_tables  # not before: what they import is no cost of p256
    from pile_edge.ports.micropython_storage import Storage
    from pile_shared.certificate import Validator

    storage = Storage(sys.argv[1])
    key_tables.keep_in(storage)
    key_tables.keep([Validator("node-0", signed[0], 1)])
    (name,) = storage.names()
    with storage.open(name) as file:
        assert file.read(p256.KEY_TABLE_BYTES) == table
    assert p256.verify(*signed)
    cost["verify_known_peak_bytes"] = live_peak(p256.verify, *signed)
    cost["verify_known_us"] = best_us(p256.verify, *signed)


main()
