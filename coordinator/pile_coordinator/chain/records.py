"""What the chain remembers: one frozen record per thing, each with its table number and key.

A record's encoding is the array of its fields in order; the state root and the store are made of these encodings.
Ids of parties, piles and zones are text (pile_shared.units.check_id); orders and contracts are 32-byte hashes.
"""

from dataclasses import dataclass
from operator import attrgetter
from typing import ClassVar, Self, cast

from pile_shared.codec import encode

GRID, OPERATOR, PILE_OWNER, EV_OWNER, THIRD_PARTY = "grid", "operator", "pile-owner", "ev-owner", "third-party"
ROLES = (GRID, OPERATOR, PILE_OWNER, EV_OWNER, THIRD_PARTY)
ANONYMOUS = "anonymous"  # who pays for one order with notes: a party until that order has ended, admitted by nobody

ENTERING, BONDED, LEAVING, UNBONDING = "entering", "bonded", "leaving", "unbonding"
PROPOSED, SIGNED, ACTIVE, MEASURED, DISPUTED = "proposed", "signed", "active", "measured", "disputed"

Key = str | bytes


@dataclass(frozen=True, slots=True)
class Record:
    """Base of all records. TABLE is part of every key that reaches the state root: never reuse a number."""

    TABLE: ClassVar[int]
    __match_args__: ClassVar[tuple[str, ...]]

    @property
    def key(self) -> Key:
        """The first field is the key."""
        return cast("Key", _KEYS[type(self)](self))

    def encoded(self) -> bytes:
        """Deterministic CBOR array of the fields."""
        return encode(_ROWS[type(self)](self))

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
    treasury: str  # the party that books deposits and pays out
    grid: str  # the party that sets the tariff and takes deviations
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
    epoch_ms: int
    band_permille: int  # of the catalog price: nothing is filled dearer
    breaker_permille: int  # a rise of the price by more pauses fills; 0 for never
    breaker_pause_ms: int
    sign_window_ms: int  # for explicit signatures under a proposed contract
    cancel_cutoff_ms: int  # before the window: until then a user may call a contract off for the fee
    dispute_window_ms: int
    objection_bond_micro: int
    rulings_needed: int  # k of the n third parties decide a dispute


@dataclass(frozen=True, slots=True)
class Party(Record):
    """A participant. `sequence` is that of its last accepted transaction."""

    TABLE: ClassVar[int] = 2
    id: str
    role: str
    public: bytes  # empty once the key is revoked
    sequence: int
    open_orders: int  # listings and resting bids, bounded per party

    def at(self, sequence: int) -> "Party":
        """The party after its transaction of this sequence. Every transaction asks, and `replace` takes five times as long."""
        return Party(self.id, self.role, self.public, sequence, self.open_orders)

    def counting(self, orders: int) -> "Party":
        """The party with so many open orders more."""
        return Party(self.id, self.role, self.public, self.sequence, self.open_orders + orders)


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
    admitted: int  # proofs that advanced the chain: invariant 8 holds it against last_sequence
    retired: bool  # keeps its place so that its id and key are never another's


@dataclass(frozen=True, slots=True)
class Zone(Record):
    """A price zone: capacity_wh is S0, open_wh is S - S0, the contracted and undelivered energy priced by the curve."""

    TABLE: ClassVar[int] = 4
    id: str
    rated_power_w: int  # of its piles now
    capacity_wh: int  # of its piles at the last epoch edge
    open_wh: int
    reference_wh: int  # the load that the breaker compares with
    paused_until_ms: int  # no fills before; 0 if they are not paused
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
    explicit: bool  # its owner wants to sign each contract


@dataclass(frozen=True, slots=True)
class Bid(Record):
    """A user's wish that has not been matched, or not wholly. hold_micro sits in escrow under the bid's id."""

    TABLE: ClassVar[int] = 6
    id: bytes
    user: str
    zone: str
    pile: str  # "" for any
    energy_wh: int  # not yet contracted
    window_start_ms: int
    window_end_ms: int
    limit_micro_per_kwh: int
    market: bool  # lives for one block
    expires_ms: int
    hold_micro: int
    divisible: bool
    explicit: bool  # its user wants to sign each contract
    pieces: int  # contracts that came of it so far


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
    user_signed: bool  # the settlement; of a proposal, the contract itself
    owner_signed: bool
    capacity_wh: int  # S0 when it was signed: which curve its escrow covers


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


@dataclass(frozen=True, slots=True)
class PartyKey(Record):
    """A party's key, present or past: no key is ever accepted twice."""

    TABLE: ClassVar[int] = 11
    kid: bytes
    party: str


@dataclass(frozen=True, slots=True)
class KeyRestore(Record):
    """One of the two words it takes to give a party a new key."""

    TABLE: ClassVar[int] = 12
    party: str
    public: bytes
    by_role: str


@dataclass(frozen=True, slots=True)
class Withdrawal(Record):
    """Money on its way out, set aside under the id of its transaction."""

    TABLE: ClassVar[int] = 13
    id: bytes
    party: str
    amount_micro: int
    destination: str


@dataclass(frozen=True, slots=True)
class Tariff(Record):
    """Catalog prices by period. `id` is "now" for the one in force and "next" for one announced.

    Each period is [from minute of the local day, name, selling, buying price in micro per kWh], in order, from minute 0.
    """

    TABLE: ClassVar[int] = 14
    id: str
    from_ms: int
    utc_offset_minutes: int
    periods: list[list[int | str]]


@dataclass(frozen=True, slots=True)
class Epoch(Record):
    """Where time stands: curves, capacities and tariffs change at `next_edge_ms` and not before."""

    TABLE: ClassVar[int] = 15
    name: str  # always "epoch"
    next_edge_ms: int


@dataclass(frozen=True, slots=True)
class Dispute(Record):
    """An objection to a measured contract's settlement, and the rulings so far, each [arbiter, key, measured Wh, cause]."""

    TABLE: ClassVar[int] = 16
    contract: bytes
    objector: str  # settlement.USER or settlement.OWNER
    ground: str
    claimed_wh: int
    bond_micro: int
    rulings: list[list[int | str | bytes]]


@dataclass(frozen=True, slots=True)
class Tally(Record):
    """What the chain has counted since genesis; invariants 6 and 8 hold it against the records."""

    TABLE: ClassVar[int] = 17
    name: str  # always "tally"
    contracts_signed: int
    contracts_closed: int
    metered_wh: int
    contracted_wh: int  # delivered under the contract
    grid_wh: int  # supplied by the grid
    unpaid_wh: int


@dataclass(frozen=True, slots=True)
class StakeRules(Record):
    """How accounting nodes are elected, paid and punished; set by genesis. A chain without this record elects nobody."""

    TABLE: ClassVar[int] = 18
    name: str  # always "stake-rules"
    max_validators: int  # N: so many are elected at most
    min_self_bond_micro: int  # less of one's own, and a candidate is not elected
    reward_permille: int  # of the fees that come in, to the accounting nodes; the treasury may collect the rest
    evidence_age_blocks: int  # an offence may be punished while it is no older than this many blocks ...
    evidence_age_ms: int  # ... or no older than this; CometBFT's max_age_num_blocks and max_age_duration
    double_sign_ppm: int  # of the stake at the offence's height, in millionths
    downtime_ppm: int
    downtime_window_blocks: (
        int  # who misses more than half as many, in this half of a window and the one before, is jailed
    )
    jail_ms: int


@dataclass(frozen=True, slots=True)
class Staking(Record):
    """How the fee account is divided. What came in since the last division is in neither of the two."""

    TABLE: ClassVar[int] = 19
    name: str  # always "staking"
    pot_micro: int  # for the accounting nodes, at the next epoch edge
    collectable_micro: int  # for the treasury to collect


@dataclass(frozen=True, slots=True)
class Candidate(Record):
    """A party that stands for election as an accounting node."""

    TABLE: ClassVar[int] = 20
    party: str
    consensus: bytes  # ed25519, 32 bytes: the key of its CometBFT node
    attestation: bytes  # P-256, 65 bytes: signs headers for light clients
    commission_permille: int
    next_commission_permille: int  # from the next epoch edge
    later_commission_permille: int  # from the one after it: backers can leave before it is taken of what they earn
    jailed_until_ms: int  # 0 if it is not in jail; it leaves only by `unjail`
    tombstoned: bool  # signed two things of one height: never elected again
    missed_before: int  # blocks, in the half of a window before the present one
    missed_blocks: int  # in the present half
    weight: int  # sum of its power over the blocks it has signed since the epoch edge


@dataclass(frozen=True, slots=True)
class Stake(Record):
    """What one party has put up for one candidate, and counts for the same heights. Its key is made of the other fields."""

    TABLE: ClassVar[int] = 21
    id: str
    candidate: str
    delegator: str
    phase: str  # "entering", "bonded", "leaving" or "unbonding"
    since_height: int  # the first block whose set it backs; 0 while it enters, 1 also for "longer than can be accused"
    until_height: int  # the first block whose set it backs no more; 0 before it is unbonding
    amount_micro: int


@dataclass(frozen=True, slots=True)
class NodeKey(Record):
    """Finds a party by the address of its consensus key (20 bytes) or the id of its attestation key (8 bytes).

    It stays when its party stands no more, so that no key is ever another's.
    """

    TABLE: ClassVar[int] = 22
    name: bytes
    candidate: str


@dataclass(frozen=True, slots=True)
class ValidatorSet(Record):
    """The accounting nodes from a height on, in order of party: [party, consensus key, attestation key, power, stake].

    It stays until nothing that was done under it can be punished any more.
    """

    TABLE: ClassVar[int] = 23
    from_height: bytes  # 8 bytes, big-endian
    members: list[list[str | bytes | int]]
    ended_ms: int  # time of the first block of the next set; 0 before that


@dataclass(frozen=True, slots=True)
class Upgrade(Record):
    """A change of rules that begins at a height."""

    TABLE: ClassVar[int] = 24
    name: str
    height: int


@dataclass(frozen=True, slots=True)
class UpgradeVotes(Record):
    """Who wants a change of rules to begin when: [accounting node, height], in order of node."""

    TABLE: ClassVar[int] = 25
    name: str
    votes: list[list[str | int]]


@dataclass(frozen=True, slots=True)
class NoteRules(Record):
    """What notes there are; set by genesis. A chain without this record issues none."""

    TABLE: ClassVar[int] = 26
    name: str  # always "note-rules"
    unit_micro: int  # the least denomination; number k is worth this times 2^k
    denominations: int  # how many there are
    bin_age_ms: int  # notes can be spent this long after their bin was sealed


@dataclass(frozen=True, slots=True)
class Denomination(Record):
    """One denomination of notes, and what was issued and spent of it: invariant 7 holds both against account N."""

    TABLE: ClassVar[int] = 27
    id: bytes  # k, 1 byte
    value_micro: int
    open_bin: int  # number of the bin that is being filled
    issued: int
    spent: int


@dataclass(frozen=True, slots=True)
class NoteBin(Record):
    """Up to 16 notes of one denomination, the ring of each of them once there are 16: sealed.

    When all are spent, no ring signature over it can show a new key image, so it goes, and its images with it.
    """

    TABLE: ClassVar[int] = 28
    id: bytes  # denomination, 1 byte, and number, 8 bytes big-endian
    notes: list[list[bytes]]  # [one-time key, base key it was made from, id of the transaction that issued it]
    images: list[bytes]  # key images of those that were spent, in order
    sealed_ms: int  # 0 while it is being filled
    in_use: int  # open orders whose user confirms over this ring


@dataclass(frozen=True, slots=True)
class Funding(Record):
    """How the user of an anonymous order is known again, and where what is left goes."""

    TABLE: ClassVar[int] = 29
    party: str
    bin: bytes  # of the note that leads: its ring and key image sign for the order from then on
    image: bytes
    refund: bytes  # base key of the notes for what is left
    source: bytes  # id of the transaction that spent the notes
    issued: int  # notes that were made of what is left, so far
    ended_height: int  # block in which the order ended; 0 while it is open


_KINDS: tuple[type[Record], ...] = (
    Params, Party, Pile, Zone, Listing, Bid, Contract, Account, PileKey, Payment, PartyKey, KeyRestore, Withdrawal, Tariff,
    Epoch, Dispute, Tally, StakeRules, Staking, Candidate, Stake, NodeKey, ValidatorSet, Upgrade, UpgradeVotes,
    NoteRules, Denomination, NoteBin, Funding,
)  # fmt: skip
TABLES: dict[int, type[Record]] = {kind.TABLE: kind for kind in _KINDS}

# In C, made once for each kind: a block asks for thousands.
_KEYS = {kind: attrgetter(kind.__match_args__[0]) for kind in _KINDS}
_ROWS = {kind: attrgetter(*kind.__match_args__) for kind in _KINDS}
