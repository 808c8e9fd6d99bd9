"""The ledger beside its limits: blocks beside bare signature checks, a full order book, an old store, a large state.

What is counted where signatures are the unit: every signature that a block carries, one on each transaction and one on
each metering proof inside. The mix is whole lives of orders: for each a listing, a bid, a half-hour session as an agent
reports it unless told otherwise (begin, a proof with six readings a minute, end; up to 256 in a transaction), and
the confirmations of both parties. Other work on the machine only ever adds time: times of one thread are its CPU time, and
of rounds the best counts, for a figure and its limit alike.
"""

import json
import random
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from bench.figures import Figure, report
from bench.support.market import (
    HOUR_MS,
    NOW_MS,
    Market,
    RecordedBlock,
    accept_all,
    engine,
    env,
    replay,
)
from pile_coordinator.chain.proofs import parse_proof
from pile_coordinator.chain.records import TABLES, Bid, Contract, Listing
from pile_coordinator.chain.transactions import SubmitProofs, decode_transaction
from pile_coordinator.chain.transition import apply_block
from pile_coordinator.engines.engine import CachingVerifier
from pile_coordinator.engines.solo import SoloEngine
from pile_coordinator.engines.verifier import Claim, SecondCoreVerifier, claim_of_proof, claim_of_transaction
from pile_shared import cose
from pile_shared.platform import es256_verify, sha256

PILES, LIVES, MINUTES = 100, 3, 30
ROUNDS = 5
READ_AHEAD = 4096  # signatures that are known before their block is made: what a busy service has waiting
VERIFY_RATE = "OpenSSL P-256 verifications/s on one core"

CLEARING_PILES, CLEARING_BIDS = 1000, 10_000
FEW_ARCHIVED, MANY_ARCHIVED = 10_000, 1_000_000
ARCHIVED_BLOCK_BYTES = 4096  # a block holds far more; a commit appends to that table and never reads what it holds
OPEN_CONTRACTS, OPEN_BIDS, OPEN_LISTINGS = 50_000, 25_000, 25_000


def figures() -> Iterator[Figure]:
    """All figures of the ledger."""
    market = Market(signed=True)
    market.admit(PILES, PILES)
    market.live(PILES, LIVES, MINUTES)
    yield _apply(market)
    yield _pipeline(market)
    for name, windows in (("noon", _noon), ("fortnight", _fortnight)):
        yield Figure(f"ledger-clearing-{name}", _clearing(windows), "s", 1, "the target in seconds", "<= 1.0")
    yield _archived()
    yield from _large_state()


# --- blocks beside signatures ----------------------------------------------------------------------------------------


def _apply(market: Market) -> Figure:
    """`apply_block` with all signatures accepted, in turns with signature checks, so that a busy machine slows both."""
    applied_s, verified_s = [], []
    for _ in range(ROUNDS):
        of_blocks = _apply_round(market)
        applied_s.append([applied for applied, _ in of_blocks])
        verified_s.append([verified for _, verified in of_blocks])
    signatures = sum(block.signatures for block in market.blocks[1:])
    rate, limit = (signatures / sum(map(min, zip(*times, strict=True))) for times in (applied_s, verified_s))
    return Figure("ledger-apply", rate, "signed/s", limit, VERIFY_RATE, ">= 1.0")


def _apply_round(market: Market) -> list[tuple[float, float]]:
    """For each block the seconds to apply it, and to check as many signatures as it carries."""
    parse_proof.cache_clear()
    state = replay(market.genesis, market.blocks[:1])
    times_s = []
    for height, block in enumerate(market.blocks[1:], 2):
        began = time.process_time()
        apply_block(state, env(market.chain_id, height, block.time_ms), block.txs)
        applied_s = time.process_time() - began
        state.seal()
        times_s.append((applied_s, _verify(block.signatures)))
    return times_s


def _verify(count: int) -> float:
    """CPU seconds of so many bare signature checks over a message of a proof's size."""
    signer = cose.SoftwareSigner(sha256(b"limit"))
    message = bytes(230)
    signature = signer.sign(message)
    es256_verify(signer.public, message, signature)
    began = time.process_time()
    for _ in range(count):
        es256_verify(signer.public, message, signature)
    return time.process_time() - began


def _pipeline(market: Market) -> Figure:
    """From the bytes of transactions to durable blocks; a second process checks the next signatures meanwhile."""
    count = 2000
    rates, limits = [], []
    for _ in range(ROUNDS):
        limits.append(count / _verify(count))
        rates.append(_pipeline_round(market))
    return Figure("ledger-pipeline", max(rates), "signed/s", max(limits), VERIFY_RATE, ">= 0.6")


def _pipeline_round(market: Market) -> float:
    parse_proof.cache_clear()
    admitted, lives = market.blocks[0], market.blocks[1:]
    with tempfile.TemporaryDirectory() as folder:
        solo, second = engine(market, Path(folder) / "ledger"), SecondCoreVerifier()
        commit(solo, admitted)
        second.tell_ahead(claims_of(solo, admitted))
        assert second(*claims_of(solo, admitted)[0])  # the process runs
        solo.verify = second
        began = time.perf_counter()
        waiting, told = deque(lives), 0
        for block in lives:
            while waiting and told < READ_AHEAD:
                told += waiting[0].signatures
                second.tell_ahead(claims_of(solo, waiting.popleft()))
            commit(solo, block)
            told -= block.signatures
        elapsed = time.perf_counter() - began
        second.close()
        solo.close()
    return sum(block.signatures for block in lives) / elapsed


def commit(solo: SoloEngine, block: RecordedBlock) -> float:
    """Submit and commit a recorded block; the seconds that `make_block` took."""
    for tx in block.txs:
        solo.submit(tx)
    began = time.perf_counter()
    committed = solo.make_block(block.time_ms)
    elapsed = time.perf_counter() - began
    assert all(result.code == "ok" for result in committed.results)
    return elapsed


def claims_of(solo: SoloEngine, block: RecordedBlock) -> list[Claim]:
    """The signatures of a block, read off its bytes."""
    claims = []
    for tx in block.txs:
        claims.append(claim_of_transaction(solo.state, solo.chain_id, tx))
        body = decode_transaction(tx).body
        if isinstance(body, SubmitProofs):
            claims += [claim_of_proof(solo.state, solo.chain_id, proof) for proof in body.proofs]
    return [claim for claim in claims if claim is not None]


# --- a full order book -----------------------------------------------------------------------------------------------


def _noon(chance: random.Random) -> tuple[int, int]:
    """An hour or more around one noon: no pile serves two, so every bid is looked at and nine of ten stay."""
    noon_ms = NOW_MS + 24 * HOUR_MS
    return noon_ms - chance.randrange(1, HOUR_MS), noon_ms + chance.randrange(1, HOUR_MS)


def _fortnight(chance: random.Random) -> tuple[int, int]:
    """Two hours at any time of two weeks: all could be served, and a block serves as many as it may."""
    start_ms = NOW_MS + HOUR_MS + chance.randrange(14 * 24 * HOUR_MS)
    return start_ms, start_ms + 2 * HOUR_MS


def _clearing(windows: object) -> float:
    """Seconds of the block that brings 1,000 listings to 10,000 resting bids: the listings, the clearing, the contracts."""
    market, chance = Market(), random.Random(3)
    market.admit(CLEARING_PILES, 100)
    for i in range(CLEARING_BIDS):
        start_ms, end_ms = windows(chance)  # type: ignore[operator]
        energy_wh, limit = 100 * chance.randrange(1, 60), chance.randrange(700_000, 1_300_000)
        market.bid(i % 100, start_ms, end_ms, energy_wh=energy_wh, limit_micro_per_kwh=limit)
    market.block()
    for i in range(CLEARING_PILES):
        ask = {"ask_micro_per_kwh": chance.randrange(600_000, 900_000)} if i % 2 else {}
        market.offer(i, **ask)
    block = market.block()
    assert market.state.count(Contract) >= CLEARING_PILES
    times_s = []
    for _ in range(3):
        state = replay(market.genesis, market.blocks[:-1])
        began = time.process_time()
        apply_block(state, env(market.chain_id, len(market.blocks), block.time_ms), block.txs)
        times_s.append(time.process_time() - began)
    return min(times_s)


# --- an old store ----------------------------------------------------------------------------------------------------


def _archived() -> Figure:
    """The same blocks committed to a store with few and to one with many archived orders, in turns."""
    rounds, minutes = 9, 10
    market = Market()
    market.admit(PILES, PILES)
    lives = market.live(PILES, rounds, minutes)
    tx_rows = 1 + sum(len(block.txs) for block in lives) // (PILES * rounds)
    with tempfile.TemporaryDirectory() as folder:
        engines = []
        for orders in (FEW_ARCHIVED, MANY_ARCHIVED):
            solo = engine(market, Path(folder) / str(orders))
            solo.verify = CachingVerifier(accept_all)
            commit(solo, market.blocks[0])
            _fill(Path(folder) / str(orders), orders * tx_rows, orders // PILES * len(lives) // rounds)
            engines.append(solo)
        times_s: list[list[float]] = [[], []]
        for number, block in enumerate(lives):
            for which in (0, 1) if number % 2 else (1, 0):
                parse_proof.cache_clear()
                times_s[which].append(commit(engines[which], block))
        for solo in engines:
            solo.close()
    a_round = len(lives) // rounds
    few, many = (sum(statistics.median(times[kind::a_round]) for kind in range(a_round)) for times in times_s)
    limit = f"the same with {FEW_ARCHIVED:,} archived orders"
    return Figure("ledger-archived", many * 1000, "ms", few * 1000, limit, "<= 1.2")


def _fill(ledger: Path, txs: int, blocks: int) -> None:
    """What archived orders leave in the store: transactions by id, and blocks, here at heights before the first."""
    db = sqlite3.connect(ledger)
    db.execute("PRAGMA synchronous=OFF")
    numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
    db.execute(f"INSERT INTO tx {numbers} SELECT randomblob(32), -i / 500, i % 500 FROM n ORDER BY 1", (txs,))
    columns = db.execute("SELECT count(*) FROM pragma_table_info('block')").fetchone()[0]
    blobs = ", ".join([f"zeroblob({ARCHIVED_BLOCK_BYTES // (columns - 1)})"] * (columns - 1))
    db.execute(f"INSERT INTO block {numbers} SELECT -i, {blobs} FROM n", (blocks,))
    db.commit()
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()


# --- a large state ---------------------------------------------------------------------------------------------------


def _large_state() -> Iterator[Figure]:
    """What a process needs that opens a ledger with 100,000 open orders and goes on."""
    with tempfile.TemporaryDirectory() as folder:
        ledger, genesis = Path(folder) / "ledger", Path(folder) / "genesis.json"
        _write_large_state(ledger, genesis)
        command = [sys.executable, "-m", "bench.support.restart", str(ledger), str(genesis)]
        rounds = [json.loads(subprocess.run(command, check=True, capture_output=True).stdout) for _ in range(3)]
    assert all(found["open"] == OPEN_CONTRACTS + OPEN_BIDS + OPEN_LISTINGS for found in rounds), rounds
    peak_mb = max(found["peak_kb"] for found in rounds) / 1000
    yield Figure("ledger-open-memory", peak_mb, "MB", 600, "the target in MB", "<= 1.0")
    seconds = min(found["seconds"] for found in rounds)
    yield Figure("ledger-open-restart", seconds, "s", 10, "the target in seconds", "<= 1.0")


def _write_large_state(ledger: Path, genesis: Path) -> None:
    """Half of the orders under contract, a quarter resting bids, a quarter listings that are too dear for them."""
    market, piles, users = Market(zones=10), 1000, 200
    genesis.write_text(json.dumps(market.genesis.to_json()))
    market.admit(piles, users)
    listings = [market.offer(i, energy_wh=1_000_000_000) for i in range(piles)]
    for i in range(OPEN_CONTRACTS):
        start_ms = NOW_MS + 24 * HOUR_MS + i // piles * HOUR_MS
        market.bid(i % users, start_ms, start_ms + HOUR_MS, zone=i % piles)
        if i % piles == piles - 1:
            market.block()
    assert (market.state.count(Contract), market.state.count(Bid)) == (OPEN_CONTRACTS, 0)
    for i in range(OPEN_LISTINGS - len(listings)):
        market.offer(i % piles, ask_micro_per_kwh=1_300_000)
    market.block()
    for i in range(OPEN_BIDS):
        start_ms = NOW_MS + (24 + i // piles) * HOUR_MS
        market.bid(i % users, start_ms, start_ms + HOUR_MS, zone=i % piles, limit_micro_per_kwh=450_000)
    market.block()
    assert (market.state.count(Listing), market.state.count(Bid)) == (OPEN_LISTINGS, OPEN_BIDS)
    for kind in TABLES.values():  # one block that writes all of it
        for record in market.state.each(kind):
            market.state.put(record)
    solo = engine(market, ledger)
    solo.state = market.state
    solo.make_block(market.time_ms + 1)
    solo.close()


if __name__ == "__main__":
    report(figures())
