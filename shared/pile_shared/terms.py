"""Contract terms, frozen at signing: what both parties bound themselves to, and all that settlement needs to know.

The contract id is the SHA-256 of the terms' bytes, so terms cannot change without becoming another contract. The chain
writes them, the pile checks them before it energises, the verifier settles by them again.
"""

from pile_shared.codec import array, decode, encode
from pile_shared.errors import CodecError
from pile_shared.platform import sha256
from pile_shared.units import check_bytes, check_id, check_int, check_text

VERSION = 1
MAX_TERMS_BYTES = 1024

# Kinds of leaf under a block's result root. The first item of every leaf is one of these.
LEAF_RESULT, LEAF_CLEARING, LEAF_CONTRACT, LEAF_RECEIPT, LEAF_SETTLEMENT, LEAF_CLOSED = 0, 1, 2, 3, 4, 5
LEAF_TARIFF, LEAF_PROPOSED, LEAF_DISPUTE = 6, 7, 8

# Wire order, and what each field may be: h a 32-byte hash, k a public key, i an id, t text, n a count or quantity, b a bool.
FIELDS = (
    ("version", "n"),
    ("order", "h"),
    ("listing", "h"),
    ("zone", "i"),
    ("pile", "i"),
    ("pile_public", "k"),
    ("meter_serial", "t"),
    ("rated_power_w", "n"),
    ("user", "i"),
    ("user_public", "k"),
    ("owner", "i"),
    ("owner_public", "k"),
    ("energy_wh", "n"),
    ("window_start_ms", "n"),
    ("window_end_ms", "n"),
    ("price_micro_per_kwh", "n"),
    ("on_curve", "b"),
    ("tolerance_wh", "n"),
    ("overuse_wh", "n"),
    ("catalog_sell_micro_per_kwh", "n"),
    ("catalog_buy_micro_per_kwh", "n"),
    ("fee_micro", "n"),
    ("bond_micro", "n"),
    ("begin_grace_ms", "n"),
    ("evidence_window_ms", "n"),
    ("confirm_window_ms", "n"),
)


def _check(name: str, kind: str, value: object) -> object:
    if kind == "h":
        return check_bytes(name, value, 32, 32)
    if kind == "k":
        return check_bytes(name, value, 65, 65)
    if kind == "i":
        return check_id(name, value)
    if kind == "t":
        return check_text(name, value, 32)
    if kind == "b":
        if not isinstance(value, bool):
            raise CodecError(name + " must be true or false")
        return value
    return check_int(name, value, 0, (1 << 63) - 1)


class Terms:
    """The terms of one contract.

    Attributes:
        order, listing: ids of the bid and the listing that were matched. zone, pile, pile_public, meter_serial,
        rated_power_w: where energy is delivered and what measures it. user, owner and their keys: who pays, who earns.
        energy_wh: Q. window_start_ms, window_end_ms: when. price_micro_per_kwh: p; on_curve: p is the curve's price,
        not the listing's ask. tolerance_wh: tau. overuse_wh: O, the most that may be delivered beyond Q.
        catalog_*: the grid's prices for deviations. fee_micro, bond_micro: what the user and the owner put up besides.
        begin_grace_ms: after the window's start, how long a begin proof may be missing. evidence_window_ms: after the
        window's end, how long late proofs are taken. confirm_window_ms: after measuring, how long parties may confirm.
    """

    version: int
    order: bytes
    listing: bytes
    zone: str
    pile: str
    pile_public: bytes
    meter_serial: str
    rated_power_w: int
    user: str
    user_public: bytes
    owner: str
    owner_public: bytes
    energy_wh: int
    window_start_ms: int
    window_end_ms: int
    price_micro_per_kwh: int
    on_curve: bool
    tolerance_wh: int
    overuse_wh: int
    catalog_sell_micro_per_kwh: int
    catalog_buy_micro_per_kwh: int
    fee_micro: int
    bond_micro: int
    begin_grace_ms: int
    evidence_window_ms: int
    confirm_window_ms: int

    def __init__(self, row: list[object]) -> None:
        """Take the values in the order of FIELDS; CodecError or BoundsError if one is not what its field may be."""
        values = iter(array(row, len(FIELDS)))
        for name, kind in FIELDS:
            setattr(self, name, _check(name, kind, next(values)))
        if self.version != VERSION:
            raise CodecError("not version 1 terms")

    def encoded(self) -> bytes:
        """Deterministic CBOR: an array in the order of FIELDS."""
        return encode([getattr(self, name) for name, _ in FIELDS])

    def contract_id(self) -> bytes:
        """SHA-256 of the encoding."""
        return sha256(self.encoded())


def terms_from(values: dict[str, object]) -> Terms:
    """Terms from one value per name in FIELDS; CodecError or BoundsError otherwise."""
    if len(values) != len(FIELDS):
        raise CodecError("terms need exactly the documented fields")
    for name, _ in FIELDS:
        if name not in values:
            raise CodecError("terms lack " + name)
    return Terms([values[name] for name, _ in FIELDS])


def decode_terms(data: bytes) -> Terms:
    """Terms from their bytes; CodecError or BoundsError for anything else."""
    return Terms(array(decode(data, MAX_TERMS_BYTES), len(FIELDS)))
