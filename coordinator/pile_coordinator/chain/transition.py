"""The law: `apply_block(state, env, txs) -> Outcome`. Read this first.

A block hears what its engine says of the accounting nodes, crosses an epoch edge if there is one, runs what fell due, then
its transactions in order, then clears the market, turns what is left of ended anonymous orders into notes, acknowledges
metering proofs, and ends by checking that nothing was made or lost. One result per transaction, in order. Only `Rejection` is
caught; anything else is our mistake and stops the node before it can commit.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from pile_coordinator.chain import (
    conduct,
    contracts,
    disputes,
    election,
    epochs,
    invariants,
    notes,
    orders,
    parties,
    proofs,
    stake,
    tariff,
    treasury,
    upgrades,
)
from pile_coordinator.chain import transactions as tx_types
from pile_coordinator.chain.clearing import clear
from pile_coordinator.chain.env import Env, Journal
from pile_coordinator.chain.records import ANONYMOUS, DISPUTED, Bid, Listing, Party, Pile, Zone
from pile_coordinator.chain.rejections import Rejection
from pile_coordinator.chain.state import State
from pile_coordinator.chain.transactions import (
    MAX_BATCH_PROOFS,
    MAX_VALIDITY_BLOCKS,
    Body,
    Transaction,
    decode_transaction,
)
from pile_shared import cose
from pile_shared.certificate import MAX_LEAF_BYTES
from pile_shared.codec import decode, encode, items
from pile_shared.errors import CodecError
from pile_shared.terms import LEAF_RECEIPT, LEAF_RESULT
from pile_shared.units import check_bytes, check_text

OK = "ok"
_key_id = lru_cache(16_384)(
    cose.key_id
)  # each transaction is asked about when it comes, in a proposal and in its block
LEAF_RESULT_ITEMS = 5  # the last one, details, only where there are any


@dataclass(frozen=True, slots=True)
class TxResult:
    """What became of one transaction: `ok`, or a rejection's code; a message for people; details by type.

    The message is no part of the chain: a later release may word it better. All else stands in the result's leaf.
    """

    tx_id: bytes
    code: str
    message: str
    details: tuple[object, ...] = ()

    def leaf(self, index: int) -> bytes:
        """The leaf under the result root of a block in which this is the result of transaction `index`."""
        row = [LEAF_RESULT, index, self.tx_id, self.code]
        return encode([*row, list(self.details)] if self.details else row)


def result_of(leaf: bytes, index: int) -> TxResult:
    """The result that a leaf is of, without its message; typed errors for a leaf that is none of transaction `index`."""
    row = items(decode(leaf, MAX_LEAF_BYTES), LEAF_RESULT_ITEMS)
    if len(row) < LEAF_RESULT_ITEMS - 1:
        raise CodecError("a result has a transaction and a code")
    details = tuple(items(row[-1], MAX_BATCH_PROOFS)) if len(row) == LEAF_RESULT_ITEMS else ()
    found = TxResult(check_bytes("tx", row[2], 0, 32), check_text("code", row[3], 32), "", details)
    if found.leaf(index) != leaf:
        raise CodecError(f"leaf {index} is not the result of that transaction")
    return found


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a block did.

    Attributes:
        results: one per transaction. leaves: of its result root, results first, then events. updates: how the accounting
        nodes change two blocks on: (ed25519 key, power), 0 for who leaves; differences only, in order of key.
    """

    results: list[TxResult]
    leaves: list[bytes]
    updates: list[tuple[bytes, int]] = field(default_factory=list)


def apply_block(state: State, env: Env, txs: list[bytes]) -> Outcome:
    """Apply a block to the state in place. The caller seals the state afterwards, or throws it away on any exception."""
    journal = Journal()
    _begin(state, env, journal)
    results = [apply_tx(state, env, journal, data) for data in txs]
    clear(state, env, journal)
    notes.sweep(state, env, journal)
    _acknowledge(state, journal)
    invariants.check(state, journal)
    heads = [result.leaf(index) for index, result in enumerate(results)]
    return Outcome(results, heads + journal.leaves, election.updates(state, env.height))


def _begin(state: State, env: Env, journal: Journal) -> None:
    """What happens before a block's transactions."""
    upgrades.check_known(state, env.height)
    conduct.begin_block(state, env, journal)
    if epochs.cross_edge(state, env, journal):
        election.turn(state, env, journal)
    _run_deadlines(state, env, journal)


def apply_tx(state: State, env: Env, journal: Journal, data: bytes) -> TxResult:
    """One transaction: all of it or, after a Rejection, nothing."""
    mark, noted = state.mark(), journal.mark()
    tx_id = b""
    try:
        tx = decode_transaction(data)
        tx_id = tx.id
        sender = authenticate(state, env, tx)
        state.put(sender.at(tx.sequence))
        details = _CARRY_OUT[type(tx.body)](state, env, journal, tx, tx.body) or ()
    except Rejection as rejection:
        state.roll_back(mark)
        journal.roll_back(noted)
        return TxResult(tx_id, rejection.code, str(rejection))
    return TxResult(tx.id, OK, "", tuple(details))


def check_tx(state: State, env: Env, data: bytes) -> Transaction:
    """The cheap check before a transaction waits for a block: form, sender, signature. Rejection if it cannot succeed."""
    tx = decode_transaction(data)
    authenticate(state, env, tx, waiting=True)
    return tx


def preview(
    state: State, env: Env, tx: Transaction, what_if: Callable[[State], object] = lambda _: None
) -> list[bytes]:
    """The events of a block with this one transaction in it, taken as well signed and in turn; the state stays as it is.

    The notes that it spends must be there and unspent.

    `what_if` may look at the state or change it before the transaction. Rejection if the transaction would be refused.
    """

    def act() -> list[bytes]:
        journal = Journal()
        _begin(state, env, journal)
        what_if(state)
        if isinstance(tx.body, tx_types.Spend):
            state.put(notes.spender(state, env, tx, tx.body))
        _CARRY_OUT[type(tx.body)](state, env, journal, tx, tx.body)
        clear(state, env, journal)
        notes.sweep(state, env, journal)
        return journal.leaves

    return state.dry_run(act)


def authenticate(state: State, env: Env, tx: Transaction, *, waiting: bool = False) -> Party:
    """The sender, if this transaction is theirs to send now. A waiting one may be ahead of its turn, not behind."""
    if tx.chain_id != env.chain_id:
        raise Rejection("wrong_chain", f"this is {env.chain_id}")
    sender = (
        notes.authenticate(state, env, tx, waiting=waiting) if tx.signed is None else _by_key(state, env, tx, tx.signed)
    )
    if tx.valid_until_height < env.height:
        raise Rejection("expired", f"was valid until block {tx.valid_until_height}, this is {env.height}")
    if tx.valid_until_height > env.height + MAX_VALIDITY_BLOCKS:
        raise Rejection("too_far", f"may be valid for {MAX_VALIDITY_BLOCKS} blocks at most")
    _check_turn(tx, sender, waiting=waiting)
    if sender.role not in tx.body.ROLES:
        raise Rejection("wrong_role", f"{tx.body.TYPE} is for {' and '.join(tx.body.ROLES)}, not {sender.role}")
    return sender


def _check_turn(tx: Transaction, sender: Party, *, waiting: bool) -> None:
    """Sequences count from 1 without gaps. What spends notes is a party's first: nothing it could wait for will come."""
    is_first = tx.signed is None and isinstance(tx.body, tx_types.Spend)
    if tx.sequence <= sender.sequence or (is_first and sender.sequence):
        raise Rejection("replayed", f"{sender.id} is at sequence {sender.sequence}")
    if tx.sequence > sender.sequence + 1 and (is_first or not waiting):
        raise Rejection("sequence_gap", f"{sender.id} is at sequence {sender.sequence}")


def _by_key(state: State, env: Env, tx: Transaction, signed: cose.Sign1) -> Party:
    """The registered party whose key signed it."""
    sender = state.find(Party, tx.sender)
    if sender is None:
        raise Rejection("unknown_sender", f"no party {tx.sender[:32]!r}")
    if sender.public == parties.NO_KEY:
        raise Rejection("revoked", f"the key of {sender.id} was revoked")
    if sender.role == ANONYMOUS:
        raise Rejection("bad_signature", "the user of an anonymous order signs with the note that funded it")
    if signed.kid != _key_id(sender.public) or not env.verify(sender.public, tx.message, signed.signature):
        raise Rejection("bad_signature", f"not signed by the key of {sender.id}")
    return sender


def _run_deadlines(state: State, env: Env, journal: Journal) -> None:
    """Everything whose time has come, earliest first: orders expire, contracts and disputes move on, pauses end."""
    for due in state.due(env.time_ms):
        if isinstance(due, Bid):
            orders.release_bid(state, journal, due, orders.EXPIRED)
        elif isinstance(due, Listing):
            orders.end_listing(state, journal, due, orders.EXPIRED)
        elif isinstance(due, Zone):
            epochs.end_pause(state, due)
        elif due.phase == DISPUTED:
            disputes.run_deadline(state, journal, due)
        else:
            contracts.run_deadline(state, env, journal, due)


def _acknowledge(state: State, journal: Journal) -> None:
    """One receipt per pile whose chain advanced: through which proof, by sequence and hash."""
    for pile_id in sorted(journal.receipts):
        pile = state.get(Pile, pile_id)
        journal.leaves.append(encode([LEAF_RECEIPT, pile.id, pile.last_sequence, pile.last_hash]))


# What each transaction does. Each takes (state, env, journal, transaction, its body), raises Rejection to refuse, and returns
# details of its result, mostly none.
_CARRY_OUT: dict[type[Body], Callable[[State, Env, Journal, Transaction, Any], list[object] | None]] = {
    tx_types.RegisterParty: lambda s, _, __, ___, body: parties.register_party(s, body),
    tx_types.RotateKey: lambda s, _, j, tx, body: parties.rotate_key(s, j, tx.sender, body),
    tx_types.RevokeKey: lambda s, _, j, tx, body: parties.revoke_key(s, j, tx.sender, body),
    tx_types.RestoreKey: lambda s, _, j, tx, body: parties.restore_key(s, j, tx.sender, body),
    tx_types.RegisterPile: lambda s, _, __, ___, body: parties.register_pile(s, body),
    tx_types.RetirePile: lambda s, _, j, tx, body: parties.retire_pile(s, j, tx.sender, body),
    tx_types.Deposit: lambda s, _, __, tx, body: treasury.deposit(s, tx.sender, body),
    tx_types.Withdraw: lambda s, _, __, tx, body: treasury.withdraw(s, tx.sender, tx.id, body),
    tx_types.PayOut: lambda s, _, __, tx, body: treasury.pay_out(s, tx.sender, body),
    tx_types.RefuseWithdrawal: lambda s, _, __, tx, body: treasury.refuse_withdrawal(s, tx.sender, body),
    tx_types.CollectFees: lambda s, _, __, tx, body: treasury.collect_fees(s, tx.sender, body),
    tx_types.SetTariff: lambda s, env, _, tx, body: tariff.set_tariff(s, env, tx.sender, body),
    tx_types.List: lambda s, env, _, tx, body: orders.place_listing(s, env, tx, body),
    tx_types.Unlist: lambda s, _, j, tx, body: orders.unlist(s, j, tx.sender, body),
    tx_types.PlaceBid: lambda s, env, _, tx, body: orders.place_bid(s, env, tx, body),
    tx_types.CancelBid: lambda s, _, j, tx, body: orders.cancel_bid(s, j, tx.sender, body),
    tx_types.Sign: lambda s, _, j, tx, body: contracts.sign(s, j, tx.sender, body),
    tx_types.CancelContract: lambda s, env, j, tx, body: contracts.call_off(s, env, j, tx.sender, body),
    tx_types.SubmitProofs: lambda s, env, j, _, body: proofs.admit_batch(s, env, j, body),
    tx_types.Confirm: lambda s, _, j, tx, body: contracts.confirm(s, j, tx.sender, body),
    tx_types.Object: lambda s, env, j, tx, body: disputes.object_to(s, env, j, tx.sender, body),
    tx_types.Answer: lambda s, env, j, tx, body: disputes.answer(s, env, j, tx.sender, body),
    tx_types.Rule: lambda s, _, j, tx, body: disputes.rule(s, j, tx.sender, body),
    tx_types.RegisterCandidate: lambda s, _, j, tx, body: stake.register_candidate(s, j, tx.sender, body),
    tx_types.Delegate: lambda s, _, __, tx, body: stake.delegate(s, tx.sender, body),
    tx_types.Undelegate: lambda s, _, j, tx, body: stake.undelegate(s, j, tx.sender, body),
    tx_types.SetCommission: lambda s, _, __, tx, body: stake.set_commission(s, tx.sender, body),
    tx_types.Unjail: lambda s, env, _, tx, __: conduct.unjail(s, env, tx.sender),
    tx_types.DoubleAttestation: lambda s, env, j, tx, body: conduct.double_attestation(s, env, j, tx.sender, body),
    tx_types.VoteUpgrade: lambda s, env, _, tx, body: upgrades.vote(s, env, tx.sender, body),
    tx_types.BuyNotes: notes.buy,
    tx_types.AnonymousBid: notes.bid,
    tx_types.RedeemNotes: lambda s, _, j, tx, body: notes.redeem(s, j, tx, body),
}
