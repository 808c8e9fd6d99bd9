"""Runs under MicroPython as the board's program; after each step with a new high-water mark of live heap, prints it.

Arguments: config.cbor run, as for the program itself. Collecting after each step changes what a busy step needs at most
(garbage goes first anyway), so the figure is what is alive, and the heap given says whether the rest fits beside it.
"""

import gc
import sys

from pile_board import part_agent

gc.collect()
print("code_bytes", gc.mem_alloc())
peak = [0]
real_alive = part_agent.alive  # of the port: what each step ends with


def alive():
    real_alive()
    gc.collect()
    live = gc.mem_alloc()
    if live > peak[0]:
        peak[0] = live
        print("live_bytes", live)


part_agent.alive = alive
part_agent.main(sys.argv[2:])
