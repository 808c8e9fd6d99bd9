"""What the API says: every field with its unit and range. Integers only; 64 bits, so read them as such.

Times are unix milliseconds, energy is in Wh, money in micro (10^-6 of the currency), prices in micro per kWh.
"""

from typing import Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, computed_field, create_model

from pile_coordinator.chain.records import ROLES
from pile_coordinator.chain.transactions import MAX_DENOMINATIONS, is_pseudonym
from pile_coordinator.evidence.tallies import MEASURES
from pile_coordinator.records import MAX_OF_CONTRACT
from pile_shared.record import MAX_RECORD_BYTES
from pile_shared.units import (
    MAX_AMOUNT_MICRO,
    MAX_ENERGY_WH,
    MAX_POWER_W,
    MAX_PRICE_MICRO_PER_KWH,
    MAX_SEQUENCE,
    MAX_TIME_MS,
)

T = TypeVar("T")

MAX_HEIGHT = (1 << 62) - 1
MAX_PAGE = 200  # rows; some 200 kB
MAX_CURSOR = 400  # characters: the longest key is a hash, an id and two numbers
PATTERN_ID = r"^[a-z0-9-]{1,32}$"
PATTERN_HASH = r"^[0-9a-f]{64}$"

Id = Annotated[
    str, Field(description="Of a party, pile or zone: a-z, 0-9 and '-'.", pattern=PATTERN_ID, examples=["pile-1"])
]
Hash = Annotated[str, Field(description="32 bytes in hex: SHA-256.", pattern=PATTERN_HASH, examples=["00" * 32])]
Height = Annotated[int, Field(description="Height of a block.", ge=0, le=MAX_HEIGHT, examples=[1])]
Place = Annotated[
    int, Field(description="Place in a block: of a transaction, or of a leaf under its result root.", ge=0, le=1 << 31)
]
TimeMs = Annotated[int, Field(description="Unix milliseconds.", ge=0, le=MAX_TIME_MS)]
Energy = Annotated[int, Field(description="Energy in Wh.", ge=0, le=MAX_ENERGY_WH)]
Amount = Annotated[int, Field(description="Money in micro (10^-6 of the currency).", ge=0, le=MAX_AMOUNT_MICRO)]
Price = Annotated[
    int, Field(description="Price in micro per kWh; -1 stands for: at market.", ge=-1, le=MAX_PRICE_MICRO_PER_KWH)
]
Word = Annotated[str, Field(description="One of a few fixed words (ledger guide).", max_length=40)]
Sequence = Annotated[int, Field(description="Number of a proof in its pile's chain.", ge=0, le=MAX_SEQUENCE)]


_ANONYMOUS = "Whether notes paid for the order: the id is made for this order alone, and one of 16 notes signed for it."


class Said(BaseModel):
    """Base of what is said."""

    model_config = ConfigDict(extra="ignore")


class OfUser(Said):
    """What is of a contract's user."""

    user: Id

    @computed_field(description=_ANONYMOUS)  # type: ignore[prop-decorator]
    @property
    def anonymous(self) -> bool:
        """Of the user's id."""
        return is_pseudonym(self.user)


class OfParty(Said):
    """What is of a party, who may be the user of an anonymous order."""

    party: Id

    @computed_field(description=_ANONYMOUS)  # type: ignore[prop-decorator]
    @property
    def anonymous(self) -> bool:
        """Of the party's id."""
        return is_pseudonym(self.party)


class Page(Said, Generic[T]):
    """One page of a list, the newest first unless the list says otherwise."""

    items: list[T] = Field(description="The rows.", max_length=MAX_PAGE)
    next: str | None = Field(
        description="The `cursor` of the page that follows; null after the last.", max_length=MAX_CURSOR
    )


class Whoami(Said):
    """The caller's token."""

    token: str = Field(description="Its id, by which it is revoked.", pattern=r"^[0-9a-f]{12}$")
    party: Id
    role: str = Field(description="One of: " + ", ".join(ROLES) + ".", max_length=20)
    expires_ms: TimeMs


class BlockOut(Said):
    """A committed block."""

    height: Height
    time_ms: TimeMs
    hash: Hash
    proposer: Id
    txs: int = Field(description="Transactions in it, refused ones included.", ge=0)
    results: int = Field(description="Leaves under its result root.", ge=0)


class TxOut(Said):
    """A transaction of a block. Of a refused one nothing else is known; words of refusals are no part of the chain."""

    position: Place
    id: Hash
    type: str = Field(description="What it is; empty if it was refused.", max_length=40)
    sender: str = Field(description="Its party, for roles that see all; empty for others or if refused.", max_length=32)
    code: Word


class BlockDetail(BlockOut):
    """A block with its transactions, 200 at most."""

    transactions: list[TxOut] = Field(description="In order.", max_length=MAX_PAGE)


class PriceOut(Said):
    """What a zone's clearing came to, at one catalog price."""

    zone: Id
    height: Height
    time_ms: TimeMs
    catalog_micro_per_kwh: Price
    price_micro_per_kwh: Price
    capacity_wh: Energy
    open_before_wh: Energy
    open_after_wh: Energy


class OrderOut(OfParty):
    """A bid or listing."""

    id: Hash
    height: Height
    position: Place
    kind: Word
    energy_wh: Energy
    price_micro_per_kwh: Price
    divisible: bool = Field(description="Whether a bid may come to several contracts.")
    explicit: bool = Field(description="Whether its party signs each contract.")
    zone: Id | None = Field(description="Of a bid; a listing's is its pile's.")
    pile: Id | None = Field(description="Null for a bid that takes any.")
    window_start_ms: TimeMs
    window_end_ms: TimeMs
    expires_ms: TimeMs | None = Field(description="Of a limited bid.")
    outcome: Word
    ended_height: Height | None


class RecordOut(Said):
    """An OCMF record that a pile signed of a session's begin or end."""

    kind: str = Field(description="begin or end.", pattern="^(begin|end)$")
    sequence: int = Field(description="Of the proof whose reading it is.", ge=1, le=MAX_SEQUENCE)
    ocmf: str = Field(description="The record: OCMF|payload|signature.", max_length=MAX_RECORD_BYTES)


class RecordsOut(Said):
    """The OCMF records of a contract, begin before end; none if its pile makes none, or they are still to come."""

    contract: Hash
    pile: Id
    records: list[RecordOut] = Field(max_length=MAX_OF_CONTRACT)


class ContractOut(OfUser):
    """A contract, with the statement that counts for it: the last one written, null fields before the first."""

    id: Hash
    height: Height
    bid: Hash
    piece: int | None = Field(description="Of a divisible bid, which of its contracts.", ge=0, le=1 << 16)
    listing: Hash
    pile: Id
    zone: Id
    owner: Id
    energy_wh: Energy
    price_micro_per_kwh: Price
    on_curve: bool = Field(description="Whether the price is the curve's; otherwise the listing's ask.")
    catalog_sell_micro_per_kwh: Price
    catalog_buy_micro_per_kwh: Price
    window_start_ms: TimeMs
    window_end_ms: TimeMs
    fee_micro: Amount
    escrow_micro: Amount
    bond_micro: Amount
    state: Word
    outcome: Word | None
    signed_height: Height | None
    closed_height: Height | None
    settled_height: Height | None
    measured_wh: Energy | None
    contracted_wh: Energy | None
    grid_wh: Energy | None
    unpaid_wh: Energy | None
    cause: Word | None
    basis: Word | None


class ProofOut(Said):
    """A metering proof that the chain admitted."""

    pile: Id
    sequence: Sequence
    height: Height
    position: Place
    item: Place
    hash: Hash
    contract: Hash | None
    event: Word
    reason: Word
    first_time_ms: TimeMs | None
    last_time_ms: TimeMs | None
    last_energy_wh: Energy | None


class PostingOut(OfUser):
    """A posting of the statement that counts for a closed contract: money that moved."""

    contract: Hash
    height: Height
    item: Place
    debit: str = Field(description="U user, H owner, G grid, F fees, E escrow, B bond, D objection.", max_length=1)
    credit: str = Field(description="Likewise.", max_length=1)
    amount_micro: Amount
    owner: Id


class PileOut(Said):
    """A registered pile."""

    id: Id
    owner: Id
    zone: Id
    rated_power_w: int = Field(description="W.", ge=1, le=MAX_POWER_W)
    height: Height
    retired_height: Height | None
    receipt_height: Height | None
    through_sequence: Sequence | None


class PartyOut(Said):
    """A party that registered after genesis, with the key it registered with."""

    id: Id
    role: Word
    public: str = Field(description="P-256 point in hex; empty if revoked.", pattern=r"^([0-9a-f]{2}){0,65}$")
    height: Height
    position: Place


class StatementOut(Said):
    """Number 1 is the settlement as it was written down, 2 what a dispute came to."""

    number: int = Field(description="1 or 2.", ge=1, le=2)
    height: Height
    leaf: Place
    measured_wh: Energy
    contracted_wh: Energy
    grid_wh: Energy
    unpaid_wh: Energy
    cause: Word
    digest: Hash
    basis: Word | None


class DisputeOut(OfParty):
    """An objection; `anonymous` is of who objects."""

    height: Height
    ground: Word
    claimed_wh: Energy
    text: str = Field(description="What the party wrote. A stranger's words: show them as text only.", max_length=4096)
    bond_micro: Amount | None
    answer_height: Height | None


class RulingOut(Said):
    """What an arbiter said."""

    height: Height
    position: Place
    arbiter: Id
    measured_wh: Energy
    cause: Word


class SaidBy(OfParty):
    """A transaction of a party about the contract."""

    height: Height
    position: Place


class TraceOut(Said):
    """A contract's way from order to money."""

    contract: ContractOut
    bid: OrderOut | None = Field(description="Null if the caller's role sees none, or it is not the caller's.")
    listing: OrderOut | None = Field(description="Likewise.")
    pile: PileOut
    signatures: list[SaidBy] = Field(description="Of an explicitly signed contract.", max_length=2)
    proofs: list[ProofOut] = Field(
        description="The first 200; the contract's proofs have the rest.", max_length=MAX_PAGE
    )
    statements: list[StatementOut] = Field(description="In order.", max_length=2)
    confirmations: list[SaidBy] = Field(description="Of the settlement.", max_length=2)
    cancellation: SaidBy | None
    dispute: DisputeOut | None
    rulings: list[RulingOut] = Field(description="In order.", max_length=MAX_PAGE)
    postings: list[PostingOut] = Field(description="What moved when it closed.", max_length=MAX_PAGE)
    blocks: list[BlockOut] = Field(description="Of all that is named here.", max_length=MAX_PAGE)


class Health(Said):
    """That the server is up, and how old its newest block is."""

    height: Height
    behind_ms: int = Field(description="Since the server last read the database, ms.", ge=0)


class LivePrice(Said):
    """Data of a `price` event."""

    zone: Id
    height: Height
    time_ms: TimeMs
    catalog_micro_per_kwh: Price
    price_micro_per_kwh: Price
    open_after_wh: Energy
    capacity_wh: Energy


# --- boards --------------------------------------------------------------------------------------------------------------

MAX_STATES = 1000
Signed = Annotated[int, Field(description="Wh or micro; may be negative.", ge=-MAX_AMOUNT_MICRO, le=MAX_AMOUNT_MICRO)]
Length = Annotated[int, Field(description="Milliseconds.", ge=0, le=MAX_TIME_MS)]
Count = Annotated[int, Field(description="How many.", ge=0, le=1 << 53)]
Party = Annotated[str, Field(description="A party.", max_length=32)]


class DisputeRow(OfUser):
    """A dispute: what is objected to, until when arbiters may rule, and what it came to (`final_...`, null so long)."""

    contract: Hash
    pile: Id
    zone: Id
    owner: Id
    state: Word
    outcome: Word | None
    closed_height: Height | None
    party: Id
    ground: Word
    claimed_wh: Energy
    text: str = Field(description="What the party wrote. A stranger's words: show them as text only.", max_length=4096)
    bond_micro: Amount | None
    height: Height
    time_ms: TimeMs
    deadline_ms: TimeMs | None = Field(description="Null if it is decided, or the server has no genesis file.")
    answer_height: Height | None
    rulings: Count
    measured_wh: Energy
    cause: Word
    final_wh: Energy | None
    final_cause: Word | None
    basis: Word | None


class DeviationRow(OfUser):
    """A settlement of which the grid is a side. Money moves when the contract is closed."""

    contract: Hash
    height: Height
    time_ms: TimeMs
    pile: Id
    zone: Id
    owner: Id
    state: Word
    outcome: Word | None
    closed_height: Height | None
    expected_wh: Energy
    measured_wh: Energy
    off_wh: Signed
    grid_wh: Energy
    price_micro_per_kwh: Price
    catalog_sell_micro_per_kwh: Price
    catalog_buy_micro_per_kwh: Price
    grid_micro: Signed


class Checks(Said):
    """What checking a proof anew comes to; null: it cannot be told here."""

    signature: bool | None = Field(description="The pile's key signed it; null without a genesis file.")
    place: bool | None = Field(description="It follows the proof before it, by number and hash.")
    register_: bool | None = Field(alias="register", description="The meter's register does not fall.")


class StepOut(BaseModel):
    """One step. Its own facts, as the evidence database has them, stand beside these; a proof has `checks`."""

    model_config = ConfigDict(extra="allow")

    kind: Word
    height: Height
    time_ms: TimeMs
    position: Place | None
    leaf: Place | None
    checks: Checks | None = None


class TimelineOut(OfUser):
    """A contract's way from meter to money."""

    contract: Hash
    pile: Id
    zone: Id
    owner: Id
    state: Word
    outcome: Word | None
    steps: list[StepOut] = Field(description="In the order of the chain.", max_length=1000)
    next_sequence: Sequence | None = Field(description="`after` of the page with the next proofs; null after the last.")


class BookRow(OfParty):
    """An order that waits."""

    id: Hash
    kind: Word
    zone: Id | None
    pile: Id | None = Field(description="Null for a bid that takes any.")
    energy_wh: Energy
    open_wh: Signed = Field(description="Not yet contracted.")
    price_micro_per_kwh: Price
    window_start_ms: TimeMs
    window_end_ms: TimeMs
    expires_ms: TimeMs | None
    divisible: bool
    explicit: bool
    height: Height
    time_ms: TimeMs


class Level(Said):
    """What waits at one price."""

    kind: Word
    price_micro_per_kwh: Price
    open_wh: Signed
    orders: Count


class DepthOut(Said):
    """A zone's book by price."""

    zone: Id
    levels: list[Level] = Field(description="By kind, the dearest first.", max_length=MAX_PAGE)


class PricePoint(Said):
    """The last clearing in a part of the time; null prices: nothing was filled."""

    start_ms: TimeMs
    end_ms: TimeMs
    height: Height
    time_ms: TimeMs
    open_before_wh: Energy
    open_after_wh: Energy
    capacity_wh: Energy
    catalog_micro_per_kwh: Price | None
    price_micro_per_kwh: Price | None = Field(description="At the dearest catalog price.")
    low_micro_per_kwh: Price | None = Field(description="At the cheapest.")


class PriceHistoryOut(Said):
    """A zone's prices against its load."""

    zone: Id
    points: list[PricePoint] = Field(description="In order; parts without a clearing are left out.", max_length=500)


class PileState(Said):
    """What a pile is doing."""

    id: Id
    owner: Id
    zone: Id
    rated_power_w: int = Field(description="W.", ge=1, le=MAX_POWER_W)
    state: str = Field(
        description="idle, listed, reserved, charging, settling, disputed, silent or retired.", max_length=20
    )
    contract: Hash | None = Field(description="That makes it so; null if that is not the caller's to see.")
    user: Id | None
    since_ms: TimeMs | None
    heard_ms: TimeMs | None = Field(description="Time of the block with its last proof.")
    last_energy_wh: Energy | None = Field(description="Register; null if it is not the caller's to see.")

    @computed_field(description="Of the user; null if none is named.")  # type: ignore[prop-decorator]
    @property
    def anonymous(self) -> bool | None:
        """Of the user's id."""
        return None if self.user is None else is_pseudonym(self.user)


class PileStatesOut(Said):
    """One page of piles."""

    items: list[PileState] = Field(description="By id.", max_length=MAX_STATES)
    next: str | None = Field(description="The `cursor` of the page that follows.", max_length=MAX_CURSOR)


class NetworkBlock(Said):
    """A block, and who signed it; null if that is not known here."""

    height: Height
    time_ms: TimeMs
    hash: Hash
    proposer: Id
    txs: Count
    signed: list[Party] | None = Field(description="Accounting nodes.", max_length=1000)
    missed: list[Party] | None = Field(description="Accounting nodes that did not.", max_length=1000)


class NodeOut(Said):
    """An accounting node."""

    party: Id
    power: Count
    stake_micro: Amount | None
    proposed: Count
    missed: Count | None
    jailed: bool = Field(description="It was punished and is not elected again yet.")
    punished_height: Height | None
    punishment: Word | None


class NetworkOut(Said):
    """How the network is."""

    height: Height
    time_ms: TimeMs
    quiet_ms: Length
    ledger_height: Height | None
    elects: bool | None = Field(description="False: the accounting nodes of genesis stay, as on a solo network.")
    mean_ms: Length | None = Field(description="Between the last 200 blocks.")
    least_ms: Length | None
    most_ms: Length | None
    blocks: list[NetworkBlock] = Field(description="The newest first.", max_length=MAX_PAGE)
    nodes: list[NodeOut] = Field(description="Of the last block.", max_length=1000)


class BinsOut(Said):
    """How many bins there are of a size."""

    size: int = Field(description="1 to 16.", ge=1, le=16)
    bins: Count


_SIZES = "Of the live bins, by {}; null without a ledger."


class DenominationOut(Said):
    """Notes of one worth. `live` bins are full ones with notes left, of which the newest 500 are counted."""

    denomination: int = Field(description="k: worth the unit times 2^k.", ge=0, lt=MAX_DENOMINATIONS)
    value_micro: Amount | None = Field(description="Null without a genesis file.")
    sealed: Count = Field(description="Bins that were ever full.")
    issued: Count | None
    spent: Count | None
    outstanding: Count | None
    outstanding_micro: Amount | None
    filling: int | None = Field(description="Notes that wait in the bin that is not full.", ge=0, le=15)
    missing: int | None = Field(description="Notes until it is full.", ge=1, le=16)
    live: Count | None
    aging: Count | None = Field(description="Live bins that cannot be spent from yet.")
    is_whole: bool | None = Field(description="Whether every bin with notes left is among those counted.")
    by_unspent: list[BinsOut] | None = Field(description=_SIZES.format("notes not spent"), max_length=16)
    by_origins: list[BinsOut] | None = Field(
        description=_SIZES.format("how many buyers and refunded orders the 16 notes are of"), max_length=16
    )
    by_largest: list[BinsOut] | None = Field(
        description=_SIZES.format("how many notes are of the one that has most"), max_length=16
    )


class AnonymityOut(Said):
    """How well anonymous orders hide."""

    ledger_height: Height | None = Field(description="Of the block it is told of; null without a ledger.")
    ring: int = Field(description="Notes of a full bin, any of which may have paid.", ge=16, le=16)
    issues_notes: bool | None = Field(description="Whether this chain has notes; null without a genesis file.")
    unit_micro: Amount | None = Field(description="The least note.")
    bin_age_ms: Length | None = Field(description="From when a bin is full until its notes can be spent.")
    denominations: list[DenominationOut] = Field(description="The least first.", max_length=MAX_DENOMINATIONS)


class AlarmOut(Said):
    """Something that somebody should look at."""

    kind: Word
    severity: str = Field(description="critical or warning.", max_length=20)
    subject: str = Field(description="The pile, contract, withdrawal or party, or empty.", max_length=64)
    since_ms: TimeMs | None
    facts: dict[str, int] = Field(description="Figures, named with their units.")
    to_do: str = Field(description="What to do, for people.", max_length=300)


class NotJudged(Said):
    """A kind of alarm that cannot be judged here."""

    kind: Word
    needs: str = Field(description="What would know.", max_length=200)


class AlarmsOut(Said):
    """What is wrong now."""

    alarms: list[AlarmOut] = Field(description="The gravest first, then the oldest.", max_length=10_000)
    not_judged: list[NotJudged] = Field(description="By kind.", max_length=40)


# --- statistics ----------------------------------------------------------------------------------------------------------


class _Spans(Said):
    """One name in one period: docs/statistics.md says what each figure is."""

    name: str = Field(description="Empty for the whole chain.", max_length=32)
    period: str = Field(description="As people of the time zone call it.", max_length=80)
    start_ms: TimeMs
    end_ms: TimeMs
    anonymous: bool = Field(
        description="Whether it is of the users of all anonymous orders together; by `user` their `name` is `anon-all`."
    )


_FIGURES: dict[str, Any] = dict.fromkeys((*MEASURES, "user_micro", "listed_ms", "used_ms"), (Signed, ...))
_FIGURES["idle_permille"] = (
    int | None,
    Field(description="Of the time that piles were offered nobody charged; null if none was.", ge=0, le=1000),
)
_FIGURES["mean_delay_ms"] = (int | None, Field(description="From settlement to closing; null without contracts."))
StatisticsRow = create_model("StatisticsRow", __base__=_Spans, __doc__=_Spans.__doc__, **_FIGURES)


class StatisticsOut(Said):
    """One page of statistics."""

    time_zone: str = Field(description="Of the periods.", max_length=64)
    items: list[StatisticsRow] = Field(description="By period, or by name.", max_length=MAX_PAGE)  # type: ignore[valid-type]
    next: str | None = Field(description="The `cursor` of the page that follows.", max_length=MAX_CURSOR)


# --- traces --------------------------------------------------------------------------------------------------------------

AnId = Annotated[str, Field(description="As the kind has them.", max_length=100)]


class FoundOut(Said):
    """What an id is of."""

    kind: Word
    id: AnId


class TraceStep(Said):
    """One thing that happened, and by what anybody can check it."""

    kind: Word
    id: AnId
    what: str = Field(description="In words, for people; a stranger's words may be among them.", max_length=500)
    height: Height
    position: Place | None
    leaf: Place | None
    time_ms: TimeMs
    transaction: Hash | None
    checked: str = Field(description="By what it can be checked.", max_length=200)


class StoryOut(OfUser):
    """One contract, and whom and what it links."""

    contract: Hash
    order: Hash
    listing: Hash
    pile: Id
    zone: Id
    owner: Id
    state: Word
    outcome: Word | None
    steps: list[TraceStep] = Field(description="In the order of the chain.", max_length=2000)
    next_proof: Sequence | None = Field(description="`after_proof` of the page with the next proofs.")


class TracedOut(Said):
    """What was asked for, its own steps, and the contracts it belongs to."""

    found: FoundOut
    steps: list[TraceStep] = Field(description="Of the thing itself.", max_length=200)
    stories: list[StoryOut] = Field(description="The newest first.", max_length=20)
    next: str | None = Field(description="`after` of the page that follows.", max_length=100)
