"""Runs under MicroPython: the real link, echoing what comes on "down" to "up" until it reads b"quit" or b"die".

argv: host, port, and for TLS the paths of ca, cert and key (DER). What could not be published yet is kept here, as the
journal would keep it.
"""

import gc
import sys

gc.collect()
START = gc.mem_alloc()

from pile_edge.ports.micropython_link import Link  # noqa: E402 - its cost is being measured

gc.collect()
print("modules_bytes", gc.mem_alloc() - START)


def make(argv):
    spec = {"host": argv[1], "port": int(argv[2]), "keepalive_s": 4}
    if len(argv) > 3:
        spec["tls"] = {"ca": argv[3], "cert": argv[4], "key": argv[5]}
    return Link(spec, client_id="board", subscriptions=["down"], will=("status", b"died"))


large = []


def echo(link):
    kept = []
    errors = []
    polls_left = 3000  # of 20 ms
    while polls_left:
        polls_left -= 1
        for _, payload in link.poll(20):
            if len(payload) > 3000:
                large.append(len(payload))
            else:
                kept.append(payload)
        while kept and kept[0] not in (b"quit", b"die") and link.publish("up", kept[0]):
            kept.pop(0)
        if link.last_error is not None and repr(link.last_error) not in errors:
            errors.append(repr(link.last_error))
        if kept == [b"die"]:
            sys.exit()  # without a goodbye
        if kept == [b"quit"] and not link.inflight:
            return errors
    raise RuntimeError("nobody said quit: " + str(errors))


link = make(sys.argv)
gc.collect()
print("link_bytes", gc.mem_alloc() - START)
errors = echo(link)
gc.collect()
print("dropped", link.dropped)
print("large", len(large))
print("end_bytes", gc.mem_alloc() - START)
link.close()
print("errors", errors)
