"""Transactions: who asks for what. COSE_Sign1 (ES256) over `[chain_id, type, sender, sequence, valid_until_height, body]`.

Where nobody may know who asks, `[payload, ring signatures]` over the same: see notes.py.

`decode_transaction` checks form and ranges only; `transition.check_tx` checks authority against the state.
An order's id (bid or listing) is the SHA-256 of its transaction's bytes, so it cannot exist twice.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import ClassVar

from pile_coordinator.chain.records import ANONYMOUS, EV_OWNER, GRID, OPERATOR, PILE_OWNER, ROLES, THIRD_PARTY
from pile_coordinator.chain.rejections import Rejection
from pile_coordinator.chain.settlement import CAUSE_PILE, CAUSE_USER
from pile_coordinator.ring.group import POINT_BYTES, is_point
from pile_coordinator.ring.signature import SIGNATURE_BYTES
from pile_shared import cose
from pile_shared.certificate import MAX_HEADER_BYTES
from pile_shared.codec import array, decode, encode, items
from pile_shared.errors import PilechainError
from pile_shared.p256 import is_on_curve
from pile_shared.platform import sha256
from pile_shared.proof import MAX_PROOF_BYTES
from pile_shared.topics import PARTY_LEVEL
from pile_shared.units import (
    LOT_WH,
    MAX_AMOUNT_MICRO,
    MAX_ENERGY_WH,
    MAX_POWER_W,
    MAX_PRICE_MICRO_PER_KWH,
    MAX_TIME_MS,
    check_bytes,
    check_id,
    check_int,
    check_text,
)

MAX_TX_BYTES = 65_000  # COSE payload lengths have 16 bits here; a batch of 256 proofs fits
MAX_BATCH_PROOFS = 256
MAX_VALIDITY_BLOCKS = 100_000
MAX_ORDER_WH = 1_000_000  # 1 MWh: a lorry depot's night, and it keeps every product inside 64 bits
MAX_DECODED = 1024  # transactions of the blocks in hand; 130 MB if all were as long as they may be
MAX_DECODED_SHORT = 16_384  # short ones, of which CometBFT's mempool holds 5,000 and asks again after each block; 60 MB
SHORT_BYTES = 1024
MAX_CATALOG_MICRO_PER_KWH = MAX_PRICE_MICRO_PER_KWH // 1000  # 1,000 of the currency; leaves room for the curve above it
MAX_PERIODS = 24
MAX_STOP_BYTES = 1024
MAX_STAKE_MICRO = (
    10_000_000_000_000_000  # for one candidate, 10^10 of the currency: weights of an epoch stay inside 64 bits
)
CONSENSUS_KEY_BYTES = 32  # ed25519
NEVER = 0  # as the height of a rule: call it off
AT_MARKET = -1
RING_TRANSACTION = "ring-tx"  # purpose of a ring signature, beside those of cose.py
PSEUDONYM = "anon-"  # begins the id of who pays with notes, and nobody else's
_HEX = frozenset("0123456789abcdef")
PSEUDONYM_BYTES = 13  # of SHA-256 over the key: as much as an id has room for
BIN_ID_BYTES = 9  # denomination, and number of the bin
MAX_DENOMINATIONS = 32
MAX_BOUGHT_NOTES = 64  # in one transaction: each is one multiplication on the curve, and a row of the state
MAX_SPENT_NOTES = 12  # in one transaction: each is 64 multiplications, some 4 ms, and 600 bytes

GROUND_ENERGY, GROUND_CAUSE = "energy", "cause"
GROUNDS = (GROUND_ENERGY, GROUND_CAUSE)

_ADMITTING = (GRID, OPERATOR)
_TRADING = (PILE_OWNER, EV_OWNER)
_SETTLING = (*_TRADING, ANONYMOUS)
NODE_ROLES = (GRID, OPERATOR, THIRD_PARTY)


@dataclass(frozen=True, slots=True)
class Body:
    """Base of all transaction bodies; TYPE is the wire name, ROLES who may send it."""

    TYPE: ClassVar[str]
    ROLES: ClassVar[tuple[str, ...]]

    def check(self) -> None:
        """Raise BoundsError for a field out of range."""


@dataclass(frozen=True, slots=True)
class RegisterParty(Body):
    """An operator admits a party with its key."""

    TYPE: ClassVar[str] = "register-party"
    ROLES: ClassVar[tuple[str, ...]] = _ADMITTING
    id: str
    role: str
    public: bytes

    def check(self) -> None:
        """Ids, roles and keys."""
        check_id("id", self.id)
        check_bytes("public", self.public, cose.PUBLIC_BYTES, cose.PUBLIC_BYTES)
        if self.role not in ROLES:
            raise Rejection("bounds", f"role must be one of {', '.join(ROLES)}")


@dataclass(frozen=True, slots=True)
class RotateKey(Body):
    """A party changes its own key; signed with the old one."""

    TYPE: ClassVar[str] = "rotate-key"
    ROLES: ClassVar[tuple[str, ...]] = ROLES
    public: bytes

    def check(self) -> None:
        """The key."""
        check_bytes("public", self.public, cose.PUBLIC_BYTES, cose.PUBLIC_BYTES)


@dataclass(frozen=True, slots=True)
class RevokeKey(Body):
    """A key is lost or stolen: it is good for nothing from now on."""

    TYPE: ClassVar[str] = "revoke-key"
    ROLES: ClassVar[tuple[str, ...]] = ROLES
    party: str

    def check(self) -> None:
        """The party."""
        check_id("party", self.party)


@dataclass(frozen=True, slots=True)
class RestoreKey(Body):
    """One of the two words, of a grid and of an operator party, that give a party a new key after its old one was revoked."""

    TYPE: ClassVar[str] = "restore-key"
    ROLES: ClassVar[tuple[str, ...]] = _ADMITTING
    party: str
    public: bytes

    def check(self) -> None:
        """Party and key."""
        check_id("party", self.party)
        check_bytes("public", self.public, cose.PUBLIC_BYTES, cose.PUBLIC_BYTES)


@dataclass(frozen=True, slots=True)
class RegisterPile(Body):
    """An operator admits an owner's pile after seeing its key fingerprint and meter."""

    TYPE: ClassVar[str] = "register-pile"
    ROLES: ClassVar[tuple[str, ...]] = _ADMITTING
    id: str
    owner: str
    public: bytes
    meter_model: str
    meter_serial: str
    zone: str
    rated_power_w: int

    def check(self) -> None:
        """Ids, key, texts and power."""
        check_id("id", self.id)
        if self.id == PARTY_LEVEL:
            raise Rejection("bounds", f"{self.id!r} stands in the topics of parties; no pile may be called so")
        check_id("owner", self.owner)
        check_id("zone", self.zone)
        check_bytes("public", self.public, cose.PUBLIC_BYTES, cose.PUBLIC_BYTES)
        check_text("meter_model", self.meter_model, 32)
        check_text("meter_serial", self.meter_serial, 32)
        check_int("rated_power_w", self.rated_power_w, 1, MAX_POWER_W)


@dataclass(frozen=True, slots=True)
class RetirePile(Body):
    """A pile is gone for good. Its id and key are never used again."""

    TYPE: ClassVar[str] = "retire-pile"
    ROLES: ClassVar[tuple[str, ...]] = (GRID, OPERATOR, PILE_OWNER)
    pile: str

    def check(self) -> None:
        """The pile."""
        check_id("pile", self.pile)


@dataclass(frozen=True, slots=True)
class Deposit(Body):
    """The treasury books money that arrived outside, once per payment reference."""

    TYPE: ClassVar[str] = "deposit"
    ROLES: ClassVar[tuple[str, ...]] = _ADMITTING
    party: str
    amount_micro: int
    reference: str

    def check(self) -> None:
        """Party, amount and reference."""
        check_id("party", self.party)
        check_int("amount_micro", self.amount_micro, 1, MAX_AMOUNT_MICRO // 1000)
        check_text("reference", self.reference, 64)


@dataclass(frozen=True, slots=True)
class Withdraw(Body):
    """A party asks for its money to be paid out; the transaction's id names the withdrawal."""

    TYPE: ClassVar[str] = "withdraw"
    ROLES: ClassVar[tuple[str, ...]] = ROLES
    amount_micro: int
    destination: str  # for the treasury: a bank account, a payment provider's customer number

    def check(self) -> None:
        """Amount and destination."""
        check_int("amount_micro", self.amount_micro, 1, MAX_AMOUNT_MICRO)
        check_text("destination", self.destination, 64)


@dataclass(frozen=True, slots=True)
class PayOut(Body):
    """The treasury has paid a withdrawal."""

    TYPE: ClassVar[str] = "pay-out"
    ROLES: ClassVar[tuple[str, ...]] = _ADMITTING
    withdrawal: bytes
    reference: str

    def check(self) -> None:
        """Withdrawal and reference."""
        check_bytes("withdrawal", self.withdrawal, 32, 32)
        check_text("reference", self.reference, 64)


@dataclass(frozen=True, slots=True)
class RefuseWithdrawal(Body):
    """The treasury could not pay a withdrawal."""

    TYPE: ClassVar[str] = "refuse-withdrawal"
    ROLES: ClassVar[tuple[str, ...]] = _ADMITTING
    withdrawal: bytes
    reason: str

    def check(self) -> None:
        """Withdrawal and reason."""
        check_bytes("withdrawal", self.withdrawal, 32, 32)
        check_text("reason", self.reason, 200)


@dataclass(frozen=True, slots=True)
class CollectFees(Body):
    """The treasury moves collected fees to a grid or operator party."""

    TYPE: ClassVar[str] = "collect-fees"
    ROLES: ClassVar[tuple[str, ...]] = _ADMITTING
    party: str
    amount_micro: int

    def check(self) -> None:
        """Party and amount."""
        check_id("party", self.party)
        check_int("amount_micro", self.amount_micro, 1, MAX_AMOUNT_MICRO)


@dataclass(frozen=True, slots=True)
class SetTariff(Body):
    """The grid announces its catalog prices; see records.Tariff for the periods."""

    TYPE: ClassVar[str] = "set-tariff"
    ROLES: ClassVar[tuple[str, ...]] = (GRID,)
    from_ms: int
    utc_offset_minutes: int
    periods: list[list[int | str]]

    def check(self) -> None:
        """Time, offset, and periods that cover the day and never buy dearer than they sell."""
        check_int("from_ms", self.from_ms, 0, MAX_TIME_MS)
        check_int("utc_offset_minutes", self.utc_offset_minutes, -720, 840)
        if not isinstance(self.periods, list) or not 1 <= len(self.periods) <= MAX_PERIODS:
            raise Rejection("bounds", f"periods must be 1 to {MAX_PERIODS} periods")
        earliest = 0
        for i, period in enumerate(self.periods):
            if not isinstance(period, list) or len(period) != 4:
                raise Rejection("bounds", "a period is [from minute, name, selling price, buying price]")
            from_minute, name, sell, buy = period
            earliest = check_int("from minute of the period", from_minute, earliest, 1439 if i else 0) + 1
            check_id("name of the period", name)
            top = check_int("selling price", sell, 1, MAX_CATALOG_MICRO_PER_KWH)
            check_int("buying price", buy, 0, top)


@dataclass(frozen=True, slots=True)
class List(Body):
    """An owner offers a pile in a window, at an ask price or at market (ask -1)."""

    TYPE: ClassVar[str] = "list"
    ROLES: ClassVar[tuple[str, ...]] = (PILE_OWNER,)
    pile: str
    window_start_ms: int
    window_end_ms: int
    energy_wh: int
    ask_micro_per_kwh: int
    explicit: bool

    def check(self) -> None:
        """Pile, window, energy and price."""
        check_id("pile", self.pile)
        check_int("window_start_ms", self.window_start_ms, 0, MAX_TIME_MS)
        check_int("window_end_ms", self.window_end_ms, 0, MAX_TIME_MS)
        check_int("energy_wh", self.energy_wh, LOT_WH, 1000 * MAX_ORDER_WH)
        check_int("ask_micro_per_kwh", self.ask_micro_per_kwh, AT_MARKET, MAX_PRICE_MICRO_PER_KWH)
        _check_bool("explicit", self.explicit)


@dataclass(frozen=True, slots=True)
class Unlist(Body):
    """An owner withdraws a listing; contracts made from it stand."""

    TYPE: ClassVar[str] = "unlist"
    ROLES: ClassVar[tuple[str, ...]] = (PILE_OWNER,)
    listing: bytes

    def check(self) -> None:
        """The id."""
        check_bytes("listing", self.listing, 32, 32)


@dataclass(frozen=True, slots=True)
class PlaceBid(Body):
    """A user asks for energy: at market (limit is the slippage cap, lives one block) or price-limited (rests)."""

    TYPE: ClassVar[str] = "bid"
    ROLES: ClassVar[tuple[str, ...]] = (EV_OWNER,)
    zone: str
    pile: str
    energy_wh: int
    window_start_ms: int
    window_end_ms: int
    limit_micro_per_kwh: int
    market: bool
    expires_ms: int
    divisible: bool
    explicit: bool

    def check(self) -> None:
        """Zone, pile, energy, window, price and expiry."""
        check_id("zone", self.zone)
        if self.pile != "":
            check_id("pile", self.pile)
        check_int("energy_wh", self.energy_wh, LOT_WH, MAX_ORDER_WH)
        check_int("window_start_ms", self.window_start_ms, 0, MAX_TIME_MS)
        check_int("window_end_ms", self.window_end_ms, 0, MAX_TIME_MS)
        check_int("limit_micro_per_kwh", self.limit_micro_per_kwh, 1, MAX_PRICE_MICRO_PER_KWH)
        check_int("expires_ms", self.expires_ms, 0, MAX_TIME_MS)
        for name in ("market", "divisible", "explicit"):
            _check_bool(name, getattr(self, name))


@dataclass(frozen=True, slots=True)
class BuyNotes(Body):
    """A user turns money into notes: of denomination k, from 0, as many as `counts` says at k, of keys made from `base`."""

    TYPE: ClassVar[str] = "buy-notes"
    ROLES: ClassVar[tuple[str, ...]] = (EV_OWNER,)
    base: bytes
    counts: list[int]

    def check(self) -> None:
        """The base key, and how many."""
        _check_point("base", self.base)
        if not isinstance(self.counts, list) or not 1 <= len(self.counts) <= MAX_DENOMINATIONS:
            raise Rejection("bounds", f"counts must be 1 to {MAX_DENOMINATIONS} counts")
        for count in self.counts:
            check_int("one of counts", count, 0, MAX_BOUGHT_NOTES)
        if sum(self.counts) > MAX_BOUGHT_NOTES or self.counts[-1] == 0:
            raise Rejection("bounds", f"counts must be of {MAX_BOUGHT_NOTES} notes at most, and end with one above 0")


@dataclass(frozen=True, slots=True)
class Spend(Body):
    """Base of what notes pay for. The sender is `pseudonym(public)`; it is the first and last it sends as nobody.

    notes: [bin, key image] of each, 1 to MAX_SPENT_NOTES, no image twice; the transaction has a ring signature for each, in
    this order. public: P-256, made for this; starts and stops the session of the order.
    """

    ROLES: ClassVar[tuple[str, ...]] = (ANONYMOUS,)
    notes: list[list[bytes]]
    public: bytes

    def check(self) -> None:
        """Notes and key."""
        if not isinstance(self.notes, list) or not 1 <= len(self.notes) <= MAX_SPENT_NOTES:
            raise Rejection("bounds", f"notes must be 1 to {MAX_SPENT_NOTES} notes")
        for row in self.notes:
            if not isinstance(row, list) or len(row) != 2:
                raise Rejection("bounds", "each of notes is [bin, key image]")
            check_bytes("bin of notes", row[0], BIN_ID_BYTES, BIN_ID_BYTES)
            check_bytes("image of notes", row[1], POINT_BYTES, POINT_BYTES)
        if len({image for _, image in self.notes}) != len(self.notes):
            raise Rejection("bounds", "notes must differ")
        # Nobody admitted this party and looked at its key; a pile is told it, and must be able to work with it.
        if not is_on_curve(check_bytes("public", self.public, cose.PUBLIC_BYTES, cose.PUBLIC_BYTES)):
            raise Rejection("bounds", "public must be a point of P-256, uncompressed")


@dataclass(frozen=True, slots=True)
class AnonymousBid(Spend):
    """A bid that notes pay for. The first of them leads: its ring signature confirms, objects and cancels.

    refund: base key of the notes that what is left becomes. The others are those of a bid that is neither divisible nor signed
    explicitly.
    """

    TYPE: ClassVar[str] = "anonymous-bid"
    refund: bytes
    zone: str
    pile: str
    energy_wh: int
    window_start_ms: int
    window_end_ms: int
    limit_micro_per_kwh: int
    market: bool
    expires_ms: int

    def check(self) -> None:
        """Notes, keys, and the bid."""
        Spend.check(self)
        _check_point("refund", self.refund)
        self.as_bid().check()

    def as_bid(self) -> PlaceBid:
        """What it asks for."""
        return PlaceBid(
            zone=self.zone,
            pile=self.pile,
            energy_wh=self.energy_wh,
            window_start_ms=self.window_start_ms,
            window_end_ms=self.window_end_ms,
            limit_micro_per_kwh=self.limit_micro_per_kwh,
            market=self.market,
            expires_ms=self.expires_ms,
            divisible=False,
            explicit=False,
        )


@dataclass(frozen=True, slots=True)
class RedeemNotes(Spend):
    """Notes become the money of a party again, whole."""

    TYPE: ClassVar[str] = "redeem-notes"
    party: str

    def check(self) -> None:
        """Notes, key and party."""
        Spend.check(self)
        check_id("party", self.party)


@dataclass(frozen=True, slots=True)
class CancelBid(Body):
    """A user withdraws a resting bid."""

    TYPE: ClassVar[str] = "cancel"
    ROLES: ClassVar[tuple[str, ...]] = (EV_OWNER, ANONYMOUS)
    bid: bytes

    def check(self) -> None:
        """The id."""
        check_bytes("bid", self.bid, 32, 32)


@dataclass(frozen=True, slots=True)
class Sign(Body):
    """A party signs a proposed contract: its id is the hash of its terms."""

    TYPE: ClassVar[str] = "sign"
    ROLES: ClassVar[tuple[str, ...]] = _TRADING
    contract: bytes

    def check(self) -> None:
        """The id."""
        check_bytes("contract", self.contract, 32, 32)


@dataclass(frozen=True, slots=True)
class CancelContract(Body):
    """A party calls off a contract that has not begun."""

    TYPE: ClassVar[str] = "cancel-contract"
    ROLES: ClassVar[tuple[str, ...]] = _SETTLING
    contract: bytes

    def check(self) -> None:
        """The id."""
        check_bytes("contract", self.contract, 32, 32)


@dataclass(frozen=True, slots=True)
class SubmitProofs(Body):
    """The preprocessor hands in metering proofs (paper section 3, "The Preprocessing of the Block")."""

    TYPE: ClassVar[str] = "proofs"
    ROLES: ClassVar[tuple[str, ...]] = _ADMITTING
    proofs: list[bytes]

    def check(self) -> None:
        """A bounded batch of bounded byte strings."""
        if not isinstance(self.proofs, list) or not 1 <= len(self.proofs) <= MAX_BATCH_PROOFS:
            raise Rejection("bounds", f"proofs must be 1 to {MAX_BATCH_PROOFS} proofs")
        for message in self.proofs:
            check_bytes("proof", message, 1, MAX_PROOF_BYTES)


@dataclass(frozen=True, slots=True)
class Confirm(Body):
    """A party of a contract signs its settlement."""

    TYPE: ClassVar[str] = "confirm"
    ROLES: ClassVar[tuple[str, ...]] = _SETTLING
    contract: bytes
    digest: bytes

    def check(self) -> None:
        """Two hashes."""
        check_bytes("contract", self.contract, 32, 32)
        check_bytes("digest", self.digest, 32, 32)


@dataclass(frozen=True, slots=True)
class Object(Body):
    """A party disputes the settlement of a measured contract."""

    TYPE: ClassVar[str] = "object"
    ROLES: ClassVar[tuple[str, ...]] = _SETTLING
    contract: bytes
    ground: str
    claimed_wh: int
    text: str

    def check(self) -> None:
        """Contract, ground, claim and a sentence for the arbiters."""
        check_bytes("contract", self.contract, 32, 32)
        if self.ground not in GROUNDS:
            raise Rejection("bounds", f"ground must be {' or '.join(GROUNDS)}")
        check_int("claimed_wh", self.claimed_wh, 0, MAX_ENERGY_WH)
        check_text("text", self.text, 200)


@dataclass(frozen=True, slots=True)
class Answer(Body):
    """An owner answers a disputed cause with the stop command that the user signed."""

    TYPE: ClassVar[str] = "answer"
    ROLES: ClassVar[tuple[str, ...]] = (PILE_OWNER,)
    contract: bytes
    stop: bytes

    def check(self) -> None:
        """Contract and command."""
        check_bytes("contract", self.contract, 32, 32)
        check_bytes("stop", self.stop, 1, MAX_STOP_BYTES)


@dataclass(frozen=True, slots=True)
class Rule(Body):
    """An arbiter says what was metered and who caused the deviation."""

    TYPE: ClassVar[str] = "rule"
    ROLES: ClassVar[tuple[str, ...]] = (THIRD_PARTY,)
    contract: bytes
    measured_wh: int
    cause: str

    def check(self) -> None:
        """Contract, energy and cause."""
        check_bytes("contract", self.contract, 32, 32)
        check_int("measured_wh", self.measured_wh, 0, MAX_ENERGY_WH)
        if self.cause not in (CAUSE_USER, CAUSE_PILE):
            raise Rejection("bounds", f"cause must be {CAUSE_USER} or {CAUSE_PILE}")


@dataclass(frozen=True, slots=True)
class RegisterCandidate(Body):
    """A party stands for election as an accounting node, with its node's keys and a bond of its own."""

    TYPE: ClassVar[str] = "register-candidate"
    ROLES: ClassVar[tuple[str, ...]] = NODE_ROLES
    consensus: bytes
    attestation: bytes
    commission_permille: int
    amount_micro: int

    def check(self) -> None:
        """Keys, commission and bond."""
        check_bytes("consensus", self.consensus, CONSENSUS_KEY_BYTES, CONSENSUS_KEY_BYTES)
        check_bytes("attestation", self.attestation, cose.PUBLIC_BYTES, cose.PUBLIC_BYTES)
        check_int("commission_permille", self.commission_permille, 0, 1000)
        check_int("amount_micro", self.amount_micro, 1, MAX_STAKE_MICRO)


@dataclass(frozen=True, slots=True)
class Delegate(Body):
    """A party puts up stake for a candidate, itself or another; it counts from the next election."""

    TYPE: ClassVar[str] = "delegate"
    ROLES: ClassVar[tuple[str, ...]] = ROLES
    candidate: str
    amount_micro: int

    def check(self) -> None:
        """Candidate and amount."""
        check_id("candidate", self.candidate)
        check_int("amount_micro", self.amount_micro, 1, MAX_STAKE_MICRO)


@dataclass(frozen=True, slots=True)
class Undelegate(Body):
    """A party takes stake back; it comes when nothing it stood for can be punished any more."""

    TYPE: ClassVar[str] = "undelegate"
    ROLES: ClassVar[tuple[str, ...]] = ROLES
    candidate: str
    amount_micro: int

    def check(self) -> None:
        """Candidate and amount."""
        check_id("candidate", self.candidate)
        check_int("amount_micro", self.amount_micro, 1, MAX_STAKE_MICRO)


@dataclass(frozen=True, slots=True)
class SetCommission(Body):
    """A candidate changes what it keeps of its backers' rewards, from the next epoch edge but one."""

    TYPE: ClassVar[str] = "set-commission"
    ROLES: ClassVar[tuple[str, ...]] = NODE_ROLES
    commission_permille: int

    def check(self) -> None:
        """The commission."""
        check_int("commission_permille", self.commission_permille, 0, 1000)


@dataclass(frozen=True, slots=True)
class Unjail(Body):
    """A candidate says that its node runs again; it may be elected at the next epoch edge."""

    TYPE: ClassVar[str] = "unjail"
    ROLES: ClassVar[tuple[str, ...]] = NODE_ROLES


@dataclass(frozen=True, slots=True)
class DoubleAttestation(Body):
    """Anybody shows two headers of one height that one node has attested."""

    TYPE: ClassVar[str] = "double-attestation"
    ROLES: ClassVar[tuple[str, ...]] = ROLES
    candidate: str
    first: bytes
    first_signature: bytes
    second: bytes
    second_signature: bytes

    def check(self) -> None:
        """Candidate, headers and signatures."""
        check_id("candidate", self.candidate)
        for name in ("first", "second"):
            check_bytes(name, getattr(self, name), 1, MAX_HEADER_BYTES)
            signature = name + "_signature"
            check_bytes(signature, getattr(self, signature), cose.SIGNATURE_BYTES, cose.SIGNATURE_BYTES)


@dataclass(frozen=True, slots=True)
class VoteUpgrade(Body):
    """An accounting node wants a change of rules to begin at a height, or NEVER."""

    TYPE: ClassVar[str] = "vote-upgrade"
    ROLES: ClassVar[tuple[str, ...]] = NODE_ROLES
    name: str
    height: int

    def check(self) -> None:
        """Name and height."""
        check_id("name", self.name)
        check_int("height", self.height, NEVER, (1 << 53) - 1)


_KINDS: tuple[type[Body], ...] = (
    RegisterParty, RotateKey, RevokeKey, RestoreKey, RegisterPile, RetirePile, Deposit, Withdraw, PayOut, RefuseWithdrawal,
    CollectFees, SetTariff, List, Unlist, PlaceBid, CancelBid, Sign, CancelContract, SubmitProofs, Confirm, Object, Answer,
    Rule, RegisterCandidate, Delegate, Undelegate, SetCommission, Unjail, DoubleAttestation, VoteUpgrade,
    BuyNotes, AnonymousBid, RedeemNotes,
)  # fmt: skip
BODIES: dict[str, type[Body]] = {kind.TYPE: kind for kind in _KINDS}
_FIELDS = {kind: tuple(field.name for field in fields(kind)) for kind in _KINDS}


def pseudonym(public: bytes) -> str:
    """What the chain calls the user of an anonymous order: its key, as far as an id has room (13 bytes of SHA-256)."""
    return PSEUDONYM + sha256(public)[:PSEUDONYM_BYTES].hex()


def is_pseudonym(party: str) -> bool:
    """Whether a party id is the `pseudonym` of an anonymous order's user, by its form; named parties have none of that form."""
    digits = party.removeprefix(PSEUDONYM)
    return len(party) - len(digits) == len(PSEUDONYM) and len(digits) == 2 * PSEUDONYM_BYTES and set(digits) <= _HEX


def _check_point(name: str, value: object) -> None:
    if not is_point(check_bytes(name, value, POINT_BYTES, POINT_BYTES)):
        raise Rejection("bounds", f"{name} must be a point of ristretto255, not the identity")


def _check_bool(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise Rejection("bounds", f"{name} must be true or false")


@dataclass(frozen=True, slots=True)
class Transaction:
    """A decoded transaction.

    Attributes:
        id: SHA-256 of its bytes. message: what the signature is to be over, on the chain that it names. signed: the COSE
        message; None where `rings`, ring signatures of 544 bytes, take its place.
    """

    id: bytes
    message: bytes
    signed: cose.Sign1 | None
    chain_id: str
    sender: str
    sequence: int
    valid_until_height: int
    body: Body
    rings: tuple[bytes, ...] = ()


def sign_transaction(
    signer: cose.SoftwareSigner, chain_id: str, sender: str, sequence: int, valid_until_height: int, body: Body
) -> bytes:
    """The bytes of a transaction."""
    payload = _payload(chain_id, sender, sequence, valid_until_height, body)
    return cose.sign1(payload, signer, cose.purpose(cose.TRANSACTION, chain_id))


def ring_sign_transaction(
    sign: Callable[[bytes], list[bytes]], chain_id: str, sender: str, sequence: int, valid_until_height: int, body: Body
) -> bytes:
    """The bytes of a transaction of nobody: `sign` gives the ring signatures of a message, one for each note of a Spend."""
    payload = _payload(chain_id, sender, sequence, valid_until_height, body)
    return encode([payload, sign(ring_message(chain_id, payload))])


def ring_message(chain_id: str, payload: bytes) -> bytes:
    """What ring signatures are over: purpose, chain, order, digest and expiry are all in it, and the images of a Spend."""
    return encode([cose.purpose(RING_TRANSACTION, chain_id), payload])


def _payload(chain_id: str, sender: str, sequence: int, valid_until_height: int, body: Body) -> bytes:
    values = [getattr(body, name) for name in _FIELDS[type(body)]]
    return encode([chain_id, body.TYPE, sender, sequence, valid_until_height, values])


def decode_transaction(data: bytes) -> Transaction:
    """A transaction from its bytes, form and ranges checked; Rejection otherwise. Its signature is not checked yet.

    Pure, so remembered: who takes a transaction, the block and the evidence each look at it.
    """
    if len(data) > MAX_TX_BYTES:
        raise Rejection("oversized", f"a transaction has at most {MAX_TX_BYTES} bytes")
    return _decode_short(data) if len(data) <= SHORT_BYTES else _decode_long(data)


def _decode(data: bytes) -> Transaction:
    signed: cose.Sign1 | None = None
    rings: tuple[bytes, ...] = ()
    try:
        if data[:1] == _PAIR:
            payload, rings = _ring_signed(data)
        else:
            signed = cose.parse1(data, MAX_TX_BYTES)
            payload = signed.payload
        row = decode(payload, MAX_TX_BYTES)
    except PilechainError as error:
        raise Rejection("malformed", str(error)) from error
    if not isinstance(row, list) or len(row) != 6 or not isinstance(row[5], list):
        raise Rejection("malformed", "a transaction is [chain_id, type, sender, sequence, valid_until_height, body]")
    chain_id, kind, sender, sequence, valid_until_height, values = row
    if not isinstance(chain_id, str) or not isinstance(kind, str) or not isinstance(sender, str):
        raise Rejection("malformed", "chain_id, type and sender are text")
    body_type = BODIES.get(kind)
    if body_type is None:
        raise Rejection("unknown_type", f"no transaction type {kind[:32]!r}")
    if len(values) != len(_FIELDS[body_type]):
        raise Rejection("malformed", f"{kind} has {len(_FIELDS[body_type])} fields")
    body = body_type(*values)
    try:
        check_int("sequence", sequence, 1, (1 << 53) - 1)
        check_int("valid_until_height", valid_until_height, 1, (1 << 53) - 1)
        body.check()
    except PilechainError as error:
        raise Rejection("bounds", str(error)) from error
    if signed is None:
        message = ring_message(chain_id, payload)
    else:
        message = cose.to_be_signed(signed.kid, payload, cose.purpose(cose.TRANSACTION, chain_id))
    return Transaction(sha256(data), message, signed, chain_id, sender, sequence, valid_until_height, body, rings)


def _ring_signed(data: bytes) -> tuple[bytes, tuple[bytes, ...]]:
    """Payload and ring signatures of `[payload, [signature, ...]]`."""
    payload, rows = array(decode(data, MAX_TX_BYTES), 2)
    rings = items(rows, MAX_SPENT_NOTES)
    if not rings:
        raise Rejection("malformed", "a transaction without a signature")
    for ring in rings:
        check_bytes("ring signature", ring, SIGNATURE_BYTES, SIGNATURE_BYTES)
    return check_bytes("payload", payload, 1, MAX_TX_BYTES), tuple(rings)


_PAIR = b"\x82"  # an array of two; a COSE_Sign1 begins with its tag
_decode_short, _decode_long = lru_cache(MAX_DECODED_SHORT)(_decode), lru_cache(MAX_DECODED)(_decode)
