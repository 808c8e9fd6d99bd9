"""What the chain remembers: one frozen record per thing, each with its table number and key.

A record's encoding is the array of its fields in order; the state root and the store are made of these encodings.
Ids of parties, piles and zones are text (pile_shared.units.check_id); orders and contracts are 32-byte hashes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Self

from pile_shared.codec import encode

GRID, OPERATOR, PILE_OWNER, EV_OWNER, THIRD_PARTY = "grid", "operator", "pile-owner", "ev-owner", "third-party"
ROLES = (GRID, OPERATOR, PILE_OWNER, EV_OWNER, THIRD_PARTY)

SIGNED, ACTIVE, MEASURED = "signed", "active", "measured"

Key = str | bytes


def _values(record: "Record") -> Iterator[object]:
    return (getattr(record, name) for name in type(record).__match_args__)


@dataclass(frozen=True, slots=True)
class Record:
    """Base of all records. TABLE is part of every key that reaches the state root: never reuse a number."""

    TABLE: ClassVar[int]
    __match_args__: ClassVar[tuple[str, ...]]

    @property
    def key(self) -> Key:
        """The first field is the key."""
        return next(_values(self))  # type: ignore[return-value]

    def encoded(self) -> bytes:
        """Deterministic CBOR array of the fields."""
        return encode(list(_values(self)))

    @classmethod
    def decoded(cls, row: list[object]) -> Self:
        """The record from its decoded array."""
        return cls(*row)


@dataclass(frozen=True, slots=True)
class Params(Record):
    """The rules of this chain that genesis sets and everyone can read. Money in micro, prices in micro per kWh."""

    TABLE: ClassVar[int] = 1
    name: str  # always "params"
    currency: str
    treasury: str  # the party that books deposits
    grid: str  # the party that takes deviations
    catalog_sell_micro_per_kwh: int  # P0 and p_cat: what the grid charges
    catalog_buy_micro_per_kwh: int  # p_buy: what the grid pays
    crr_numerator: int  # CRR = a / b
    crr_denominator: int
    capacity_hours: int  # S0 = rated power registered in the zone x this
    tolerance_permille: int  # tau = max(this share of Q, tolerance_min_wh)
    tolerance_min_wh: int
    overuse_permille: int  # O = max(this share of Q, tau)
    fee_micro: int
    bond_permille: int  # the owner's bond as a share of p x Q
    penalty_permille: int  # of the bond, to the user, when the pile defaults
    no_show_permille: int  # rho: of p x Q, to the owner, when the user does not come
    begin_grace_ms: int
    evidence_window_ms: int
    confirm_window_ms: int


@dataclass(frozen=True, slots=True)
class Party(Record):
    """A participant. `sequence` is that of its last accepted transaction."""

    TABLE: ClassVar[int] = 2
    id: str
    role: str
    public: bytes
    sequence: int
    open_orders: int  # listings and resting bids, bounded per party


@dataclass(frozen=True, slots=True)
class Pile(Record):
    """A registered pile and where its proof chain stands."""

    TABLE: ClassVar[int] = 3
    id: str
    owner: str
    public: bytes
    meter_model: str
    meter_serial: str
    zone: str
    rated_power_w: int
    last_sequence: int
    last_hash: bytes
    last_time_ms: int
    last_energy_wh: int
    anomaly: str  # "" or why the pile's readings are not believed; the running session is frozen


@dataclass(frozen=True, slots=True)
class Zone(Record):
    """A price zone: capacity_wh is S0, open_wh is S - S0, the contracted and undelivered energy priced by the curve."""

    TABLE: ClassVar[int] = 4
    id: str
    rated_power_w: int
    open_wh: int
    dirty: bool  # something changed since the last clearing, so resting bids may match now


@dataclass(frozen=True, slots=True)
class Listing(Record):
    """An owner's standing offer of a pile. ask_micro_per_kwh is -1 for "at market": capacity for the curve."""

    TABLE: ClassVar[int] = 5
    id: bytes
    owner: str
    pile: str
    zone: str
    window_start_ms: int
    window_end_ms: int
    energy_wh: int  # not yet contracted
    ask_micro_per_kwh: int


@dataclass(frozen=True, slots=True)
class Bid(Record):
    """A user's wish that has not been matched. hold_micro sits in escrow under the bid's id."""

    TABLE: ClassVar[int] = 6
    id: bytes
    user: str
    zone: str
    pile: str  # "" for any
    energy_wh: int
    window_start_ms: int
    window_end_ms: int
    limit_micro_per_kwh: int
    market: bool  # lives for one block
    expires_ms: int
    hold_micro: int


@dataclass(frozen=True, slots=True)
class Contract(Record):
    """An open contract. Closed ones leave the state; their receipts stay provable through the result root."""

    TABLE: ClassVar[int] = 7
    id: bytes
    terms: bytes
    phase: str
    deadline_ms: int
    available: bool  # by its last word on it, the pile was there for the user inside the begin grace
    begin_time_ms: int  # of the first reading of the begin proof, as is begin_energy_wh
    begin_energy_wh: int
    last_energy_wh: int
    evidence: bytes  # running hash over the proofs that count, see proofs.py
    statement: bytes  # the settlement statement once measured
    user_confirmed: bool
    owner_confirmed: bool


@dataclass(frozen=True, slots=True)
class Account(Record):
    """One account of the double-entry book; see accounts.py for the names."""

    TABLE: ClassVar[int] = 8
    name: str
    balance_micro: int


@dataclass(frozen=True, slots=True)
class PileKey(Record):
    """Finds a pile by the key id its proofs carry."""

    TABLE: ClassVar[int] = 9
    kid: bytes
    pile: str


@dataclass(frozen=True, slots=True)
class Payment(Record):
    """An external payment reference that has been booked, so that it is booked once."""

    TABLE: ClassVar[int] = 10
    reference: str
    amount_micro: int


TABLES: dict[int, type[Record]] = {
    kind.TABLE: kind for kind in (Params, Party, Pile, Zone, Listing, Bid, Contract, Account, PileKey, Payment)
}
