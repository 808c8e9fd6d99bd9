"""The life of a contract, from match to money (paper section 3, "Signing" and "Executing the Intelligent Contract").

    placed -> [proposed ->] signed -> active -> measured -> [disputed ->] closed

Every change of phase in the ledger guide's table ("Contract") is one function here, except those of disputes.py; what each pays
is settlement.py.
"""

from dataclasses import dataclass, replace

from pile_coordinator.chain import accounts, orders, settlement
from pile_coordinator.chain.env import Env, Journal
from pile_coordinator.chain.records import (
    ACTIVE,
    MEASURED,
    PROPOSED,
    SIGNED,
    Bid,
    Contract,
    Listing,
    Party,
    Pile,
    Tally,
    Zone,
)
from pile_coordinator.chain.rejections import Rejection
from pile_coordinator.chain.state import State
from pile_coordinator.chain.tariff import Catalog
from pile_coordinator.chain.transactions import CancelContract, Confirm, Sign
from pile_shared.codec import encode
from pile_shared.platform import sha256
from pile_shared.terms import (
    LEAF_CLOSED,
    LEAF_CONTRACT,
    LEAF_PROPOSED,
    LEAF_SETTLEMENT,
    VERSION,
    Terms,
    terms_from,
)
from pile_shared.units import LOT_WH

NO_EVIDENCE = b"\x00" * 32
TALLY = "tally"

CONFIRMED, SETTLED, RESOLVED = "confirmed", "settled", "resolved"
DEFAULTED, NO_SHOW, CALLED_OFF, UNSIGNED = "defaulted", "no-show", "cancelled", "unsigned"


@dataclass(frozen=True, slots=True)
class Fill:
    """What clearing decided: so much of a bid goes to a listing at a price."""

    bid: bytes
    listing: bytes
    energy_wh: int
    price_micro_per_kwh: int
    catalog: Catalog


# --- placed -> signed or proposed ------------------------------------------------------------------------------------


def match(state: State, env: Env, journal: Journal, fill: Fill) -> Contract:
    """Placed -> signed; or -> proposed where a side asked to sign explicitly. Escrow and bond are put up."""
    bid, listing = state.get(Bid, fill.bid), state.get(Listing, fill.listing)
    terms = _terms(state, bid, listing, fill)
    key, encoded = terms.contract_id(), terms.encoded()
    _put_up(state, bid, listing, terms, key)
    zone = state.get(Zone, terms.zone)
    if terms.on_curve:
        state.put(replace(zone, open_wh=zone.open_wh + terms.energy_wh))
    explicit = bid.explicit or listing.explicit
    contract = Contract(
        id=key,
        terms=encoded,
        phase=PROPOSED if explicit else SIGNED,
        deadline_ms=_sign_until_ms(state, env, terms) if explicit else _begin_known_ms(terms),
        available=False,
        begin_time_ms=0,
        begin_energy_wh=0,
        last_energy_wh=0,
        evidence=NO_EVIDENCE,
        statement=b"",
        user_signed=explicit and not bid.explicit,
        owner_signed=explicit and not listing.explicit,
        capacity_wh=zone.capacity_wh,
    )
    state.put(contract)
    tally = state.get(Tally, TALLY)
    state.put(replace(tally, contracts_signed=tally.contracts_signed + 1))
    journal.leaves.append(encode([LEAF_PROPOSED if explicit else LEAF_CONTRACT, encoded]))
    _take_from_orders(state, journal, bid, listing, terms)
    return contract


def order_name(bid: Bid) -> bytes:
    """What the next contract of a bid calls its order: contracts of a divisible bid must not be mistaken for each other."""
    return piece_name(bid.id, bid.pieces) if bid.divisible else bid.id


def piece_name(bid: bytes, number: int) -> bytes:
    """The order of the contract that is number `number`, from 0, of a divisible bid."""
    return sha256(bid + number.to_bytes(4, "big"))


def _put_up(state: State, bid: Bid, listing: Listing, terms: Terms, key: bytes) -> None:
    escrow = settlement.contract_escrow_micro(terms)
    accounts.post(state, accounts.escrow_account(bid.id), accounts.escrow_account(key), escrow)
    accounts.post(state, accounts.party_account(listing.owner), accounts.bond_account(key), terms.bond_micro)


def _take_from_orders(state: State, journal: Journal, bid: Bid, listing: Listing, terms: Terms) -> None:
    """What is left of the bid rests on; a bid that is filled, and a listing without a lot left, end."""
    left = replace(
        bid,
        energy_wh=bid.energy_wh - terms.energy_wh,
        hold_micro=bid.hold_micro - settlement.contract_escrow_micro(terms),
        pieces=bid.pieces + 1,
    )
    if left.energy_wh == 0:
        orders.drop_bid(state, left)
    elif left.pieces == orders.MAX_PIECES:
        orders.release_bid(state, journal, left, orders.UNFILLED)
    else:
        state.put(left)
    offered = replace(listing, energy_wh=listing.energy_wh - terms.energy_wh)
    if offered.energy_wh < LOT_WH:
        orders.end_listing(state, journal, offered, orders.SPENT)
    else:
        state.put(offered)


def _terms(state: State, bid: Bid, listing: Listing, fill: Fill) -> Terms:
    params, pile = state.params, state.get(Pile, listing.pile)
    return terms_from(
        {
            "version": VERSION,
            "order": order_name(bid),
            "listing": listing.id,
            "zone": bid.zone,
            "pile": pile.id,
            "pile_public": pile.public,
            "meter_serial": pile.meter_serial,
            "rated_power_w": pile.rated_power_w,
            "user": bid.user,
            "user_public": state.get(Party, bid.user).public,
            "owner": listing.owner,
            "owner_public": state.get(Party, listing.owner).public,
            "energy_wh": fill.energy_wh,
            "window_start_ms": bid.window_start_ms,
            "window_end_ms": bid.window_end_ms,
            "price_micro_per_kwh": fill.price_micro_per_kwh,
            "on_curve": listing.ask_micro_per_kwh < 0,
            "tolerance_wh": orders.tolerance_wh(params, fill.energy_wh),
            "overuse_wh": orders.overuse_wh(params, fill.energy_wh),
            "catalog_sell_micro_per_kwh": fill.catalog.sell_micro_per_kwh,
            "catalog_buy_micro_per_kwh": fill.catalog.buy_micro_per_kwh,
            "fee_micro": params.fee_micro,
            "bond_micro": orders.bond_micro(params, fill.energy_wh, fill.catalog.sell_micro_per_kwh),
            "begin_grace_ms": params.begin_grace_ms,
            "evidence_window_ms": params.evidence_window_ms,
            "confirm_window_ms": params.confirm_window_ms,
        }
    )


def begin_until_ms(terms: Terms) -> int:
    """The last moment a session under these terms may begin."""
    return orders.last_begin_ms(terms.begin_grace_ms, terms.window_start_ms, terms.window_end_ms)


def _begin_known_ms(terms: Terms) -> int:
    """When it is certain whether a session began: late evidence has had its time."""
    return begin_until_ms(terms) + terms.evidence_window_ms


def _sign_until_ms(state: State, env: Env, terms: Terms) -> int:
    """Before the window: who signs into it would leave the other no time to come, and no way out."""
    return min(env.time_ms + state.params.sign_window_ms, terms.window_start_ms)


# --- proposed -> signed or unsigned; signed -> cancelled ---------------------------------------------------------------


def sign(state: State, journal: Journal, sender: str, body: Sign) -> None:
    """Proposed -> signed, once each side that asked for it has signed."""
    contract, terms = _open_contract(state, body.contract, sender)
    if contract.phase != PROPOSED or _has_signed(contract, terms, sender):
        raise Rejection("phase", f"the contract is {contract.phase}, and {sender} has nothing to sign")
    signed = _with_signature(contract, terms, sender)
    if signed.user_signed and signed.owner_signed:
        signed = replace(
            signed, phase=SIGNED, deadline_ms=_begin_known_ms(terms), user_signed=False, owner_signed=False
        )
        journal.leaves.append(encode([LEAF_CONTRACT, contract.terms]))
    state.put(signed)


def call_off(state: State, env: Env, journal: Journal, sender: str, body: CancelContract) -> None:
    """Signed -> cancelled, in time; or proposed -> unsigned, by a side that asked to sign and does not want to."""
    contract, terms = _open_contract(state, body.contract, sender)
    by_user = sender == terms.user
    if contract.phase not in {PROPOSED, SIGNED}:
        raise Rejection("phase", f"the contract is {contract.phase}; it was begun")
    if contract.phase == PROPOSED and not _has_signed(contract, terms, sender):
        cause = settlement.CAUSE_USER_UNSIGNED if by_user else settlement.CAUSE_PILE_UNSIGNED
        return _end_unbegun(state, env, journal, contract, cause, UNSIGNED)
    notice_ms = state.params.cancel_cutoff_ms if by_user else 1
    if env.time_ms + notice_ms > terms.window_start_ms:
        raise Rejection("late", "a user calls off before the cut-off, an owner before the window")
    cause = settlement.CAUSE_USER_CANCEL if by_user else settlement.CAUSE_PILE_CANCEL
    return _end_unbegun(state, env, journal, contract, cause, CALLED_OFF)


def _lapse(state: State, env: Env, journal: Journal, contract: Contract) -> None:
    """Proposed -> unsigned: the time to sign passed."""
    cause = settlement.CAUSE_PILE_UNSIGNED if contract.user_signed else settlement.CAUSE_USER_UNSIGNED
    _end_unbegun(state, env, journal, contract, cause, UNSIGNED)


def _has_signed(contract: Contract, terms: Terms, sender: str) -> bool:
    return contract.user_signed if sender == terms.user else contract.owner_signed


def _with_signature(contract: Contract, terms: Terms, sender: str) -> Contract:
    """Of a contract while it is proposed, of its settlement once it is measured."""
    return replace(
        contract,
        user_signed=contract.user_signed or sender == terms.user,
        owner_signed=contract.owner_signed or sender == terms.owner,
    )


# --- signed -> active -> measured ------------------------------------------------------------------------------------


def activate(state: State, contract: Contract, time_ms: int, energy_wh: int) -> Contract:
    """Signed -> active: the begin proof was admitted; its first reading is where delivery starts."""
    terms = state.terms_of(contract)
    return replace(
        contract,
        phase=ACTIVE,
        available=True,
        begin_time_ms=time_ms,
        begin_energy_wh=energy_wh,
        last_energy_wh=energy_wh,
        deadline_ms=terms.window_end_ms + terms.evidence_window_ms,
    )


def never_began(state: State, env: Env, journal: Journal, contract: Contract) -> None:
    """Signed -> no-show (the pile proved it was there for the user) or defaulted (it did not)."""
    cause, outcome = (
        (settlement.CAUSE_NO_SHOW, NO_SHOW) if contract.available else (settlement.CAUSE_DEFAULT, DEFAULTED)
    )
    _end_unbegun(state, env, journal, contract, cause, outcome)


def _end_unbegun(state: State, env: Env, journal: Journal, contract: Contract, cause: str, outcome: str) -> None:
    statement = _statement(state, env, contract, 0, cause)
    journal.leaves.append(encode([LEAF_SETTLEMENT, statement.encoded()]))
    close(state, journal, contract, statement, outcome)


def measure(state: State, env: Env, journal: Journal, contract: Contract, cause: str) -> Contract:
    """Active -> measured: the energy is known, the settlement is written down and both parties are asked to sign it."""
    terms = state.terms_of(contract)
    measured_wh = contract.last_energy_wh - contract.begin_energy_wh
    statement = _statement(state, env, contract, measured_wh, cause_that_counts(terms, measured_wh, cause))
    journal.leaves.append(encode([LEAF_SETTLEMENT, statement.encoded()]))
    measured = replace(
        contract,
        phase=MEASURED,
        statement=statement.encoded(),
        deadline_ms=env.time_ms + terms.confirm_window_ms,
    )
    state.put(measured)
    return measured


def cause_that_counts(terms: Terms, measured_wh: int, cause: str) -> str:
    """Only who took or gave too little caused something."""
    return cause if settlement.deviation(terms, measured_wh) == settlement.UNDER else settlement.CAUSE_NONE


def shares(state: State) -> settlement.Shares:
    """The shares genesis sets."""
    return settlement.Shares(state.params.penalty_permille, state.params.no_show_permille)


def _statement(state: State, env: Env, contract: Contract, measured_wh: int, cause: str) -> settlement.Statement:
    postings = settlement.settle(state.terms_of(contract), measured_wh, cause, shares(state))
    return settlement.Statement(env.chain_id, contract.id, contract.evidence, measured_wh, cause, tuple(postings))


# --- measured -> closed ----------------------------------------------------------------------------------------------


def confirm(state: State, journal: Journal, sender: str, body: Confirm) -> None:
    """A party signs the settlement digest; when both have, the money moves."""
    contract, terms = _open_contract(state, body.contract, sender)
    if contract.phase != MEASURED:
        raise Rejection("phase", f"the contract is {contract.phase}, not measured")
    if _has_signed(contract, terms, sender):
        raise Rejection("phase", f"{sender} has confirmed it; the other side has not")
    statement = settlement.decode_statement(contract.statement)
    if statement.digest() != body.digest:
        raise Rejection("digest", f"the settlement's digest is {statement.digest().hex()}")
    confirmed = _with_signature(contract, terms, sender)
    if confirmed.user_signed and confirmed.owner_signed:
        close(state, journal, contract, statement, CONFIRMED)
    else:
        state.put(confirmed)


def _open_contract(state: State, key: bytes, sender: str) -> tuple[Contract, Terms]:
    """An open contract of the sender's."""
    contract = state.find(Contract, key)
    if contract is None:
        raise Rejection("unknown_contract", "no such open contract")
    terms = state.terms_of(contract)
    if sender not in {terms.user, terms.owner}:
        raise Rejection("not_yours", "only the two parties of a contract act on it")
    return contract, terms


def close(state: State, journal: Journal, contract: Contract, statement: settlement.Statement, outcome: str) -> None:
    """Carry out the postings and let the contract leave the live state; its tokens are burnt, so the price falls."""
    terms = state.terms_of(contract)
    names = {
        settlement.USER: accounts.party_account(terms.user),
        settlement.OWNER: accounts.party_account(terms.owner),
        settlement.GRID: accounts.party_account(state.params.grid),
        settlement.FEES: accounts.FEES,
        settlement.ESCROW: accounts.escrow_account(contract.id),
        settlement.BOND: accounts.bond_account(contract.id),
        settlement.OBJECTION: accounts.objection_account(contract.id),
    }
    for posting in statement.postings:
        accounts.post(state, names[posting.debit], names[posting.credit], posting.amount_micro)
    zone = state.get(Zone, terms.zone)
    burnt_wh = terms.energy_wh if terms.on_curve else 0
    state.put(replace(zone, open_wh=zone.open_wh - burnt_wh, dirty=True))
    _count(state, journal, contract.id, terms, statement.measured_wh)
    state.drop(Contract, contract.id)
    orders.wake(state, terms.owner)
    orders.leave(state, journal, terms.user)
    journal.closed.append(contract.id)
    journal.leaves.append(encode([LEAF_CLOSED, contract.id, outcome]))


def _count(state: State, journal: Journal, contract: bytes, terms: Terms, measured_wh: int) -> None:
    """Every metered Wh is accounted for: invariant 6 is checked on these."""
    energy = settlement.energy_of(terms, measured_wh)
    journal.metered.append((contract, measured_wh, energy.contracted_wh, energy.grid_wh, energy.unpaid_wh))
    tally = state.get(Tally, TALLY)
    state.put(
        replace(
            tally,
            contracts_closed=tally.contracts_closed + 1,
            metered_wh=tally.metered_wh + measured_wh,
            contracted_wh=tally.contracted_wh + energy.contracted_wh,
            grid_wh=tally.grid_wh + energy.grid_wh,
            unpaid_wh=tally.unpaid_wh + energy.unpaid_wh,
        )
    )


# --- time passes -----------------------------------------------------------------------------------------------------


def run_deadline(state: State, env: Env, journal: Journal, contract: Contract) -> None:
    """The time of a contract that is not in dispute has come."""
    if contract.phase == PROPOSED:
        _lapse(state, env, journal, contract)
    elif contract.phase == SIGNED:
        never_began(state, env, journal, contract)
    elif contract.phase == ACTIVE:
        measure(state, env, journal, contract, settlement.CAUSE_PILE)
    else:
        close(state, journal, contract, settlement.decode_statement(contract.statement), SETTLED)
