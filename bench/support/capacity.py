"""What so many piles need, computed from what was measured: docs/capacity.md has the table, bench/measured/ the figures.

python -m bench.support.capacity --take "two cores of an AMD EPYC"    measure, and write both
python -m bench.support.capacity                                      write the table again from the figures there are
"""

import argparse
import datetime as dt
import json
import math
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.ingest import LIMIT_SECONDS, verify_rate_per_s
from bench.support.scaled_site import ScaledSite

ROOT = Path(__file__).parent.parent
MEASURED = ROOT / "measured" / "capacity.json"
PAGE = ROOT.parent / "docs" / "capacity.md"
BEGIN, END = "<!-- computed -->", "<!-- until here -->"
SIZES = (100, 10_000, 1_000_000)
PILES, ROUNDS, CONNECTIONS = 3000, 8, 50
PROOFS_A_DAY = (
    200  # four hours of charging with a proof every two minutes, twenty of a heartbeat every quarter of an hour
)
BACK_S = 300  # in which all piles should be connected again after a broker was away
PEAK = 4  # the busiest minutes of a day against its mean: evenings
FULL = 0.7  # of a core, beyond which queues grow long
DAY_S, YEAR_DAYS = 86_400, 365
MIB, GIB = 1 << 20, 1 << 30


@dataclass(frozen=True)
class Measured:
    """What was measured, per proof that gets a receipt of its own: piles' proofs are minutes apart.

    Attributes:
        taken: when and where. verify_us: one verification, nothing else. broker_us, worker_us, coordinator_us: CPU a proof.
        alone_us: the coordinator's and its second process's, without workers.
        ledger_bytes, evidence_bytes: on disk for each. connection_bytes: of the broker's memory for each connected pile, with
        TLS. coordinator_bytes: of its memory with `piles` piles. connect_us: the broker's CPU for each pile that connects.
        storm_s: until `piles` piles were back, with receipts, after the broker was killed.
    """

    taken: str
    verify_us: float
    broker_us: float
    worker_us: float
    coordinator_us: float
    alone_us: float
    ledger_bytes: int
    evidence_bytes: int
    connection_bytes: int
    empty_bytes: int
    pile_bytes: int
    connect_us: float
    storm_s: float
    piles: int


def take(where: str) -> Measured:
    """Measure, in some minutes."""
    proofs = PILES * ROUNDS
    with tempfile.TemporaryDirectory() as name, ScaledSite(Path(name), PILES, workers=1) as site:
        before = site.stored_bytes()
        _, costs = site.publish(ROUNDS, CONNECTIONS, in_turn=True)
        site.close()  # what is in their journals goes into ledger and evidence
        ledger, evidence = (now - then for now, then in zip(site.stored_bytes(), before, strict=True))
    with tempfile.TemporaryDirectory() as name, ScaledSite(Path(name), PILES, workers=0) as site:
        _, alone = site.publish(ROUNDS, CONNECTIONS, in_turn=True)
    with tempfile.TemporaryDirectory() as name, ScaledSite(Path(name), 1, workers=0) as site:
        nobody = site.costs()["coordinator"].rss_bytes
    spent_us = {name: cost.cpu_s / proofs * 1e6 for name, cost in costs.items()}
    with tempfile.TemporaryDirectory() as name, ScaledSite(Path(name), PILES, workers=1) as site:
        empty = site.costs()
        held, storm_s = site.hold(2)
    broker = held["broker"]
    return Measured(
        taken=f"{dt.datetime.now(dt.UTC):%Y-%m-%d}, {where}",
        verify_us=round(_verify_us(), 1),
        broker_us=round(spent_us["broker"], 1),
        worker_us=round(spent_us["worker-1"], 1),
        coordinator_us=round(spent_us["coordinator"], 1),
        alone_us=round(alone["coordinator"].cpu_s / proofs * 1e6, 1),
        ledger_bytes=ledger // proofs,
        evidence_bytes=evidence // proofs,
        connection_bytes=(broker.rss_bytes - empty["broker"].rss_bytes) // PILES,
        empty_bytes=nobody,
        pile_bytes=(held["coordinator"].rss_bytes - nobody) // PILES,
        connect_us=round((broker.cpu_s - empty["broker"].cpu_s) / PILES * 1e6, 1),
        storm_s=round(storm_s, 1),
        piles=PILES,
    )


def _verify_us() -> float:
    """By CPU, as the others are."""
    began_s = time.process_time()
    count = verify_rate_per_s() * LIMIT_SECONDS
    return (time.process_time() - began_s) / count * 1e6


def rows(measured: Measured) -> list[list[str]]:
    """The table: a row for each thing that so many piles need."""
    m = measured
    mean = [piles * PROOFS_A_DAY / DAY_S for piles in SIZES]
    peak = [rate * PEAK for rate in mean]
    cores = {
        "broker": [rate * m.broker_us / 1e6 for rate in peak],
        "verify workers": [rate * m.worker_us / 1e6 for rate in peak],
        "coordinator": [rate * m.coordinator_us / 1e6 for rate in peak],
    }
    alone = [rate * (m.alone_us - m.verify_us) / 1e6 for rate in peak]  # of the one core that does all else
    workers = [_needed(used) if one > FULL else 0 for used, one in zip(cores["verify workers"], alone, strict=True)]
    connecting_s = [piles * m.connect_us / 1e6 for piles in SIZES]
    chains = [_needed(used) for used in cores["coordinator"]]
    kept = m.ledger_bytes + m.evidence_bytes
    return [
        ["piles", *(f"{piles:,}" for piles in SIZES)],
        ["proofs a second, mean", *(f"{rate:,.1f}" for rate in mean)],
        ["proofs a second, peak", *(f"{rate:,.1f}" for rate in peak)],
        *([f"cores at peak: {name}", *(f"{used:.3f}" for used in many)] for name, many in cores.items()),
        ["verify workers to run", *(str(count) for count in workers)],
        ["coordinators, each with a chain", *(str(count) for count in chains)],
        ["broker's memory for connections", *(_bytes(piles * m.connection_bytes) for piles in SIZES)],
        ["broker's CPU when all connect", *(f"{seconds:,.1f} s" for seconds in connecting_s)],
        ["brokers, to be back in 5 minutes", *(str(_needed(s / BACK_S)) for s in connecting_s)],
        ["coordinator's memory", *(_bytes(m.empty_bytes + piles * m.pile_bytes) for piles in SIZES)],
        ["disk a year, ledger and evidence", *(_bytes(piles * PROOFS_A_DAY * YEAR_DAYS * kept) for piles in SIZES)],
    ]


def _needed(cores: float) -> int:
    """How many processes share this work, none of which has more than it should; one at least."""
    return max(1, math.ceil(cores / FULL))


def _bytes(count: int) -> str:
    return f"{count / GIB:,.1f} GiB" if count >= GIB else f"{count / MIB:,.1f} MiB"


def section(measured: Measured) -> str:
    """What stands in docs/capacity.md between the marks."""
    head, *others = rows(measured)
    lines = [f"Measured {measured.taken}:", "", "| what | figure |", "|---|---|"]
    lines += [f"| `{name}` | {value:,} |" for name, value in asdict(measured).items() if name != "taken"]
    lines += ["", f"| {' | '.join(head)} |", "|---|" + "---:|" * len(SIZES)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in others)])


def load() -> Measured:
    """The figures that are kept."""
    return Measured(**json.loads(MEASURED.read_text()))


def main() -> None:
    """Write the table, after measuring if that is asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--take", metavar="WHERE", help="measure now; what machine this is, in a few words")
    where = parser.parse_args().take
    if where:
        MEASURED.parent.mkdir(exist_ok=True)
        MEASURED.write_text(json.dumps(asdict(take(where)), indent=2) + "\n")
    head, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(f"{head}{BEGIN}\n{section(load())}\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main()
