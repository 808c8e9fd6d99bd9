"""How the network is: blocks and the time between them, who makes and signs them, and who was punished.

The evidence knows who proposed a block and, where accounting nodes are elected, every set of them with its stake. Who signed
stands in the certificates of blocks, which the ledger keeps: without one nothing is said of signatures.
"""

from itertools import pairwise
from typing import Any, Protocol

from sqlalchemy import Connection, select

from pile_coordinator.chain.conduct import DOWNTIME
from pile_coordinator.chain.genesis import Genesis
from pile_coordinator.evidence import schema
from pile_shared.certificate import Certificate

BLOCKS = 20  # that are shown
SPREAD_BLOCKS = 200  # whose times are looked at

_Row = dict[str, Any]


class Certificates(Protocol):
    """A ledger."""

    def height(self) -> int:
        """Of its last block."""
        ...

    def certificate(self, height: int) -> Certificate | None:
        """Of a block; None if it has none of that height."""
        ...


def network(db: Connection, now_ms: int, genesis: Genesis | None = None, ledger: Certificates | None = None) -> _Row:
    """How the network is.

    Args:
        db: the evidence.
        now_ms: the present, unix ms.
        genesis: names the accounting nodes of a chain that elects none, and of the first blocks; None if it is not known.
        ledger: for who signed; None if there is none.

    Returns:
        height, time_ms and quiet_ms (how long ago that is); ledger_height (None without a ledger); elects (whether accounting
        nodes are elected; False means that those of genesis stay, as on a solo network; None if that is not known); mean_ms,
        least_ms, most_ms between the last SPREAD_BLOCKS blocks (None before there are two); blocks, the newest first, with
        height, time_ms, hash, proposer, txs, signed and missed (parties; None if not known); nodes with party, power and
        stake_micro (None if nothing is staked), proposed (of the blocks shown), missed (of those whose signers are known, None
        if none are), jailed, and punished_height and punishment (the last one, or None).
    """
    b = schema.block.c
    query = select(b.height, b.time_ms, b.hash, b.proposer, b.txs).order_by(b.height.desc()).limit(BLOCKS)
    blocks = [dict(row) | {"hash": row["hash"].hex()} for row in db.execute(query).mappings()]
    for block in blocks:
        block |= _signers(db, block["height"], genesis, ledger)  # noqa: PLW2901 - the same block, told more of
    height, time_ms = (blocks[0]["height"], blocks[0]["time_ms"]) if blocks else (0, 0)
    members = node_set(db, height, genesis)
    return {
        "height": height,
        "time_ms": time_ms,
        "quiet_ms": max(0, now_ms - time_ms) if blocks else 0,
        "ledger_height": ledger.height() if ledger else None,
        "elects": _elects(db, genesis),
        **_spread(db),
        "blocks": blocks,
        "nodes": [_node(db, member, blocks) for member in members],
    }


def _elects(db: Connection, genesis: Genesis | None) -> bool | None:
    if db.execute(select(schema.accounting_node.c.from_height).limit(1)).first() is not None:
        return True
    return None if genesis is None else genesis.stake is not None


def _spread(db: Connection) -> _Row:
    b = schema.block.c
    times = list(db.execute(select(b.time_ms).order_by(b.height.desc()).limit(SPREAD_BLOCKS)).scalars())
    gaps = [after - before for after, before in pairwise(times)]
    if not gaps:
        return {"mean_ms": None, "least_ms": None, "most_ms": None}
    return {"mean_ms": sum(gaps) // len(gaps), "least_ms": min(gaps), "most_ms": max(gaps)}


def node_set(db: Connection, height: int, genesis: Genesis | None = None) -> list[_Row]:
    """The accounting nodes of a block, in the order of their numbers: party, power, stake_micro; empty if not known."""
    n = schema.accounting_node.c
    latest = select(n.from_height).where(n.from_height <= height).order_by(n.from_height.desc()).limit(1)
    since = db.execute(latest).scalar()
    if since is None:
        return (
            [{"party": v.party, "power": v.power, "stake_micro": None} for v in genesis.validators] if genesis else []
        )
    query = select(n.party, n.power, n.stake_micro).where(n.from_height == since).order_by(n.party)
    return [dict(row) for row in db.execute(query).mappings()]


def _signers(db: Connection, height: int, genesis: Genesis | None, ledger: Certificates | None) -> _Row:
    certificate = ledger.certificate(height) if ledger else None
    names = [member["party"] for member in node_set(db, height, genesis)]
    if certificate is None or not certificate.attestations or not names:  # one that is not certified yet has none
        return {"signed": None, "missed": None}
    numbers = {number for number, _ in certificate.attestations}
    signed = [name for number, name in enumerate(names) if number in numbers]
    return {"signed": signed, "missed": [name for name in names if name not in signed]}


def _node(db: Connection, member: _Row, blocks: list[_Row]) -> _Row:
    known = [block for block in blocks if block["signed"] is not None]
    party = member["party"]
    missed = sum(party in block["missed"] for block in known) if known else None
    proposed = sum(block["proposer"] == party for block in blocks)
    return member | {"proposed": proposed, "missed": missed} | _punishment(db, party)


def _punishment(db: Connection, party: str) -> _Row:
    """Who was away too long is in jail until it says `unjail`; who signed twice is out for good."""
    p, t = schema.punishment.c, schema.tx.c
    query = select(p.height, p.reason).where(p.party == party).order_by(p.height.desc(), p.leaf.desc()).limit(1)
    last = db.execute(query).first()
    if last is None:
        return {"jailed": False, "punished_height": None, "punishment": None}
    freed = select(t.height).where(t.sender == party, t.height > last.height, t.type == "unjail", t.code == "ok")
    is_free = last.reason == DOWNTIME and db.execute(freed.limit(1)).first() is not None
    return {"jailed": not is_free, "punished_height": last.height, "punishment": last.reason}


def jailed_nodes(db: Connection) -> list[_Row]:
    """Who was punished and is not free: party, punished_height, punishment, time_ms."""
    p, b = schema.punishment.c, schema.block.c
    parties = list(db.execute(select(p.party).distinct().order_by(p.party)).scalars())
    found = [{"party": party} | _punishment(db, party) for party in parties]
    jailed = [row for row in found if row["jailed"]]
    for row in jailed:
        row["time_ms"] = db.execute(select(b.time_ms).where(b.height == row["punished_height"])).scalar()
    return jailed
