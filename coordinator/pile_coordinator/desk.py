"""Answers to parties' signed questions: their account and orders, a price before an order, an order's certificate.

A query is a COSE_Sign1 over `[party, nonce, question, arguments]`; the answer repeats the nonce. Only a party itself can
ask about its own account and orders; prices are everybody's.
"""

import sqlite3
from typing import cast

from pile_coordinator.chain import contracts, settlement
from pile_coordinator.chain.accounts import FEES, party_account
from pile_coordinator.chain.records import Bid, Contract, Listing, Party, Zone
from pile_coordinator.engines.solo import SoloEngine
from pile_coordinator.evidence import queries
from pile_shared import cose
from pile_shared.codec import array, decode
from pile_shared.errors import PilechainError
from pile_shared.units import check_bytes, check_id, check_int

MAX_QUERY_BYTES = 1024
MAX_LISTED = 500  # orders and contracts in one answer
NONCE_BYTES = 16


class QueryError(PilechainError):
    """A question that cannot be answered; the asker is told why."""

    code = "query"


class QueryDesk:
    """Reads the engine's state and the evidence. Used by the engine's thread."""

    def __init__(self, engine: SoloEngine, evidence: sqlite3.Connection) -> None:
        """Serve from one engine and its evidence database."""
        self._engine = engine
        self._evidence = evidence
        self._chain_id = engine.genesis.chain_id

    def answer(self, party_id: str, payload: bytes) -> list[object] | str:
        """The answer `[nonce, code, value]`, or the reason why there is nobody to answer."""
        party = self._engine.state.find(Party, party_id)
        if party is None:
            return "unknown_sender"
        try:
            signed = cose.parse1(payload, MAX_QUERY_BYTES)
            signed.verify(party.public, cose.purpose(cose.QUERY, self._chain_id))
            asker, nonce, question, arguments = array(decode(signed.payload, MAX_QUERY_BYTES), 4)
            check_bytes("nonce", nonce, NONCE_BYTES, NONCE_BYTES)
        except PilechainError as error:
            return error.code
        if asker != party_id:
            return "not_yours"
        try:
            return [nonce, "ok", self._ask(party, question, arguments)]
        except PilechainError as error:
            return [nonce, error.code, str(error)]

    def _ask(self, party: Party, question: object, arguments: object) -> object:
        if question == "account":
            return self._account(party)
        if question == "orders":
            return self._orders(party)
        if question == "quote":
            return self._quote(*array(arguments, 2))
        if question == "contract":
            return self._contract(party, array(arguments, 1)[0])
        if question == "certificate":
            return self._certificate(party, array(arguments, 1)[0])
        raise QueryError("there are questions about account, orders, quote, contract and certificate")

    def _account(self, party: Party) -> object:
        state = self._engine.state
        return {
            "balance_micro": state.balance_micro(party_account(party.id)),
            "currency": state.params.currency,
            "fees_micro": state.balance_micro(FEES),
            "height": self._engine.height,
            "role": party.role,
            "sequence": party.sequence,
            "time_ms": self._engine.time_ms,
        }

    def _orders(self, party: Party) -> object:
        state = self._engine.state
        bids = [[b.id, "bid", b.energy_wh, b.limit_micro_per_kwh] for b in state.each(Bid) if b.user == party.id]
        listings = [
            [x.id, "listing", x.energy_wh, x.ask_micro_per_kwh] for x in state.each(Listing) if x.owner == party.id
        ]
        rows = self._evidence.execute(
            "SELECT id FROM contract WHERE (user = ? OR owner = ?) AND closed_height IS NULL ORDER BY height, leaf LIMIT ?",
            (party.id, party.id, MAX_LISTED),
        ).fetchall()
        open_contracts = [[key, "contract", *self._progress(state.get(Contract, key))] for (key,) in rows]
        return [*bids, *listings, *open_contracts][:MAX_LISTED]

    def _progress(self, contract: Contract) -> list[object]:
        return [contract.phase, contract.last_energy_wh - contract.begin_energy_wh]

    def _quote(self, zone_id: object, energy_wh: object) -> object:
        zone = self._engine.state.find(Zone, check_id("zone", zone_id))
        if zone is None:
            raise QueryError(f"no pile is registered in zone {zone_id}")
        more_wh = check_int("energy_wh", energy_wh, 0, 1_000_000_000)
        curve = contracts.zone_curve(self._engine.state, zone)
        price = curve.price_micro_per_kwh(zone.open_wh + more_wh)
        return {
            "catalog_micro_per_kwh": curve.catalog_micro_per_kwh,
            "hold_micro": contracts.hold_micro(self._engine.state, more_wh, price),
            "now_micro_per_kwh": curve.price_micro_per_kwh(zone.open_wh),
            "open_wh": zone.open_wh,
            "price_micro_per_kwh": price,
        }

    def _contract(self, party: Party, order: object) -> object:
        row = self._own_contract(party, order)
        state_row = self._engine.state.find(Contract, cast("bytes", row["id"]))
        if state_row is not None:
            phase = state_row.phase
            measured_wh = state_row.last_energy_wh - state_row.begin_energy_wh
        else:
            phase, measured_wh = cast("str", row["outcome"]), cast("int", row["measured_wh"])
        if state_row is not None and state_row.statement:
            statement = settlement.decode_statement(state_row.statement)
            posted = [[p.debit, p.credit, p.amount_micro] for p in statement.postings]
        else:
            posted = [list(p) for p in queries.postings(self._evidence, cast("bytes", row["id"]))]
        names = ("id", "pile", "user", "owner", "energy_wh", "price_micro_per_kwh", "cause", "digest")
        return {name: row[name] for name in names} | {"phase": phase, "measured_wh": measured_wh, "postings": posted}

    def _own_contract(self, party: Party, order: object) -> dict[str, object]:
        row = queries.find_contract(self._evidence, check_bytes("order", order, 32, 32))
        if party.id not in {row["user"], row["owner"]} and party.role not in {"grid", "third-party"}:
            raise QueryError("only its parties, the grid and third parties see a contract")
        return row

    def _certificate(self, party: Party, order: object) -> object:
        row = self._own_contract(party, order)
        return queries.order_certificate(self._evidence, self._engine, cast("bytes", row["id"])).encoded()

    def pile_of_contract(self, contract: bytes) -> str | None:
        """The pile of a contract, or None if the id is a bid's."""
        row = self._evidence.execute("SELECT pile FROM contract WHERE id = ?", (contract,)).fetchone()
        return cast("str", row[0]) if row else None

    def where_signed(self, contract: bytes) -> tuple[int, int]:
        """(height, leaf) of the block that signed a contract."""
        row = self._evidence.execute("SELECT height, leaf FROM contract WHERE id = ?", (contract,)).fetchone()
        return cast("int", row[0]), cast("int", row[1])
