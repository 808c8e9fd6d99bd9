"""A whole site on one machine, from piles over a real broker with TLS to committed blocks and receipts.

The figures share one run: broker, coordinator, verify workers and the piles themselves are processes on the same cores.
The limit is what one core does that verifies P-256 signatures and nothing else.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench.figures import Figure, report
from bench.ingest import verify_rate_per_s
from bench.support.scaled_site import Cost, ScaledSite

PILES, PROOFS_EACH, CONNECTIONS = 1500, 40, 50
TARGETS = {1: ">= 0.5", 2: ">= 0.8"}


def throughput(workers: int) -> tuple[float, dict[str, Cost]]:
    """Proofs a second from the first publish to the last receipt, and what each process cost."""
    with tempfile.TemporaryDirectory() as name, ScaledSite(Path(name), PILES, workers=workers) as site:
        elapsed_s, costs = site.publish(PROOFS_EACH, CONNECTIONS)
    return PILES * PROOFS_EACH / elapsed_s, costs


def figures() -> Iterator[Figure]:
    """Throughput with one worker and with two."""
    for workers, target in TARGETS.items():
        before = verify_rate_per_s()
        rate, costs = throughput(workers)
        limit = (before + verify_rate_per_s()) / 2
        for process, cost in costs.items():
            print(f"  {process:<14} {cost.cpu_s / (PILES * PROOFS_EACH) * 1e6:6.1f} us of CPU a proof")
        print(f"  one verification {1e6 / limit:.1f} us; elapsed {PILES * PROOFS_EACH / rate:.2f} s")
        yield Figure(
            f"site-proofs-{workers}", rate, "proofs/s", limit, "OpenSSL P-256 verifications/s on one core", target
        )


if __name__ == "__main__":
    report(figures())
