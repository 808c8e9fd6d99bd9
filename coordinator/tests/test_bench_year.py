"""The year that bench/evidence.py measures has the rows that the exporter writes: both from the facts of the same blocks."""

from itertools import pairwise

import pytest
from bench.support import evidence_year
from bench.support.market import NOW_MS, Market, RecordedBlock, accept_all, engine
from evidence_rows import content
from sqlalchemy import create_engine

from pile_coordinator.chain.proofs import parse_proof
from pile_coordinator.chain.records import Contract
from pile_coordinator.chain.settlement import contract_escrow_micro, decode_statement
from pile_coordinator.chain.transactions import (
    AT_MARKET,
    Confirm,
    Deposit,
    List,
    RegisterParty,
    RegisterPile,
    SubmitProofs,
    decode_transaction,
)
from pile_coordinator.engines.engine import Block, CachingVerifier
from pile_coordinator.evidence.exporter import Exporter
from pile_shared import terms as wire
from pile_shared.codec import decode
from pile_shared.cose import key_id
from pile_shared.platform import sha256
from pile_shared.proof import BEGIN, END, PERIODIC, proof_hash

HOUR, MINUTE = 3_600_000, 60_000
ORDERS, PILES = 40, 4


def live(market: Market, number: int, at: int) -> Contract:
    """The first block of an order: its listing and its bid."""
    pile, end = f"pile-{number % PILES}", at + 3 * HOUR
    energy = 7000 - 1000 * (number % 3)
    market.send(f"owner-{number % PILES}", List(pile, at, end, energy, AT_MARKET, explicit=False))
    market.bid(number % 3, at, end, zone=number % PILES, energy_wh=energy, pile=pile)
    market.block(at - (1 + number % 5) * 7 * MINUTE)
    return max(market.state.each(Contract), key=lambda c: market.state.terms_of(c).window_start_ms)


def measure(market: Market, contract: Contract, at: int) -> None:
    pile = market.state.terms_of(contract).pile
    apart = -(-market.state.terms_of(contract).energy_wh * HOUR // (20 * 7000))  # all that was ordered, in 20 steps
    proofs = [market._prove(pile, contract.id, BEGIN, at + 1000, 1, 0)]
    proofs += [
        market._prove(pile, contract.id, event, at + (1 + 30 * i) * MINUTE, 10, apart)
        for i, event in enumerate((PERIODIC, END))
    ]
    market.send("operator", SubmitProofs(proofs))
    market.block(at + HOUR + 17 * MINUTE)


def confirm(market: Market, contract: Contract, at: int) -> None:
    terms, found = market.state.terms_of(contract), market.state.get(Contract, contract.id)
    for party in (terms.user, terms.owner):
        market.send(party, Confirm(contract.id, decode_statement(found.statement).digest()))
    market.block(at + HOUR + 71 * MINUTE)


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """Some days of orders that overlap from pile to pile, through the engine and the exporter."""
    market = Market(zones=2)
    market.admit(PILES, 3)
    open_: list[tuple[int, object]] = []
    for number in range(ORDERS):
        at = NOW_MS + 2 * HOUR + number * 97 * MINUTE
        for _, step in sorted((due, step) for due, step in open_ if due < at - 45 * MINUTE):
            step()
        open_ = [(due, step) for due, step in open_ if due >= at - 45 * MINUTE]
        contract = live(market, number, at)
        measured = lambda c=contract, t=at: (measure(market, c, t), confirm(market, c, t))  # noqa: E731
        open_.append((at + HOUR + 71 * MINUTE, measured))
    for _, step in open_:
        step()
    folder = tmp_path_factory.mktemp("year")
    solo = engine(market, folder / "ledger")
    solo.verify = CachingVerifier(accept_all)
    for block in market.blocks:
        commit(solo, block)
    exporter = Exporter(folder / "evidence.sqlite")
    exporter.catch_up(solo)
    yield [solo.block(height) for height in range(1, solo.height + 1)], exporter
    exporter.close()
    solo.close()


def commit(solo, block: RecordedBlock) -> None:
    for tx in block.txs:
        solo.submit(tx, bounded=False)
    assert all(result.code == "ok" for result in solo.make_block(block.time_ms).results)


def facts_of(blocks: list[Block], put) -> None:
    """What blocks say, into the tables of facts; by no code of the evidence."""
    lives: dict[bytes, dict[str, object]] = {}
    told: list[tuple[object, ...]] = []
    for block in blocks:
        header = block.header
        sizes = len(block.txs), len(block.leaves)
        put("header", [(header.height, header.time_ms, header.hash(), header.proposer, *sizes)])
        txs = [(sha256(data), decode_transaction(data)) for data in block.txs]
        events = [decode(leaf, 1 << 20) for leaf in block.leaves[len(block.txs) :]]
        if header.height == 1:
            admission(txs, put)
            continue
        first = txs[0][1].body
        if isinstance(first, List):
            lives |= dict([placed(block, txs, events, len(lives))])
        elif isinstance(first, SubmitProofs):
            told += session(block, txs, events, lives)
        else:
            life = lives[first.contract]
            life |= {"confirmed_user": txs[0][0], "confirmed_owner": txs[1][0]}
            life |= {"closed": header.height, "closed_ms": header.time_ms}
    names = [name.strip().split()[0] for name in evidence_year.FACTS[5].partition("(")[2].rstrip(")").split(",")]
    put("life", [tuple(life[name] for name in names) for life in lives.values()])
    put("told", told)


def admission(txs, put) -> None:
    put("entry", [(i, tx_id, tx.body.TYPE, tx.sender) for i, (tx_id, tx) in enumerate(txs)])
    for i, (_, tx) in enumerate(txs):
        body = tx.body
        if isinstance(body, RegisterParty):
            put("person", [(body.id, body.role, body.public, i)])
        elif isinstance(body, Deposit):
            put("deposited", [(i, body.reference, body.party, body.amount_micro)])
        elif isinstance(body, RegisterPile):
            put("place", [(body.id, body.owner, body.zone, key_id(body.public), body.rated_power_w)])


def placed(block: Block, txs, events, n: int) -> tuple[bytes, dict[str, object]]:
    (listing, _), (bid, sent) = txs
    (terms,) = [wire.decode_terms(row[1]) for row in events if row[0] == wire.LEAF_CONTRACT]
    (clearing,) = [row for row in events if row[0] == wire.LEAF_CLEARING]
    data = next(row[1] for row in events if row[0] == wire.LEAF_CONTRACT)
    same = ("pile", "user", "energy_wh")
    life: dict[str, object] = {name: getattr(terms, name) for name in same} | {"n": n, "listing": listing, "bid": bid}
    life |= {"contract": sha256(data), "terms": data, "price": terms.price_micro_per_kwh, "fee": terms.fee_micro}
    life |= {"catalog_sell": terms.catalog_sell_micro_per_kwh, "catalog_buy": terms.catalog_buy_micro_per_kwh}
    life |= {
        "limit_price": sent.body.limit_micro_per_kwh,
        "escrow": contract_escrow_micro(terms),
        "bond": terms.bond_micro,
    }
    life |= {"capacity_wh": clearing[2][0], "tariff": clearing[3], "open_before_wh": clearing[4]}
    life |= {"start_ms": terms.window_start_ms, "end_ms": terms.window_end_ms, "expires_ms": sent.body.expires_ms}
    return sha256(data), life | {"placed": block.header.height, "placed_ms": block.header.time_ms}


def session(block: Block, txs, events, lives) -> list[tuple[object, ...]]:
    tx_id, tx = txs[0]
    statement = next(decode_statement(row[1]) for row in events if row[0] == wire.LEAF_SETTLEMENT)
    life = lives[statement.contract]
    life |= {"batch": tx_id, "digest": statement.digest(), "measured": block.header.height}
    life["measured_ms"] = block.header.time_ms
    proofs = [parse_proof(message)[1] for message in tx.body.proofs]
    life["sequence"] = proofs[0].sequence
    return [
        (life["n"], share, proof_hash(message), message, p.readings[0].time_ms, p.readings[-1].time_ms, p.readings[-1].energy_wh)
        for share, (message, p) in enumerate(zip(tx.body.proofs, proofs, strict=True))
    ]  # fmt: skip


def test_the_years_rows_are_the_exporters(chain):
    blocks, exporter = chain
    made = create_engine("sqlite://")
    with made.connect() as db:
        evidence_year.begin(db)
        facts_of(blocks, lambda table, rows: evidence_year._put(db, table, rows))
        evidence_year.write(db)
        generated, exported = content(db), content(exporter.db)
        assert generated.keys() == exported.keys()
        for table, rows in exported.items():
            assert generated[table] == rows, table
        indexes = (
            "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND tbl_name != 'alembic_version' ORDER BY name"
        )
        assert db.exec_driver_sql(indexes).all() == exporter.db.exec_driver_sql(indexes).all()
    made.dispose()
    assert len(exported["contract"]) == ORDERS
    assert len(exported["tally"]) > ORDERS


def test_a_drawn_year_is_whole(tmp_path, monkeypatch):
    """Each order has the rows that an order of the test above has, and heights follow the clock."""
    monkeypatch.setattr(evidence_year, "PILES", 5)
    monkeypatch.setattr(evidence_year, "USERS", 7)
    made = create_engine(f"sqlite:///{tmp_path / 'year.sqlite'}")
    with made.connect() as db:
        evidence_year.fill(db, 60)
        rows = content(db)
    made.dispose()
    count = {table: len(found) for table, found in rows.items()}
    assert (count["contract"], count["proof"], count["posting"], count["block"]) == (60, 180, 240, 181)
    assert (count["orders"], count["tx"], count["confirmation"]) == (120, 3 * 5 + 2 * 7 + 5 * 60, 120)
    times = [row[1] for row in rows["block"]]
    assert times == sorted(times)
    assert [row[0] for row in rows["block"]] == list(range(1, 182))
    by_pile: dict[str, list[tuple[int, int]]] = {}
    for row in rows["contract"]:
        by_pile.setdefault(row[7], []).append(row[17:19])
    for windows in by_pile.values():
        windows.sort()
        assert all(ended <= begun for (_, ended), (begun, _) in pairwise(windows))
