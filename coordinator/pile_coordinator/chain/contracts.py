"""The life of a contract, from match to money: signed -> active -> measured -> closed (ledger guide, "Contract").

Every change of phase is one function here; what each pays is `settlement.settle`.
"""

from dataclasses import replace

from pile_coordinator.chain import accounts, settlement
from pile_coordinator.chain.curve import Curve
from pile_coordinator.chain.env import Env, Journal
from pile_coordinator.chain.records import ACTIVE, MEASURED, SIGNED, Bid, Contract, Listing, Party, Pile, Zone
from pile_coordinator.chain.rejections import Rejection
from pile_coordinator.chain.state import State
from pile_coordinator.chain.transactions import Confirm
from pile_shared.codec import encode
from pile_shared.terms import LEAF_CLOSED, LEAF_CONTRACT, LEAF_SETTLEMENT, VERSION, Terms, terms_from

NO_EVIDENCE = b"\x00" * 32

CONFIRMED, SETTLED, DEFAULTED, NO_SHOW = "confirmed", "settled", "defaulted", "no-show"
EXPIRED, CANCELLED, UNFILLED = "expired", "cancelled", "unfilled"


def zone_curve(state: State, zone: Zone) -> Curve:
    """The curve of a zone: S0 is its registered power times the capacity hours."""
    params = state.params
    return Curve(
        params.catalog_sell_micro_per_kwh,
        zone.rated_power_w * params.capacity_hours,
        params.crr_numerator,
        params.crr_denominator,
    )


def bond_micro(state: State, energy_wh: int) -> int:
    """What an owner puts up for a contract over `energy_wh`: a share of its catalog value, rounded up."""
    params = state.params
    return -(-energy_wh * params.catalog_sell_micro_per_kwh * params.bond_permille // 1_000_000)


def tolerance_wh(state: State, energy_wh: int) -> int:
    """Tau = max(share of Q, minimum)."""
    return max(energy_wh * state.params.tolerance_permille // 1000, state.params.tolerance_min_wh)


def overuse_wh(state: State, energy_wh: int) -> int:
    """O = max(share of Q, tau)."""
    return max(energy_wh * state.params.overuse_permille // 1000, tolerance_wh(state, energy_wh))


def hold_micro(state: State, energy_wh: int, price_micro_per_kwh: int) -> int:
    """What a bid at this limit must put up."""
    params = state.params
    return settlement.escrow_micro(
        energy_wh,
        overuse_wh(state, energy_wh),
        price_micro_per_kwh,
        params.catalog_sell_micro_per_kwh,
        params.fee_micro,
    )


def sign(state: State, journal: Journal, bid: Bid, listing: Listing, price_micro_per_kwh: int) -> Contract:
    """Placed -> signed: bid and listing become a contract at a price inside both; escrow and bond are put up."""
    terms = _terms(state, bid, listing, price_micro_per_kwh)
    params, key = state.params, terms.contract_id()
    escrow = accounts.escrow_account(key)
    accounts.post(state, accounts.escrow_account(bid.id), accounts.party_account(bid.user), bid.hold_micro)
    accounts.post(state, accounts.party_account(bid.user), escrow, settlement.contract_escrow_micro(terms))
    accounts.post(state, accounts.party_account(listing.owner), accounts.bond_account(key), terms.bond_micro)
    drop_order(state, Bid, bid.id, bid.user)
    state.put(replace(listing, energy_wh=listing.energy_wh - bid.energy_wh))
    if terms.on_curve:
        zone = state.get(Zone, terms.zone)
        state.put(replace(zone, open_wh=zone.open_wh + terms.energy_wh))
    contract = Contract(
        id=key,
        terms=terms.encoded(),
        phase=SIGNED,
        deadline_ms=begin_until_ms(terms) + params.evidence_window_ms,
        available=False,
        begin_time_ms=0,
        begin_energy_wh=0,
        last_energy_wh=0,
        evidence=NO_EVIDENCE,
        statement=b"",
        user_confirmed=False,
        owner_confirmed=False,
    )
    state.put(contract)
    journal.leaves.append(encode([LEAF_CONTRACT, contract.terms]))
    return contract


def _terms(state: State, bid: Bid, listing: Listing, price_micro_per_kwh: int) -> Terms:
    params, pile = state.params, state.get(Pile, listing.pile)
    return terms_from(
        {
            "version": VERSION,
            "order": bid.id,
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
            "energy_wh": bid.energy_wh,
            "window_start_ms": bid.window_start_ms,
            "window_end_ms": bid.window_end_ms,
            "price_micro_per_kwh": price_micro_per_kwh,
            "on_curve": listing.ask_micro_per_kwh < 0,
            "tolerance_wh": tolerance_wh(state, bid.energy_wh),
            "overuse_wh": overuse_wh(state, bid.energy_wh),
            "catalog_sell_micro_per_kwh": params.catalog_sell_micro_per_kwh,
            "catalog_buy_micro_per_kwh": params.catalog_buy_micro_per_kwh,
            "fee_micro": params.fee_micro,
            "bond_micro": bond_micro(state, bid.energy_wh),
            "begin_grace_ms": params.begin_grace_ms,
            "evidence_window_ms": params.evidence_window_ms,
            "confirm_window_ms": params.confirm_window_ms,
        }
    )


def begin_until_ms(terms: Terms) -> int:
    """The last moment a session under these terms may begin."""
    return last_begin_ms(terms.begin_grace_ms, terms.window_start_ms, terms.window_end_ms)


def last_begin_ms(begin_grace_ms: int, window_start_ms: int, window_end_ms: int) -> int:
    """The last moment a session may begin in a window: its start plus the grace, inside the window."""
    return min(window_start_ms + begin_grace_ms, window_end_ms)


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


def measure(state: State, env: Env, journal: Journal, contract: Contract, cause: str) -> Contract:
    """Active -> measured: the energy is known, the settlement is written down and both parties are asked to sign it."""
    terms = state.terms_of(contract)
    measured_wh = contract.last_energy_wh - contract.begin_energy_wh
    if settlement.deviation(terms, measured_wh) != settlement.UNDER:
        cause = settlement.CAUSE_NONE
    statement = _statement(state, env, contract, measured_wh, cause)
    journal.leaves.append(encode([LEAF_SETTLEMENT, statement.encoded()]))
    measured = replace(
        contract,
        phase=MEASURED,
        statement=statement.encoded(),
        deadline_ms=env.time_ms + terms.confirm_window_ms,
    )
    state.put(measured)
    return measured


def _statement(state: State, env: Env, contract: Contract, measured_wh: int, cause: str) -> settlement.Statement:
    postings = settlement.settle(
        state.terms_of(contract),
        measured_wh,
        cause,
        penalty_permille=state.params.penalty_permille,
        no_show_permille=state.params.no_show_permille,
    )
    return settlement.Statement(env.chain_id, contract.id, contract.evidence, measured_wh, cause, tuple(postings))


def never_began(state: State, env: Env, journal: Journal, contract: Contract) -> None:
    """Signed -> no-show (the pile proved it was there for the user) or defaulted (it did not)."""
    cause, outcome = (
        (settlement.CAUSE_NO_SHOW, NO_SHOW) if contract.available else (settlement.CAUSE_DEFAULT, DEFAULTED)
    )
    statement = _statement(state, env, contract, 0, cause)
    journal.leaves.append(encode([LEAF_SETTLEMENT, statement.encoded()]))
    close(state, journal, contract, statement, outcome)


def confirm(state: State, journal: Journal, sender: str, body: Confirm) -> None:
    """A party signs the settlement digest; when both have, the money moves."""
    contract = state.find(Contract, body.contract)
    if contract is None:
        raise Rejection("unknown_contract", "no such open contract")
    terms = state.terms_of(contract)
    if sender not in {terms.user, terms.owner}:
        raise Rejection("not_yours", "only the two parties of a contract confirm it")
    if contract.phase != MEASURED:
        raise Rejection("phase", f"the contract is {contract.phase}, not measured yet")
    statement = settlement.decode_statement(contract.statement)
    if statement.digest() != body.digest:
        raise Rejection("digest", f"the settlement's digest is {statement.digest().hex()}")
    confirmed = replace(
        contract,
        user_confirmed=contract.user_confirmed or sender == terms.user,
        owner_confirmed=contract.owner_confirmed or sender == terms.owner,
    )
    if confirmed.user_confirmed and confirmed.owner_confirmed:
        close(state, journal, contract, statement, CONFIRMED)
    else:
        state.put(confirmed)


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
    }
    for posting in statement.postings:
        accounts.post(state, names[posting.debit], names[posting.credit], posting.amount_micro)
    zone = state.get(Zone, terms.zone)
    burnt_wh = terms.energy_wh if terms.on_curve else 0
    state.put(replace(zone, open_wh=zone.open_wh - burnt_wh, dirty=True))
    state.drop(Contract, contract.id)
    wake(state, terms.owner)
    journal.leaves.append(encode([LEAF_CLOSED, contract.id, outcome]))


def wake(state: State, owner: str) -> None:
    """An owner has more money: bids in any zone of their listings may have waited for the bond."""
    for zone_id in state.zones_listed_by(owner):
        state.put(replace(state.get(Zone, zone_id), dirty=True))


def run_deadlines(state: State, env: Env, journal: Journal) -> None:
    """Everything whose time has come: bids expire, unbegun contracts end, silent and unconfirmed ones settle."""
    for due in state.due(env.time_ms):
        if isinstance(due, Bid):
            release_bid(state, journal, due, EXPIRED)
        elif due.phase == SIGNED:
            never_began(state, env, journal, due)
        elif due.phase == ACTIVE:
            measure(state, env, journal, due, settlement.CAUSE_PILE)
        else:
            close(state, journal, due, settlement.decode_statement(due.statement), SETTLED)


def release_bid(state: State, journal: Journal, bid: Bid, outcome: str) -> None:
    """Placed -> expired, cancelled or unfilled: the hold goes back to the user."""
    accounts.post(state, accounts.escrow_account(bid.id), accounts.party_account(bid.user), bid.hold_micro)
    drop_order(state, Bid, bid.id, bid.user)
    journal.leaves.append(encode([LEAF_CLOSED, bid.id, outcome]))


def drop_order(state: State, kind: type[Bid | Listing], order: bytes, party: str) -> None:
    """Remove a bid or listing and count it out of its party's open orders."""
    state.drop(kind, order)
    owner = state.get(Party, party)
    state.put(replace(owner, open_orders=owner.open_orders - 1))
