"""Answers to parties' signed questions: their account, orders and contracts, prices before an order, what waits for them.

A query is a COSE_Sign1 over `[party, nonce, question, arguments]`; the answer repeats the nonce. Only a party itself can
ask about its own account and orders; prices are everybody's. Every answer is bounded: lists by MAX_LISTED rows.

Who pays with notes asks as a guest, `[pseudonym, nonce, question, arguments, public key]`: the key names it before its order is
made and after it has ended, when the chain knows no such party.
"""

import time
from collections.abc import Callable
from dataclasses import fields, replace
from itertools import islice
from typing import cast

import sqlalchemy as sa

from pile_coordinator.chain import settlement, tariff
from pile_coordinator.chain.accounts import FEES, party_account
from pile_coordinator.chain.epochs import EPOCH
from pile_coordinator.chain.records import (
    ANONYMOUS,
    DISPUTED,
    GRID,
    MEASURED,
    OPERATOR,
    PROPOSED,
    THIRD_PARTY,
    Bid,
    Contract,
    Dispute,
    Epoch,
    Listing,
    Party,
    Pile,
    Tariff,
    Withdrawal,
)
from pile_coordinator.chain.settlement import Statement, decode_statement
from pile_coordinator.chain.transactions import PSEUDONYM, PlaceBid, pseudonym
from pile_coordinator.engines.engine import Engine
from pile_coordinator.evidence import queries
from pile_coordinator.evidence.exporter import Exporter
from pile_coordinator.market_view import offers_answer, zones_answer
from pile_coordinator.notes_view import NotesView, open_answer
from pile_coordinator.quote import Quote, quote
from pile_coordinator.stake_view import stake_answer
from pile_coordinator.stops import KeptStops
from pile_coordinator.troubles import Trouble, Troubles
from pile_shared import cose
from pile_shared.codec import array, decode
from pile_shared.errors import PilechainError
from pile_shared.platform import sha256
from pile_shared.units import MAX_PRICE_MICRO_PER_KWH, check_bytes, check_id, check_int

MAX_QUERY_BYTES = 1024
MAX_LISTED = 500  # rows in one answer: some 150 kB
NONCE_BYTES = 16
_OF_GUESTS = "account certificate contract contracts history notes offers open-notes order orders quote tariff zones"
GUEST_QUESTIONS = frozenset(_OF_GUESTS.split(" "))
GUESTS_PER_S = 50  # answers to all guests together: a page of notes or a quote takes some 2 ms of the engine's thread
GUESTS_AT_ONCE = 200  # after a pause: one wallet's look at 100,000 notes
_QUOTE_FIELDS = tuple(field.name for field in fields(PlaceBid))


class QueryError(PilechainError):
    """A question that cannot be answered; the asker is told why."""

    code = "query"


class Bucket:
    """A token bucket: so many at once, and so many a second after that."""

    def __init__(self, per_s: int, at_once: int, now_s: Callable[[], float] = time.monotonic) -> None:
        """Begin full; `now_s` is a clock that only runs forward."""
        self._per_s, self._most, self._now_s = per_s, at_once, now_s
        self._left, self._seen_s = float(at_once), now_s()

    def take(self) -> bool:
        """Whether there was one left."""
        now_s = self._now_s()
        self._left = min(self._most, self._left + (now_s - self._seen_s) * self._per_s)
        self._seen_s = now_s
        if self._left < 1:
            return False
        self._left -= 1
        return True


class QueryDesk:
    """Reads the engine's state and the evidence. Used by the engine's thread."""

    def __init__(
        self,
        engine: Engine,
        evidence: Exporter,
        *,
        stops: KeptStops | None = None,
        troubles: Troubles | None = None,
        now_ms: Callable[[], int] = lambda: 0,
    ) -> None:
        """Serve from one engine and its evidence database.

        Args:
            engine: whose state is asked about.
            evidence: made from its blocks; while its server is away, questions that need it raise EvidenceAwayError.
            stops: users' stop commands; without them no owner gets one.
            troubles: of the piles, as the service meets them.
            now_ms: the time of a block made now; the last block's if that is later.
        """
        self._engine = engine
        self._exporter = evidence
        self._stops = stops
        self._troubles = troubles or Troubles()
        self._now_ms = now_ms
        self._chain_id = engine.genesis.chain_id
        self._guests = Bucket(GUESTS_PER_S, GUESTS_AT_ONCE)
        self._bins = NotesView()
        self._questions: dict[str, Callable[[Party, object], object]] = {
            "account": lambda party, _: self._account(party),
            "orders": lambda party, _: self._orders(party),
            "quote": lambda party, given: self._quote(party, array(given, len(_QUOTE_FIELDS))),
            "contract": lambda party, given: self._view(self._one(party, given)),
            "contracts": lambda party, given: [self._view(row) for row in self._every(party, given)],
            "certificate": lambda party, given: self._certificate(self._one(party, given)),
            "stop": lambda party, given: self._stop(party, self._one(party, given)),
            "history": lambda party, _: queries.history(self._evidence, party.id, MAX_LISTED),
            "order": self._order,
            "notes": lambda _, given: self._notes(*array(given, 2)),
            "open-notes": lambda _, given: open_answer(self._engine.state, *array(given, 1)),
            "zones": lambda _, __: zones_answer(self._engine.state),
            "offers": lambda _, given: offers_answer(self._engine.state, check_id("zone", array(given, 1)[0])),
            "tariff": lambda _, __: self._tariff(),
            "withdrawals": lambda party, _: self._withdrawals(party),
            "disputes": lambda party, _: self._disputes(party),
            "piles": lambda party, _: self._piles(party),
            "stake": lambda party, _: stake_answer(self._engine.state, self._engine.height, party.id),
        }

    def answer(self, party_id: str, payload: bytes) -> list[object] | str:
        """The answer `[nonce, code, value]`, or the reason why there is nobody to answer."""
        try:
            if self._names_guest(party_id):
                party, row = self._guest(party_id, payload)
            else:
                party, row = self._party(party_id, payload)
            nonce = check_bytes("nonce", row[1], NONCE_BYTES, NONCE_BYTES)
        except PilechainError as error:
            return error.code
        if row[0] != party_id:
            return "not_yours"
        open_to = GUEST_QUESTIONS if party.role == ANONYMOUS else self._questions.keys()
        question = row[2] if isinstance(row[2], str) and row[2] in open_to else ""
        answer = self._questions.get(question)
        try:
            if answer is None:
                raise QueryError(f"there are questions about {', '.join(sorted(open_to))}")
            return [nonce, "ok", answer(party, row[3])]
        except PilechainError as error:
            return [nonce, error.code, str(error)]

    def _party(self, party_id: str, payload: bytes) -> tuple[Party, list[object]]:
        """Who asks, and the row that its key signed."""
        party = self._engine.state.find(Party, party_id)
        if party is None:
            raise QueryError(f"no party {party_id}", "unknown_sender")
        signed = cose.parse1(payload, MAX_QUERY_BYTES)
        signed.verify(party.public, cose.purpose(cose.QUERY, self._chain_id))
        return party, array(decode(signed.payload, MAX_QUERY_BYTES), 4)

    def _names_guest(self, party_id: str) -> bool:
        return party_id.startswith(PSEUDONYM) and self._engine.state.note_rules is not None

    def _guest(self, party_id: str, payload: bytes) -> tuple[Party, list[object]]:
        """The same for somebody without a name. Whatever is dear comes after the bucket: anybody can be a guest.

        A guest that has to wait hears nothing, and asks again.
        """
        signed = cose.parse1(payload, MAX_QUERY_BYTES)
        row = array(decode(signed.payload, MAX_QUERY_BYTES), 5)
        public = check_bytes("public", row[4], cose.PUBLIC_BYTES, cose.PUBLIC_BYTES)
        if party_id != pseudonym(public):
            raise QueryError("this key is another guest's", "unknown_sender")
        if not self._guests.take():
            raise QueryError("guests ask too much", "busy")
        signed.verify(public, cose.purpose(cose.QUERY, self._chain_id))
        return self._engine.state.find(Party, party_id) or Party(party_id, ANONYMOUS, public, 0, 0), row

    @property
    def _time_ms(self) -> int:
        return self._engine.env(self._now_ms()).time_ms

    # --- one's own -----------------------------------------------------------------------------------------------

    def _account(self, party: Party) -> object:
        state = self._engine.state
        return {
            "balance_micro": state.balance_micro(party_account(party.id)),
            "currency": state.params.currency,
            "fees_micro": state.balance_micro(FEES),
            "height": self._engine.height,
            "open_orders": party.open_orders,
            "role": party.role,
            "sequence": party.sequence,
            "time_ms": self._time_ms,
        }

    def _orders(self, party: Party) -> object:
        """Resting bids, open listings and open contracts, MAX_LISTED of each at most."""
        state = self._engine.state
        contracts = queries.open_contracts(self._evidence, party.id, MAX_LISTED)
        bids = [_bid_row(bid) for bid in islice(state.bids_of(party.id), MAX_LISTED)]
        listings = [_listing_row(listing) for listing in islice(state.listings_of(party.id), MAX_LISTED)]
        return [*bids, *listings, *(self._contract_row(state.get(Contract, key)) for key in contracts)]

    def _contract_row(self, contract: Contract) -> dict[str, object]:
        terms = self._engine.state.terms_of(contract)
        return {
            "id": contract.id,
            "kind": "contract",
            "anonymous": self._names_guest(terms.user),
            "awaits": self._awaited(contract),
            "deadline_ms": contract.deadline_ms,
            "energy_wh": terms.energy_wh,
            "measured_wh": _measured_wh(contract),
            "phase": contract.phase,
            "pile": terms.pile,
            "price_micro_per_kwh": terms.price_micro_per_kwh,
            "window_end_ms": terms.window_end_ms,
            "window_start_ms": terms.window_start_ms,
            "zone": terms.zone,
        }

    # --- prices --------------------------------------------------------------------------------------------------

    def _quote(self, party: Party, values: list[object]) -> object:
        """Arguments are those of a bid; a limit of 0 asks for the least at which it fills now.

        A guest hears what would become of it if its notes cover the hold: which they are is nobody's business yet.
        """
        bid = PlaceBid(*values)  # type: ignore[arg-type]
        limit = check_int("limit_micro_per_kwh", bid.limit_micro_per_kwh, 0, MAX_PRICE_MICRO_PER_KWH)
        replace(bid, limit_micro_per_kwh=max(limit, 1)).check()
        env = self._engine.env(self._time_ms)
        order = sha256(self._chain_id.encode() + party.id.encode())  # no transaction has these bytes
        return _quote_answer(quote(self._engine.state, env, party, order, bid), env.time_ms)

    def _tariff(self) -> object:
        state = self._engine.state
        announced = state.find(Tariff, tariff.NEXT)
        return {
            "band_permille": state.params.band_permille,
            "currency": state.params.currency,
            "next": None if announced is None else _tariff_answer(announced),
            "next_edge_ms": state.get(Epoch, EPOCH).next_edge_ms,
            "now": _tariff_answer(state.get(Tariff, tariff.NOW)),
            "time_ms": self._time_ms,
        }

    def _notes(self, denomination: object, number: object) -> object:
        return self._bins.page(self._engine.state, self._engine.height, self._evidence, denomination, number)

    # --- contracts -----------------------------------------------------------------------------------------------

    def _every(self, party: Party, arguments: object) -> list[dict[str, object]]:
        """The evidence of a contract, or of all that came of a bid. Only its parties, the grid and third parties see it."""
        order = check_bytes("order", array(arguments, 1)[0], 32, 32)
        rows = queries.find_contracts(self._evidence, order)
        if not rows:
            raise queries.NoEvidenceError(f"no contract came from order {order.hex()} (yet)")
        sees_all = party.role in {GRID, THIRD_PARTY}
        seen = [row for row in rows if sees_all or party.id in {row["user"], row["owner"]}]
        if not seen:
            raise QueryError("only its parties, the grid and third parties see a contract", "not_yours")
        return seen

    def _order(self, party: Party, arguments: object) -> dict[str, object]:
        """What became of an order of one's own, by the id of its transaction."""
        row = queries.find_order(self._evidence, check_bytes("order", array(arguments, 1)[0], 32, 32))
        if row["party"] != party.id:
            raise QueryError("only its party sees an order", "not_yours")
        return {name: row[name] for name in ("id", "energy_wh", "kind", "outcome", "price_micro_per_kwh")}

    def _one(self, party: Party, arguments: object) -> dict[str, object]:
        rows = self._every(party, arguments)
        if len(rows) > 1:
            names = ", ".join(cast("bytes", row["id"]).hex() for row in rows)
            raise QueryError(f"the order was split over {len(rows)} contracts: {names}", "ambiguous")
        return rows[0]

    def _view(self, row: dict[str, object]) -> dict[str, object]:
        """All there is to know of a contract, open or closed."""
        contract = self._engine.state.find(Contract, cast("bytes", row["id"]))
        names = ("id", "zone", "pile", "user", "owner", "energy_wh", "price_micro_per_kwh", "fee_micro", "escrow_micro")
        began_ms, proven_ms = queries.metered_times(self._evidence, cast("bytes", row["id"]))
        view = {name: row[name] for name in (*names, "window_start_ms", "window_end_ms")}
        view |= {"began_ms": began_ms, "proven_ms": proven_ms, "anonymous": bool(row["anonymous"])}
        if contract is None:
            postings = [list(p) for p in queries.postings(self._evidence, cast("bytes", row["id"]))]
            settled = {name: row[name] for name in ("measured_wh", "cause", "digest")} | {"postings": postings}
            rest = {"awaits": [], "deadline_ms": 0, "dispute": None, "phase": row["outcome"], "session_kid": None}
            return view | settled | rest
        terms = self._engine.state.terms_of(contract)
        return (
            view
            | _settled(decode_statement(contract.statement) if contract.statement else None, _measured_wh(contract))
            | {
                "awaits": self._awaited(contract),
                "deadline_ms": contract.deadline_ms,
                "dispute": self._dispute(contract),
                "phase": contract.phase,
                "session_kid": cose.key_id(terms.user_public),
            }
        )

    def _awaited(self, contract: Contract) -> list[str]:
        """Whose signature is missing, under a proposal or under a settlement."""
        if contract.phase not in {PROPOSED, MEASURED}:
            return []
        terms = self._engine.state.terms_of(contract)
        sides = ((terms.user, contract.user_signed), (terms.owner, contract.owner_signed))
        return [party for party, has_signed in sides if not has_signed]

    def _dispute(self, contract: Contract) -> dict[str, object] | None:
        if contract.phase != DISPUTED:
            return None
        terms, dispute = self._engine.state.terms_of(contract), self._engine.state.get(Dispute, contract.id)
        return {
            "bond_micro": dispute.bond_micro,
            "claimed_wh": dispute.claimed_wh,
            "ground": dispute.ground,
            "objector": terms.user if dispute.objector == settlement.USER else terms.owner,
            "rulings": [[arbiter, wh, cause] for arbiter, _, wh, cause in dispute.rulings],
            "text": queries.objection_text(self._evidence, contract.id),
        }

    def _certificate(self, row: dict[str, object]) -> object:
        return queries.order_certificate(self._evidence, self._engine, cast("bytes", row["id"])).encoded()

    def _stop(self, party: Party, row: dict[str, object]) -> object:
        """The user's stop command, for the owner who must show it."""
        if party.id != row["owner"]:
            raise QueryError("only the owner answers with the user's stop command", "not_yours")
        message = self._stops.find(cast("bytes", row["id"])) if self._stops else None
        if message is None:
            raise QueryError("no stop command of this open contract passed this coordinator", "no_stop")
        return message

    # --- what waits for somebody -----------------------------------------------------------------------------------

    def _withdrawals(self, party: Party) -> object:
        """The treasury's list of what to pay; for others, their own."""
        state = self._engine.state
        is_treasury = party.id == state.params.treasury
        rows = (w for w in state.each(Withdrawal) if is_treasury or w.party == party.id)
        return [
            {"id": w.id, "amount_micro": w.amount_micro, "destination": w.destination, "party": w.party}
            for w in islice(rows, MAX_LISTED)
        ]

    def _disputes(self, party: Party) -> object:
        """The arbiters' list of what to rule; for others, their own. The soonest to run out of time first."""
        state = self._engine.state
        sees_all = party.role in {GRID, THIRD_PARTY}
        open_ = [state.get(Contract, dispute.contract) for dispute in state.each(Dispute)]
        seen = [c for c in open_ if sees_all or party.id in {state.terms_of(c).user, state.terms_of(c).owner}]
        return [self._dispute_row(c) for c in sorted(seen, key=lambda c: (c.deadline_ms, c.id))[:MAX_LISTED]]

    def _dispute_row(self, contract: Contract) -> dict[str, object]:
        terms = self._engine.state.terms_of(contract)
        statement = decode_statement(contract.statement)
        return cast("dict[str, object]", self._dispute(contract)) | {
            "id": contract.id,
            "cause": statement.cause,
            "deadline_ms": contract.deadline_ms,
            "energy_wh": terms.energy_wh,
            "measured_wh": statement.measured_wh,
            "owner": terms.owner,
            "pile": terms.pile,
            "user": terms.user,
        }

    # --- piles -------------------------------------------------------------------------------------------------------

    def _piles(self, party: Party) -> object:
        """The piles that need somebody, MAX_LISTED at most: all for the grid and operators, for others their own."""
        sees_all = party.role in {GRID, OPERATOR}
        piles = (
            pile for pile in self._engine.state.each(Pile) if not pile.retired and (sees_all or pile.owner == party.id)
        )
        rows = ((pile, self._troubles.of(pile.id)) for pile in piles)
        needy = (_pile_row(pile, trouble or Trouble()) for pile, trouble in rows if trouble or pile.anomaly)
        return list(islice(needy, MAX_LISTED))

    @property
    def _evidence(self) -> sa.Connection:
        return self._exporter.db

    # --- for the service -------------------------------------------------------------------------------------------

    def pile_of_contract(self, contract: bytes) -> str | None:
        """The pile of a contract, or None if the id is a bid's."""
        return queries.pile_of_contract(self._evidence, contract)

    def where_signed(self, contract: bytes) -> tuple[int, int] | None:
        """(height, leaf) of the newest block that says that a match is a contract; None while it is proposed."""
        return queries.where_signed(self._evidence, contract)

    def closings_since(self, place: tuple[int, int], now_ms: int, most: int) -> list[tuple[str, int, int]]:
        """(pile, height, leaf) of contracts that closed at a (height, leaf) or later with their window not over, in order."""
        return queries.closings_since(self._evidence, place, now_ms, most)

    def closings_ahead(self, pile: str, now_ms: int) -> list[tuple[int, int]]:
        """(height, leaf) of the newest closings of a pile's contracts whose window is not over, in order."""
        return queries.closings_ahead(self._evidence, pile, now_ms)

    def was_repeated(self, contract: bytes) -> bool:
        """Whether a later set of accounting nodes has certified a contract again."""
        return queries.was_repeated(self._evidence, contract)


def _measured_wh(contract: Contract) -> int:
    return contract.last_energy_wh - contract.begin_energy_wh


def _settled(statement: Statement | None, measured_wh: int) -> dict[str, object]:
    """What a settlement says; before there is one, the energy so far."""
    if statement is None:
        return {"measured_wh": measured_wh, "cause": None, "digest": None, "postings": []}
    return {
        "measured_wh": statement.measured_wh,
        "cause": statement.cause,
        "digest": statement.digest(),
        "postings": [[p.debit, p.credit, p.amount_micro] for p in statement.postings],
    }


def _pile_row(pile: Pile, trouble: Trouble) -> dict[str, object]:
    return {
        "pile": pile.id,
        "owner": pile.owner,
        "anomaly": pile.anomaly,
        "proofs": pile.last_sequence,
        "refused": trouble.refused,
        "says": trouble.says,
        "since_ms": trouble.since_ms if trouble.refused else 0,
        "times": trouble.times,
    }


def _bid_row(bid: Bid) -> dict[str, object]:
    return {
        "id": bid.id,
        "kind": "bid",
        "divisible": bid.divisible,
        "energy_wh": bid.energy_wh,
        "expires_ms": bid.expires_ms,
        "explicit": bid.explicit,
        "hold_micro": bid.hold_micro,
        "limit_micro_per_kwh": bid.limit_micro_per_kwh,
        "pile": bid.pile,
        "window_end_ms": bid.window_end_ms,
        "window_start_ms": bid.window_start_ms,
        "zone": bid.zone,
    }


def _listing_row(listing: Listing) -> dict[str, object]:
    return {
        "id": listing.id,
        "kind": "listing",
        "ask_micro_per_kwh": listing.ask_micro_per_kwh,
        "energy_wh": listing.energy_wh,
        "explicit": listing.explicit,
        "pile": listing.pile,
        "window_end_ms": listing.window_end_ms,
        "window_start_ms": listing.window_start_ms,
        "zone": listing.zone,
    }


def _quote_answer(found: Quote, time_ms: int) -> dict[str, object]:
    return {
        "ask_micro_per_kwh": found.ask_micro_per_kwh,
        "band_micro_per_kwh": list(found.band_micro_per_kwh),
        "catalog_buy_micro_per_kwh": found.catalog.buy_micro_per_kwh,
        "catalog_micro_per_kwh": found.catalog.sell_micro_per_kwh,
        "cost_micro": found.cost_micro,
        "curve_micro_per_kwh": found.curve_micro_per_kwh,
        "fee_micro": found.fee_micro,
        "fills": [[t.pile, t.energy_wh, t.price_micro_per_kwh, t.on_curve] for t in found.fills],
        "hold_micro": found.hold_micro,
        "limit_micro_per_kwh": found.limit_micro_per_kwh,
        "load_wh": found.load_wh,
        "most_micro": found.most_micro,
        "now_micro_per_kwh": found.now_micro_per_kwh,
        "outcome": found.outcome,
        "paused_until_ms": found.paused_until_ms,
        "period": found.catalog.period,
        "proposed": found.proposed,
        "reason": found.reason,
        "time_ms": time_ms,
        "why": found.why,
    }


def _tariff_answer(record: Tariff) -> dict[str, object]:
    """Periods are [from minute of the local day, name, selling, buying price]."""
    return {
        "from_ms": record.from_ms,
        "periods": record.periods,
        "utc_offset_minutes": record.utc_offset_minutes,
    }
