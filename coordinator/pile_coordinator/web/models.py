"""What the API says: every field with its unit and range. Integers only; 64 bits, so read them as such.

Times are unix milliseconds, energy is in Wh, money in micro (10^-6 of the currency), prices in micro per kWh.
"""

from typing import Annotated, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from pile_coordinator.chain.records import ROLES
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


class Said(BaseModel):
    """Base of what is said."""

    model_config = ConfigDict(extra="ignore")


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


class OrderOut(Said):
    """A bid or listing."""

    id: Hash
    height: Height
    position: Place
    party: Id
    kind: Word
    energy_wh: Energy
    price_micro_per_kwh: Price
    divisible: bool = Field(description="Whether a bid may come to several contracts.")
    explicit: bool = Field(description="Whether its party signs each contract.")
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


class ContractOut(Said):
    """A contract, with the statement that counts for it: the last one written, null fields before the first."""

    id: Hash
    height: Height
    bid: Hash
    piece: int | None = Field(description="Of a divisible bid, which of its contracts.", ge=0, le=1 << 16)
    listing: Hash
    pile: Id
    zone: Id
    user: Id
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


class PostingOut(Said):
    """A posting of the statement that counts for a closed contract: money that moved."""

    contract: Hash
    height: Height
    item: Place
    debit: str = Field(description="U user, H owner, G grid, F fees, E escrow, B bond, D objection.", max_length=1)
    credit: str = Field(description="Likewise.", max_length=1)
    amount_micro: Amount
    user: Id
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


class DisputeOut(Said):
    """An objection."""

    height: Height
    party: Id
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


class SaidBy(Said):
    """A transaction of a party about the contract."""

    party: Id
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
