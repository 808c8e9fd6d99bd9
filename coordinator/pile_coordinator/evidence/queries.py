"""Questions the evidence answers: what became of an order, and the certificate that proves it."""

import sqlite3
from typing import cast

from pile_coordinator.certificates import BlockExtract, OrderCertificate
from pile_coordinator.chain.settlement import CAUSE_DEFAULT, CAUSE_NO_SHOW
from pile_coordinator.engines.engine import Block, Engine
from pile_shared.errors import PilechainError


class NoEvidenceError(PilechainError):
    """The evidence database does not know this order, or its story has not ended yet."""

    code = "no_evidence"


def find_contract(db: sqlite3.Connection, order: bytes) -> dict[str, object]:
    """The contract row of a contract id or of the bid it came from; NoEvidenceError if there is none."""
    cursor = db.execute("SELECT * FROM contract WHERE id = ? OR bid = ? ORDER BY id", (order, order))
    row = cursor.fetchone()
    if row is None:
        raise NoEvidenceError(f"no contract came from order {order.hex()} (yet)")
    return {column[0]: value for column, value in zip(cursor.description, row, strict=True)}


def find_order(db: sqlite3.Connection, order: bytes) -> dict[str, object]:
    """The order row of a bid or listing; NoEvidenceError if there is none."""
    cursor = db.execute("SELECT * FROM orders WHERE id = ?", (order,))
    row = cursor.fetchone()
    if row is None:
        raise NoEvidenceError(f"no order {order.hex()}")
    return {column[0]: value for column, value in zip(cursor.description, row, strict=True)}


def postings(db: sqlite3.Connection, contract: bytes) -> list[tuple[str, str, int]]:
    """(debit, credit, amount in micro) of a settlement, in order."""
    query = "SELECT debit, credit, amount_micro FROM posting WHERE contract = ? ORDER BY item"
    return cast("list[tuple[str, str, int]]", db.execute(query, (contract,)).fetchall())


def last_receipt(db: sqlite3.Connection, pile: str) -> tuple[int, int] | None:
    """(height, leaf) of the newest receipt for a pile, or None."""
    row = db.execute("SELECT height, leaf FROM receipt WHERE pile = ?", (pile,)).fetchone()
    return (row[0], row[1]) if row else None


def order_certificate(db: sqlite3.Connection, engine: Engine, order: bytes) -> OrderCertificate:
    """The certificate of a closed contract, by contract id or bid id; NoEvidenceError before it is closed."""
    row = find_contract(db, order)
    if row["closed_height"] is None:
        raise NoEvidenceError("the contract is still open; its certificate is made when it closes")
    contract = cast("bytes", row["id"])
    signing = engine.block(cast("int", row["height"]))
    settlement = engine.block(cast("int", row["settled_height"]))
    closing = engine.block(cast("int", row["closed_height"]))
    began = row["cause"] not in {CAUSE_DEFAULT, CAUSE_NO_SHOW}
    proofs = db.execute(
        "SELECT bytes FROM proof WHERE contract = ? AND height <= ? ORDER BY sequence",
        (contract, row["settled_height"] if began else 0),
    ).fetchall()
    confirmations = db.execute(
        "SELECT height, position FROM confirmation WHERE contract = ? ORDER BY height, position", (contract,)
    ).fetchall()
    return OrderCertificate(
        engine.genesis.chain_id,
        _extract(signing, cast("int", row["leaf"]), cast("int", row["clearing_leaf"])),
        _extract(settlement, cast("int", row["settled_leaf"])),
        _extract(closing, cast("int", row["closed_leaf"])),
        _order_bytes(db, engine, cast("bytes", row["bid"])),
        _order_bytes(db, engine, cast("bytes", row["listing"])),
        tuple(proof for (proof,) in proofs),
        tuple(engine.block(height).txs[position] for height, position in confirmations),
    )


def _order_bytes(db: sqlite3.Connection, engine: Engine, order: bytes) -> bytes:
    row = find_order(db, order)
    return engine.block(cast("int", row["height"])).txs[cast("int", row["position"])]


def _extract(block: Block, *indexes: int) -> BlockExtract:
    rows = tuple((block.leaves[i], i, tuple(block.path(i))) for i in indexes)
    return BlockExtract(block.certificate, rows)
