"""The order certificate: everything needed to check one order offline, from the meter to the money.

It carries what the parties signed, the contract and the clearing that priced it, every metering proof, the settlement and
its closing, and what else it took to get there: signatures under a proposal, a tariff, new keys, a cancellation, a dispute;
all that the chain wrote with Merkle paths and quorum signatures (docs/wire-format.cddl, `order-certificate`). `verify.py`
checks it. Of an order that notes paid for it carries the rings that its user signed over, and nothing of who that was.
"""

from dataclasses import dataclass

from pile_coordinator.chain.orders import MAX_PIECES
from pile_coordinator.chain.settlement import MAX_ARBITERS
from pile_coordinator.chain.transactions import MAX_SPENT_NOTES, MAX_TX_BYTES
from pile_shared.certificate import MAX_HANDOVER_BYTES, Inclusion, inclusion_from
from pile_shared.codec import array, decode, encode, items
from pile_shared.errors import CodecError
from pile_shared.proof import MAX_PROOF_BYTES
from pile_shared.units import check_bytes, check_id, check_int

VERSION = 4
WITHOUT_RINGS = (
    3  # the version before: the same but for `rings`; people keep certificates for years, so it is read still
)
_ITEMS = 18
MAX_CERTIFICATE_BYTES = 16 << 20  # a week of proofs, one a minute, is 2 MB; the longest row of key changes as much
MAX_PROOFS = 50_000
MAX_HANDOVERS = 1000  # of the accounting nodes since genesis: one a day for three years
MAX_KEY_CHANGES = 8192  # of all that signed something: more than one a minute for a contract's longest window


@dataclass(frozen=True, slots=True)
class TariffChange:
    """How a tariff that genesis does not set came into force.

    Attributes:
        in_force: its leaf. announcement: the grid's `set-tariff` transaction.
    """

    in_force: Inclusion
    announcement: bytes

    def fields(self) -> list[object]:
        """Wire order."""
        return [self.in_force.fields(), self.announcement]


@dataclass(frozen=True, slots=True)
class DisputeRecord:
    """What lies between the settlement that was objected to and the one that closed the contract.

    Attributes:
        settlement: the leaf of the settlement objected to. objected: the dispute's leaf. objection: the `object` transaction.
        rulings: the `rule` transactions that decided, in order of arbiter. answer: the owner's `answer`, or None.
    """

    settlement: Inclusion
    objected: Inclusion
    objection: bytes
    rulings: tuple[bytes, ...]
    answer: bytes | None

    def fields(self) -> list[object]:
        """Wire order."""
        return [
            self.settlement.fields(),
            self.objected.fields(),
            self.objection,
            list(self.rulings),
            self.answer,
        ]


@dataclass(frozen=True, slots=True)
class OrderCertificate:
    """One contract's whole life.

    Attributes:
        signing: the contract's leaf; of a proposal that was called off before it was signed, the proposal's. clearing: that
        of the clearing that matched it. settlement: of the statement that closed it. closing: of its end.
        order, listing: the bid and the listing as their parties signed them. piece: of a divisible bid, which of its
        contracts this is, else None. signatures: `sign` transactions, where explicit signing was asked for. tariff: how
        the tariff of the clearing came into force, None for that of genesis. key_changes: the `rotate-key` and
        `restore-key` transactions by which the keys of what follows came to be their parties', in order. proofs: of the
        pile from the one that began the session to the last of it. confirmations: the parties' signatures under the
        digest of the (first) settlement. cancellation: the `cancel-contract` transaction, or None. dispute: None for a
        contract that nobody disputed. handovers: the messages that lead from the accounting nodes of genesis to those of
        the closing, in order of height. rings: the leaves of the bins whose notes paid, each once, in the order in which the
        bid names them; none for an order that a named party paid for.
    """

    chain_id: str
    signing: Inclusion
    clearing: Inclusion
    settlement: Inclusion
    closing: Inclusion
    order: bytes
    piece: int | None
    listing: bytes
    signatures: tuple[bytes, ...]
    tariff: TariffChange | None
    key_changes: tuple[bytes, ...]
    proofs: tuple[bytes, ...]
    confirmations: tuple[bytes, ...]
    cancellation: bytes | None
    dispute: DisputeRecord | None
    handovers: tuple[bytes, ...] = ()
    rings: tuple[Inclusion, ...] = ()

    def encoded(self) -> bytes:
        """Deterministic CBOR."""
        return encode(
            [
                VERSION,
                self.chain_id,
                self.signing.fields(),
                self.clearing.fields(),
                self.settlement.fields(),
                self.closing.fields(),
                self.order,
                self.piece,
                self.listing,
                list(self.signatures),
                self.tariff.fields() if self.tariff else None,
                list(self.key_changes),
                list(self.proofs),
                list(self.confirmations),
                self.cancellation,
                self.dispute.fields() if self.dispute else None,
                list(self.handovers),
                [ring.fields() for ring in self.rings],
            ]
        )


def decode_order_certificate(data: bytes) -> OrderCertificate:
    """A certificate from its bytes, of this version or the one before; typed errors for anything else.

    Nothing in it is checked yet. `encoded` gives the present version.
    """
    row = _row(data)
    return OrderCertificate(
        chain_id=check_id("chain_id", row[1]),
        signing=inclusion_from(row[2]),
        clearing=inclusion_from(row[3]),
        settlement=inclusion_from(row[4]),
        closing=inclusion_from(row[5]),
        order=_tx("order", row[6]),
        piece=None if row[7] is None else check_int("piece", row[7], 0, MAX_PIECES - 1),
        listing=_tx("listing", row[8]),
        signatures=_txs("signature", row[9], 2),
        tariff=None if row[10] is None else _tariff(row[10]),
        key_changes=_txs("key change", row[11], MAX_KEY_CHANGES),
        proofs=tuple(check_bytes("proof", proof, 1, MAX_PROOF_BYTES) for proof in items(row[12], MAX_PROOFS)),
        confirmations=_txs("confirmation", row[13], 2),
        cancellation=None if row[14] is None else _tx("cancellation", row[14]),
        dispute=None if row[15] is None else _dispute(row[15]),
        handovers=tuple(check_bytes("handover", h, 1, MAX_HANDOVER_BYTES) for h in items(row[16], MAX_HANDOVERS)),
        rings=tuple(inclusion_from(ring) for ring in items(row[17], MAX_SPENT_NOTES)),
    )


def _row(data: bytes) -> list[object]:
    """As of the present version."""
    row = items(decode(data, MAX_CERTIFICATE_BYTES), _ITEMS)
    version = row[0] if row else None
    if type(version) is int and version == WITHOUT_RINGS and len(row) == _ITEMS - 1:  # true would equal 1
        return [VERSION, *row[1:], []]
    if type(version) is not int or version != VERSION or len(row) != _ITEMS:
        raise CodecError(f"not a version {WITHOUT_RINGS} or {VERSION} order certificate")
    return row


def _tariff(value: object) -> TariffChange:
    in_force, announcement = array(value, 2)
    return TariffChange(inclusion_from(in_force), _tx("announcement", announcement))


def _dispute(value: object) -> DisputeRecord:
    settlement, objected, objection, rulings, answer = array(value, 5)
    return DisputeRecord(
        inclusion_from(settlement),
        inclusion_from(objected),
        _tx("objection", objection),
        _txs("ruling", rulings, MAX_ARBITERS),
        None if answer is None else _tx("answer", answer),
    )


def _tx(name: str, value: object) -> bytes:
    return check_bytes(name, value, 1, MAX_TX_BYTES)


def _txs(name: str, value: object, most: int) -> tuple[bytes, ...]:
    return tuple(_tx(name, item) for item in items(value, most))
