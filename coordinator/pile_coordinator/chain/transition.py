"""The law: `apply_block(state, env, txs) -> Outcome`. Read this first.

A block runs what fell due, then its transactions in order, then clears the market, then acknowledges metering proofs, and
ends by checking that nothing was made or lost. One result per transaction, in order. Only `Rejection` is caught;
anything else is our mistake and stops the node before it can commit.
"""

from dataclasses import dataclass, replace

from pile_coordinator.chain import accounts, contracts, invariants, proofs
from pile_coordinator.chain.clearing import clear
from pile_coordinator.chain.env import Env, Journal
from pile_coordinator.chain.records import Bid, Listing, Party, Payment, Pile, PileKey, Zone
from pile_coordinator.chain.rejections import Rejection
from pile_coordinator.chain.state import State
from pile_coordinator.chain.transactions import (
    MAX_VALIDITY_BLOCKS,
    CancelBid,
    Confirm,
    Deposit,
    List,
    PlaceBid,
    RegisterParty,
    RegisterPile,
    SubmitProofs,
    Transaction,
    Unlist,
    decode_transaction,
)
from pile_shared import cose
from pile_shared.codec import encode
from pile_shared.proof import NO_PREVIOUS
from pile_shared.terms import LEAF_RECEIPT, LEAF_RESULT
from pile_shared.units import LOT_WH, MAX_AMOUNT_MICRO

MAX_OPEN_ORDERS = 1000  # listings and resting bids of one party: a fleet's worth, and a bound on what one key can fill
MAX_WINDOW_MS = 7 * 24 * 3600 * 1000  # of a bid: nobody charges for longer than a week
MAX_AHEAD_MS = 366 * 24 * 3600 * 1000

OK = "ok"


@dataclass(frozen=True, slots=True)
class TxResult:
    """What became of one transaction: `ok`, or a rejection's code; a message for people; details by type."""

    tx_id: bytes
    code: str
    message: str
    details: tuple[object, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a block did: a result per transaction, and all leaves of its result root (results first, then events)."""

    results: list[TxResult]
    leaves: list[bytes]


def apply_block(state: State, env: Env, txs: list[bytes]) -> Outcome:
    """Apply a block to the state in place. The caller seals the state afterwards, or throws it away on any exception."""
    journal = Journal()
    contracts.run_deadlines(state, env, journal)
    results = [apply_tx(state, env, journal, data) for data in txs]
    clear(state, env, journal)
    _acknowledge(state, journal)
    invariants.check(state)
    heads = [encode([LEAF_RESULT, i, result.tx_id, result.code]) for i, result in enumerate(results)]
    return Outcome(results, heads + journal.leaves)


def apply_tx(state: State, env: Env, journal: Journal, data: bytes) -> TxResult:
    """One transaction: all of it or, after a Rejection, nothing."""
    mark, leaves, receipts = state.mark(), len(journal.leaves), dict(journal.receipts)
    tx_id = b""
    try:
        tx = decode_transaction(data)
        tx_id = tx.id
        sender = authenticate(state, env, tx)
        state.put(replace(sender, sequence=tx.sequence))
        details = _run(state, env, journal, tx)
    except Rejection as rejection:
        state.roll_back(mark)
        del journal.leaves[leaves:]
        journal.receipts = receipts
        return TxResult(tx_id, rejection.code, str(rejection))
    return TxResult(tx.id, OK, "", tuple(details))


def check_tx(state: State, env: Env, data: bytes) -> Transaction:
    """The cheap check before a transaction waits for a block: form, sender, signature. Rejection if it cannot succeed."""
    tx = decode_transaction(data)
    authenticate(state, env, tx, waiting=True)
    return tx


def authenticate(state: State, env: Env, tx: Transaction, *, waiting: bool = False) -> Party:
    """The sender, if this transaction is theirs to send now. A waiting one may be ahead of its turn, not behind."""
    if tx.chain_id != env.chain_id:
        raise Rejection("wrong_chain", f"this is {env.chain_id}")
    sender = state.find(Party, tx.sender)
    if sender is None:
        raise Rejection("unknown_sender", f"no party {tx.sender[:32]!r}")
    message = cose.to_be_signed(tx.signed.kid, tx.signed.payload, cose.purpose(cose.TRANSACTION, env.chain_id))
    if tx.signed.kid != cose.key_id(sender.public) or not env.verify(sender.public, message, tx.signed.signature):
        raise Rejection("bad_signature", f"not signed by the key of {sender.id}")
    if tx.valid_until_height < env.height:
        raise Rejection("expired", f"was valid until block {tx.valid_until_height}, this is {env.height}")
    if tx.valid_until_height > env.height + MAX_VALIDITY_BLOCKS:
        raise Rejection("too_far", f"may be valid for {MAX_VALIDITY_BLOCKS} blocks at most")
    if tx.sequence <= sender.sequence:
        raise Rejection("replayed", f"{sender.id} is at sequence {sender.sequence}")
    if tx.sequence > sender.sequence + 1 and not waiting:
        raise Rejection("sequence_gap", f"{sender.id} is at sequence {sender.sequence}")
    if sender.role not in tx.body.ROLES:
        raise Rejection("wrong_role", f"{tx.body.TYPE} is for {' and '.join(tx.body.ROLES)}, not {sender.role}")
    return sender


def _run(state: State, env: Env, journal: Journal, tx: Transaction) -> list[object]:
    body = tx.body
    if isinstance(body, SubmitProofs):
        return proofs.admit_batch(state, env, journal, body)
    if isinstance(body, RegisterParty):
        _register_party(state, body)
    elif isinstance(body, RegisterPile):
        _register_pile(state, body)
    elif isinstance(body, Deposit):
        _deposit(state, tx.sender, body)
    elif isinstance(body, List):
        _list(state, env, tx, body)
    elif isinstance(body, Unlist):
        _unlist(state, tx.sender, body)
    elif isinstance(body, PlaceBid):
        _place_bid(state, env, tx, body)
    elif isinstance(body, CancelBid):
        _cancel_bid(state, journal, tx.sender, body)
    elif isinstance(body, Confirm):
        contracts.confirm(state, journal, tx.sender, body)
    return []


def _acknowledge(state: State, journal: Journal) -> None:
    """One receipt per pile whose chain advanced: through which proof, by sequence and hash."""
    for pile_id in sorted(journal.receipts):
        pile = state.get(Pile, pile_id)
        journal.leaves.append(encode([LEAF_RECEIPT, pile.id, pile.last_sequence, pile.last_hash]))


def _register_party(state: State, body: RegisterParty) -> None:
    if state.find(Party, body.id) is not None:
        raise Rejection("exists", f"party {body.id} is registered")
    if any(party.public == body.public for party in state.each(Party)):
        raise Rejection("exists", "this key belongs to another party")
    state.put(Party(body.id, body.role, body.public, 0, 0))


def _register_pile(state: State, body: RegisterPile) -> None:
    owner = state.find(Party, body.owner)
    if owner is None:
        raise Rejection("unknown_party", f"no party {body.owner}")
    kid = cose.key_id(body.public)
    if state.find(Pile, body.id) is not None or state.find(PileKey, kid) is not None:
        raise Rejection("exists", f"pile {body.id} or its key is registered")
    state.put(
        Pile(
            id=body.id,
            owner=body.owner,
            public=body.public,
            meter_model=body.meter_model,
            meter_serial=body.meter_serial,
            zone=body.zone,
            rated_power_w=body.rated_power_w,
            last_sequence=0,
            last_hash=NO_PREVIOUS,
            last_time_ms=0,
            last_energy_wh=0,
            anomaly="",
        )
    )
    state.put(PileKey(kid, body.id))
    zone = state.find(Zone, body.zone) or Zone(body.zone, 0, 0, dirty=False)
    state.put(replace(zone, rated_power_w=zone.rated_power_w + body.rated_power_w, dirty=True))


def _deposit(state: State, sender: str, body: Deposit) -> None:
    if sender != state.params.treasury:
        raise Rejection("wrong_role", f"deposits are booked by {state.params.treasury}")
    party = state.find(Party, body.party)
    if party is None:
        raise Rejection("unknown_party", f"no party {body.party}")
    if state.find(Payment, body.reference) is not None:
        raise Rejection("exists", f"payment {body.reference} is booked")
    if body.amount_micro - state.balance_micro(accounts.OUTSIDE) > MAX_AMOUNT_MICRO:
        raise Rejection("limit", f"the chain would hold more than {MAX_AMOUNT_MICRO} micro")
    state.put(Payment(body.reference, body.amount_micro))
    accounts.post(state, accounts.OUTSIDE, accounts.party_account(body.party), body.amount_micro)
    contracts.wake(state, party.id)


def _list(state: State, env: Env, tx: Transaction, body: List) -> None:
    pile = state.find(Pile, body.pile)
    if pile is None:
        raise Rejection("unknown_pile", f"no pile {body.pile}")
    if pile.owner != tx.sender:
        raise Rejection("not_yours", f"{pile.id} belongs to {pile.owner}")
    if not env.time_ms < body.window_end_ms <= env.time_ms + MAX_AHEAD_MS or body.window_start_ms >= body.window_end_ms:
        raise Rejection("window", "the window must end after now, within a year, and after it starts")
    _count_order(state, tx.sender)
    state.put(
        Listing(
            tx.id,
            tx.sender,
            pile.id,
            pile.zone,
            body.window_start_ms,
            body.window_end_ms,
            body.energy_wh,
            body.ask_micro_per_kwh,
        )
    )
    _touch(state, pile.zone)


def _unlist(state: State, sender: str, body: Unlist) -> None:
    listing = state.find(Listing, body.listing)
    if listing is None:
        raise Rejection("unknown_order", "no such open listing")
    if listing.owner != sender:
        raise Rejection("not_yours", "only its owner withdraws a listing")
    contracts.drop_order(state, Listing, listing.id, sender)


def _place_bid(state: State, env: Env, tx: Transaction, body: PlaceBid) -> None:
    if state.find(Zone, body.zone) is None:
        raise Rejection("unknown_zone", f"no pile is registered in zone {body.zone}")
    if body.pile:
        pile = state.find(Pile, body.pile)
        if pile is None or pile.zone != body.zone:
            raise Rejection("unknown_pile", f"no pile {body.pile} in zone {body.zone}")
    _check_bid_window(state, env, body)
    if body.energy_wh % LOT_WH:
        raise Rejection("energy", f"energy is traded in lots of {LOT_WH} Wh")
    _count_order(state, tx.sender)
    hold = contracts.hold_micro(state, body.energy_wh, body.limit_micro_per_kwh)
    accounts.post(state, accounts.party_account(tx.sender), accounts.escrow_account(tx.id), hold)
    # Matched later than this, the session could not begin any more and somebody would pay for a default or a no-show.
    last_ms = contracts.last_begin_ms(state.params.begin_grace_ms, body.window_start_ms, body.window_end_ms)
    expires_ms = last_ms if body.market else min(body.expires_ms, last_ms)
    state.put(
        Bid(
            tx.id,
            tx.sender,
            body.zone,
            body.pile,
            body.energy_wh,
            body.window_start_ms,
            body.window_end_ms,
            body.limit_micro_per_kwh,
            body.market,
            expires_ms,
            hold,
        )
    )
    _touch(state, body.zone)


def _check_bid_window(state: State, env: Env, body: PlaceBid) -> None:
    start_ms, end_ms = body.window_start_ms, body.window_end_ms
    if not 0 < end_ms - start_ms <= MAX_WINDOW_MS or end_ms > env.time_ms + MAX_AHEAD_MS:
        raise Rejection("window", "the window must be at most a week long and end within a year")
    if env.time_ms >= contracts.last_begin_ms(state.params.begin_grace_ms, start_ms, end_ms):
        raise Rejection("window", "it is too late for a session to begin in this window")
    if not body.market and not env.time_ms < body.expires_ms <= end_ms:
        raise Rejection("window", "a limited order must expire after now and by the end of its window")


def _cancel_bid(state: State, journal: Journal, sender: str, body: CancelBid) -> None:
    bid = state.find(Bid, body.bid)
    if bid is None:
        raise Rejection("unknown_order", "no such resting bid")
    if bid.user != sender:
        raise Rejection("not_yours", "only its user cancels a bid")
    contracts.release_bid(state, journal, bid, contracts.CANCELLED)


def _count_order(state: State, party_id: str) -> None:
    party = state.get(Party, party_id)
    if party.open_orders >= MAX_OPEN_ORDERS:
        raise Rejection("limit", f"{party_id} has {MAX_OPEN_ORDERS} open orders, the most allowed")
    state.put(replace(party, open_orders=party.open_orders + 1))


def _touch(state: State, zone_id: str) -> None:
    state.put(replace(state.get(Zone, zone_id), dirty=True))
