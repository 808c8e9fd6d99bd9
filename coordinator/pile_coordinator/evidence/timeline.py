"""An order's way from meter to money, step by step, with each metering proof and what checking it again comes to."""

from typing import Any

from sqlalchemy import Connection, select

from pile_coordinator.chain.contracts import UNSIGNED
from pile_coordinator.evidence import schema
from pile_coordinator.evidence.scopes import View, contracts_seen, newest, orders_seen, plain
from pile_coordinator.evidence.trace import UnknownIdError
from pile_shared import cose
from pile_shared.errors import PilechainError
from pile_shared.proof import parse, proof_hash
from pile_shared.terms import Terms, decode_terms

STEPS = (
    "bid", "listing", "clearing", "proposed", "contract", "signature", "start", "proof", "end", "settlement", "cancellation",
    "confirmation", "dispute", "answer", "ruling", "posting", "closing", "certificate",
)  # fmt: skip
"""Kinds of steps. `start` and `end` are the proofs that began and ended the session."""

MAX_PROOFS = 200  # of a page: each is verified anew, some 0.2 ms
_EVENTS = {"begin": "start", "end": "end"}
_MOST = 64  # of what is said of one contract: signatures, confirmations, rulings, postings

_Row = dict[str, Any]


def timeline(
    db: Connection,
    view: View,
    contract: bytes,
    *,
    chain_id: str | None = None,
    after_sequence: int = 0,
    limit: int = 100,
) -> _Row:
    """A contract's way from its bid to its certificate, in the order of the chain.

    Args:
        db: the evidence.
        view: what the asker sees; the steps of orders that it does not see are left out.
        contract: its id.
        chain_id: for checking signatures of proofs; None: they are not checked.
        after_sequence: `next_sequence` of the page before: proofs that follow it, and no other step.
        limit: proofs, 1 to MAX_PROOFS.

    Returns:
        contract (hex), pile, zone, user, anonymous (whether notes paid, so that the user is a pseudonym of this order only),
        owner, state, outcome, next_sequence (None after the last proof), and steps. Each has kind (STEPS), height, time_ms,
        position or leaf (the other is None), and its own facts: all integers, words and ids as the schema has them. The bid
        of an anonymous order has notes, each [denomination, bin, key image in hex], the one that leads first; what that one
        signed has ring, True. A proof has sequence, hash, event, reason, first_time_ms, last_time_ms, last_energy_wh and
        checks: signature, place (it follows the proof before it, by hash and number), register (it does not fall), each
        True, False or None where it cannot be told.

    Raises:
        UnknownIdError: there is no such contract in view.
    """
    c = schema.contract.c
    seen = contracts_seen(view.contracts, view.party, schema.contract)
    found = db.execute(select(schema.contract).where(c.id == contract, seen).limit(1)).mappings().first()
    if found is None:
        raise UnknownIdError(f"no contract {contract.hex()}")
    teller = _Teller(db, view, dict(found), chain_id)
    proofs, following = teller.proofs(after_sequence, max(1, min(limit, MAX_PROOFS)))
    steps = proofs if after_sequence else sorted([*teller.steps(), *proofs], key=_place)
    names = ("pile", "zone", "user", "owner", "state", "outcome")
    return {
        "contract": contract.hex(),
        **{name: found[name] for name in names},
        "anonymous": teller.anonymous,
        "steps": _timed(db, steps),
        "next_sequence": following,
    }


def _place(step: _Row) -> tuple[int, bool, int, int]:
    """Transactions of a block come before its events; the certificate last of all."""
    in_block = step["leaf"] if step["position"] is None else step["position"]
    return step["height"], step["position"] is None, in_block, STEPS.index(step["kind"])


def _timed(db: Connection, steps: list[_Row]) -> list[_Row]:
    heights = sorted({step["height"] for step in steps})
    b, times = schema.block.c, dict[int, int]()
    for start in range(0, len(heights), 200):
        query = select(b.height, b.time_ms).where(b.height.in_(heights[start : start + 200]))
        times |= {row.height: row.time_ms for row in db.execute(query)}
    return [plain(step | {"time_ms": times[step["height"]]}) for step in steps]


def _step(kind: str, height: int, position: int | None, leaf: int | None, **facts: Any) -> _Row:
    return {"kind": kind, "height": height, "position": position, "leaf": leaf} | facts


class _Teller:
    """Tells of one contract."""

    def __init__(self, db: Connection, view: View, row: _Row, chain_id: str | None) -> None:
        self._db, self._view, self._row, self._chain_id = db, view, row, chain_id
        self._terms: Terms = decode_terms(row["terms"])
        nobody = schema.pseudonym.c.id
        self.anonymous = db.execute(select(nobody).where(nobody == row["user"])).first() is not None

    def steps(self) -> list[_Row]:
        """Everything but the proofs."""
        return [*self._orders(), *self._match(), *self._said(), *self._dispute(), *self._settled(), *self._ending()]

    def _all(self, table: Any) -> list[_Row]:
        query = select(table).where(table.c.contract == self._row["id"]).limit(_MOST)
        return [dict(row) for row in self._db.execute(query).mappings()]

    def _orders(self) -> list[_Row]:
        o = schema.orders.c
        names = ("id", "party", "energy_wh", "price_micro_per_kwh", "window_start_ms", "window_end_ms", "outcome")
        steps = []
        for kind in ("bid", "listing"):
            which = (o.id == self._row[kind], orders_seen(self._view.orders, self._view.party))
            row = self._db.execute(select(schema.orders).where(*which).limit(1)).mappings().first()
            if row is not None:
                facts = {name: row[name] for name in names} | self._by_ring(row["party"])
                if kind == "bid" and self.anonymous:
                    facts["notes"] = self._notes(row["id"])
                steps.append(_step(kind, row["height"], row["position"], None, **facts))
        return steps

    def _by_ring(self, party: str) -> _Row:
        """That the note which leads signed it, where it did."""
        return {"ring": True} if self.anonymous and party == self._row["user"] else {}

    def _notes(self, order: bytes) -> list[list[int | str]]:
        n = schema.note_spend.c
        query = select(n.denomination, n.number, n.image).where(n.source == order).order_by(n.item).limit(_MOST)
        return [[denomination, number, image.hex()] for denomination, number, image in self._db.execute(query)]

    def _match(self) -> list[_Row]:
        row, c, p = self._row, schema.clearing.c, schema.price.c
        steps = []
        query = select(schema.clearing).where(c.height == row["height"], c.zone == row["zone"]).limit(1)
        for found in self._db.execute(query).mappings():
            priced = select(p.catalog_micro_per_kwh, p.price_micro_per_kwh).where(
                p.zone == row["zone"], p.height == row["height"]
            )
            prices = [list(price) for price in self._db.execute(priced.order_by(p.catalog_micro_per_kwh).limit(_MOST))]
            load = ("zone", "capacity_wh", "open_before_wh", "open_after_wh")
            facts = {name: found[name] for name in load} | {"prices": prices}
            steps.append(_step("clearing", row["height"], None, found["leaf"], **facts))
        names = ("energy_wh", "price_micro_per_kwh", "catalog_sell_micro_per_kwh", "catalog_buy_micro_per_kwh",
                 "window_start_ms", "window_end_ms", "fee_micro", "escrow_micro", "bond_micro")  # fmt: skip
        facts = {name: row[name] for name in names}
        if (row["height"], row["leaf"]) != (row["signed_height"], row["signed_leaf"]):
            steps.append(_step("proposed", row["height"], None, row["leaf"], **facts))
        if row["signed_height"] is not None:
            steps.append(_step("contract", row["signed_height"], None, row["signed_leaf"], **facts))
        return steps

    def _said(self) -> list[_Row]:
        return [
            _step(table.name, row["height"], row["position"], None, party=row["party"], **self._by_ring(row["party"]))
            for table in (schema.signature, schema.cancellation, schema.confirmation)
            for row in self._all(table)
        ]

    def _dispute(self) -> list[_Row]:
        steps = []
        for row in self._all(schema.dispute):
            facts = {name: row[name] for name in ("party", "ground", "claimed_wh", "text", "bond_micro")}
            facts |= self._by_ring(row["party"])
            steps.append(_step("dispute", row["height"], row["position"], None, **facts))
            if row["answer_height"] is not None:
                steps.append(
                    _step("answer", row["answer_height"], row["answer_position"], None, party=self._row["owner"])
                )
        for row in self._all(schema.ruling):
            facts = {"party": row["arbiter"], "measured_wh": row["measured_wh"], "cause": row["cause"]}
            steps.append(_step("ruling", row["height"], row["position"], None, **facts))
        return steps

    def _settled(self) -> list[_Row]:
        """Each settlement beside what was contracted, and the postings that moved money."""
        row, steps, last = self._row, list[_Row](), None
        for last in sorted(self._all(schema.statement), key=lambda found: int(found["number"])):
            names = ("number", "measured_wh", "contracted_wh", "grid_wh", "unpaid_wh", "cause", "basis")
            facts = {name: last[name] for name in names}
            facts |= {"expected_wh": row["energy_wh"], "off_wh": last["measured_wh"] - row["energy_wh"]}
            facts |= {name: row[name] for name in ("catalog_sell_micro_per_kwh", "catalog_buy_micro_per_kwh")}
            steps.append(_step("settlement", last["height"], None, last["leaf"], **facts))
        if row["closed_height"] is not None and last is not None:
            for posting in sorted(self._all(schema.posting), key=lambda found: int(found["item"])):
                if posting["number"] == last["number"]:
                    facts = {name: posting[name] for name in ("number", "item", "debit", "credit", "amount_micro")}
                    steps.append(_step("posting", row["closed_height"], None, row["closed_leaf"], **facts))
        return steps

    def _ending(self) -> list[_Row]:
        row = self._row
        if row["closed_height"] is None:
            return []
        at = (row["closed_height"], None, row["closed_leaf"])
        ended = [_step("closing", *at, outcome=row["outcome"])]
        return ended if row["outcome"] == UNSIGNED else [*ended, _step("certificate", *at)]

    # --- proofs ---

    def proofs(self, after: int, limit: int) -> tuple[list[_Row], int | None]:
        """Its proofs after a sequence, each checked again, and the sequence after which more follow."""
        p, row = schema.proof.c, self._row
        which = (p.contract == row["id"], p.kid == row["kid"], p.sequence > after)
        query = select(schema.proof).where(*which).order_by(p.sequence).limit(limit + 1)
        found = [dict(proof) for proof in self._db.execute(query).mappings()]
        shown = found[:limit]
        before = self._before(shown[0]["sequence"]) if shown else None
        steps = []
        for proof in shown:
            names = ("sequence", "hash", "event", "reason", "first_time_ms", "last_time_ms", "last_energy_wh")
            facts = {name: proof[name] for name in names} | {"checks": self._checks(proof, before)}
            steps.append(_step(_EVENTS.get(proof["event"], "proof"), proof["height"], proof["position"], None, **facts))
            before = proof
        return steps, shown[-1]["sequence"] if len(found) > limit else None

    def _before(self, sequence: int) -> _Row | None:
        p = schema.proof.c
        query = select(schema.proof).where(p.kid == self._row["kid"], p.sequence == sequence - 1)
        found = self._db.execute(query.limit(1)).mappings().first()
        return None if found is None else dict(found)

    def _checks(self, row: _Row, before: _Row | None) -> _Row:
        """What the bytes of a proof come to, read anew: nothing that was written beside them is trusted."""
        try:
            signed, proof = parse(row["bytes"])
        except PilechainError:
            return {"signature": False, "place": False, "register": False}
        signature = None
        if self._chain_id is not None:
            signature = _is_signed(signed, self._terms.pile_public, self._chain_id)
        next_to = before is not None and before["sequence"] + 1 == proof.sequence
        place = None
        if next_to and before is not None:
            place = proof.previous == proof_hash(before["bytes"]) and proof_hash(row["bytes"]) == row["hash"]
        elif proof.sequence == 1:
            place = proof.previous == bytes(32)
        energies = [reading.energy_wh for reading in proof.readings]
        if next_to and before is not None and before["last_energy_wh"] is not None:
            energies.insert(0, before["last_energy_wh"])
        return {"signature": signature, "place": place, "register": energies == sorted(energies)}


def _is_signed(signed: cose.Sign1, public: bytes, chain_id: str) -> bool:
    try:
        signed.verify(public, cose.purpose(cose.PROOF, chain_id))
    except PilechainError:
        return False
    return True


def contracts_of_order(db: Connection, view: View, order: bytes, limit: int = 64) -> list[str]:
    """The contracts in view that came from a bid or listing, the newest first, as ids in hex."""
    c = schema.contract.c
    seen = contracts_seen(view.contracts, view.party, schema.contract)
    branches = [(c.bid == order) & seen, (c.listing == order) & seen]
    return [row["id"].hex() for row in newest(db, select(c.id), branches, (c.height, c.id), None, limit)]
