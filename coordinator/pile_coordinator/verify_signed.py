"""Who signed what in an order certificate: accounting nodes their blocks, parties their transactions.

Everything starts from the pinned genesis: its validators, the keys of its parties, and for user and owner the keys in the
contract's terms. A party may have had another key since; the transactions that gave it to them are carried and checked.
"""

from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from pile_coordinator.chain import notes
from pile_coordinator.chain.genesis import Genesis
from pile_coordinator.chain.records import EV_OWNER, GRID, OPERATOR, PILE_OWNER
from pile_coordinator.chain.transactions import Body, RestoreKey, RotateKey, Transaction, decode_transaction
from pile_coordinator.ring import signature as ring
from pile_shared import cose
from pile_shared.certificate import (
    MAX_HANDOVER_BYTES,
    MAX_LEAF_BYTES,
    Header,
    Inclusion,
    Validator,
    decode_handover,
    validators_from,
    validators_hash,
)
from pile_shared.codec import array, decode
from pile_shared.errors import CertificateError, PilechainError
from pile_shared.platform import sha256
from pile_shared.terms import Terms

LINKS = ("format", "signature", "inclusion", "chain", "price", "posting")

B = TypeVar("B", bound=Body)


class VerifyError(PilechainError):
    """A certificate that does not hold; `link` (one of LINKS) is where it breaks."""

    code = "verify"

    def __init__(self, link: str, message: str) -> None:
        assert link in LINKS, link
        super().__init__(f"{link}: {message}")
        self.link = link


@dataclass(frozen=True, slots=True)
class SpentNote:
    """A note that paid, as everybody sees it: one of the 16 of its bin.

    Attributes:
        bin: 9 bytes, `notes.bin_id`. image: its key image there, 32 bytes. ring: the bin's keys, 512 bytes. value_micro:
        what it was worth.
    """

    bin: bytes
    image: bytes
    ring: bytes
    value_micro: int


@contextmanager
def breaking(link: str) -> Iterator[None]:
    """Whatever typed error rises inside is this link's: a quorum may have signed bytes that are no leaf at all."""
    try:
        yield
    except VerifyError:
        raise
    except PilechainError as error:
        raise VerifyError(link, str(error)) from error


class Notary:
    """Checks signatures under one genesis."""

    def __init__(self, genesis: Genesis) -> None:
        """Pin a genesis."""
        self.genesis = genesis
        self.chain_id = genesis.chain_id
        self._sets = [list(genesis.validators)]
        self._last_heights: list[int] = []  # of all sets but the newest
        self._roles = {party: role for party, role, _ in genesis.parties}
        self._founders = {party: [public] for party, _, public in genesis.parties}
        self._parties: dict[str, list[bytes]] = {}
        self._nobodies: dict[str, SpentNote] = {}

    # --- blocks ---

    def follow(self, handovers: tuple[bytes, ...]) -> None:
        """Learn the sets of accounting nodes after that of genesis, each certified by the one before; VerifyError otherwise.

        Each is believed for blocks from its own first to its own last one. Whoever has the keys of two thirds of a set that is
        long gone can make blocks of its time: who must exclude that compares the header with one that the chain keeps.
        """
        if handovers and self.genesis.stake is None:
            raise VerifyError("signature", "the accounting nodes of this genesis never change")
        for message in handovers:
            with breaking("signature"):
                certificate, following = decode_handover(message)
                header = certificate.verify(self.chain_id, self._sets[-1])
                validators = validators_from(decode(following, MAX_HANDOVER_BYTES))
            if header.next_validators_hash != sha256(following):
                raise VerifyError("signature", f"block {header.height} hands over to other accounting nodes")
            if self._last_heights and header.height <= self._last_heights[-1]:
                raise VerifyError("signature", "handovers are not in order of height")
            self._sets.append(validators)
            self._last_heights.append(header.height)

    def _validators_of(self, inclusion: Inclusion) -> list[Validator]:
        with breaking("signature"):
            height = inclusion.certificate.header.height
        return self._sets[bisect_left(self._last_heights, height)]

    def open(self, inclusion: Inclusion, kinds: tuple[int, ...], length: int) -> tuple[Header, list[object]]:
        """The header, and the leaf of one of these kinds and of `length` items, once quorum and path hold."""
        validators = self._validators_of(inclusion)
        try:
            header = inclusion.verify(self.chain_id, validators)
        except CertificateError as error:
            raise VerifyError("inclusion" if error.code == "inclusion" else "signature", str(error)) from error
        except PilechainError as error:
            raise VerifyError("signature", str(error)) from error
        if self.genesis.stake is None and header.next_validators_hash != validators_hash(validators):
            raise VerifyError("signature", "the validator set changed; pin the set of that height")
        with breaking("chain"):
            row = array(decode(inclusion.leaf, MAX_LEAF_BYTES), length)
        if type(row[0]) is not int or row[0] not in kinds:
            raise VerifyError("chain", f"a leaf of block {header.height} is of another kind")
        return header, row

    # --- keys ---

    def trust(self, terms: Terms, key_changes: tuple[bytes, ...], lead: SpentNote | None = None) -> None:
        """Take user and owner by the keys in the terms, then follow the changes of keys, in order.

        With the note that leads, the user is nobody: that note signs what the user sends, and no key does.
        """
        sides = [(terms.owner, PILE_OWNER, terms.owner_public)]
        if lead is None:
            sides.append((terms.user, EV_OWNER, terms.user_public))
        else:
            self._nobodies[terms.user] = lead
        for party, role, public in sides:
            if self._roles.get(party, role) != role:
                raise VerifyError("chain", f"{party} is no {role}")
            self._parties[party] = [public]
        words: dict[str, tuple[bytes, str]] = {}
        for data in key_changes:
            tx = self._decoded(data, "a change of keys")
            if isinstance(tx.body, RotateKey):
                self._rotate(tx, tx.body)
            elif isinstance(tx.body, RestoreKey):
                self._restore(tx, tx.body, words)
            else:
                raise VerifyError("chain", f"a {tx.body.TYPE} changes no key")

    def _rotate(self, tx: Transaction, body: RotateKey) -> None:
        for known in (self._parties, self._founders):
            if tx.signed and any(cose.key_id(public) == tx.signed.kid for public in known.get(tx.sender, ())):
                self._check_signed(tx, known[tx.sender])
                known[tx.sender].append(body.public)
                return
        raise VerifyError("signature", f"a new key of {tx.sender}, not signed by the key before it")

    def _restore(self, tx: Transaction, body: RestoreKey, words: dict[str, tuple[bytes, str]]) -> None:
        """A grid and an operator party say the same: then the key is the party's."""
        role = self._roles.get(tx.sender, "")
        if role not in {GRID, OPERATOR}:
            raise VerifyError("signature", f"{tx.sender} restores a key and is no grid or operator party of genesis")
        self._check_signed(tx, self.founder(tx.sender))
        public, other = words.get(body.party, (b"", ""))
        if public != body.public or other == role:
            words[body.party] = body.public, role
            return
        for known in (self._parties, self._founders):
            if body.party in known:
                known[body.party].append(body.public)

    def founder(self, party: str) -> list[bytes]:
        """The keys of a party that genesis names; empty for others."""
        return self._founders.get(party, [])

    def role(self, party: str) -> str | None:
        """What genesis says a party is, or None."""
        return self._roles.get(party)

    # --- transactions ---

    def by_party(self, data: bytes, kind: type[B], sender: str, not_before: int) -> B:
        """What user or owner sent; see `by_key` and `by_notes`."""
        if sender in self._nobodies:
            return self.by_notes(data, kind, sender, (self._nobodies[sender],), not_before)
        return self.by_key(data, kind, sender, self._parties[sender], not_before)

    def by_key(self, data: bytes, kind: type[B], sender: str, publics: list[bytes], not_before: int) -> B:
        """The body of a transaction of this kind, sent by `sender` and signed by one of the keys.

        It was accepted in block `not_before` at the earliest, so it must have been valid until then.
        """
        tx = self._decoded(data, f"what {sender} signed")
        self._check_signed(tx, publics)
        return self._meant(tx, kind, sender, not_before)

    def by_notes(self, data: bytes, kind: type[B], sender: str, spent: tuple[SpentNote, ...], not_before: int) -> B:
        """As `by_key`, of a transaction that has a ring signature of each of these notes, in order, and no other."""
        tx = self._decoded(data, f"what {sender} signed")
        if len(tx.rings) != len(spent):
            raise VerifyError("signature", f"a {tx.body.TYPE} not signed by the notes that paid for {sender}")
        for note, signature in zip(spent, tx.rings, strict=True):
            if not ring.verify(note.ring, notes.context(self.chain_id, note.bin), note.image, tx.message, signature):
                raise VerifyError("signature", f"a {tx.body.TYPE} not signed by the note of image {note.image.hex()}")
        return self._meant(tx, kind, sender, not_before)

    def _meant(self, tx: Transaction, kind: type[B], sender: str, not_before: int) -> B:
        """The body, if it is of this chain, kind and sender, and had not expired."""
        if tx.chain_id != self.chain_id or tx.sender != sender or type(tx.body) is not kind:
            raise VerifyError("chain", f"this is no {kind.TYPE} of {sender} on {self.chain_id}")
        if tx.valid_until_height < not_before:
            raise VerifyError("chain", f"the {kind.TYPE} of {sender} expired before block {not_before}")
        return tx.body

    def body(self, data: bytes) -> Body:
        """What a transaction says; its signature is not checked."""
        return self._decoded(data, "a transaction").body

    def sender(self, data: bytes) -> str:
        """Who a transaction says it is from; its signature is not checked."""
        return self._decoded(data, "a transaction").sender

    def _decoded(self, data: bytes, what: str) -> Transaction:
        try:
            return decode_transaction(data)
        except PilechainError as error:
            raise VerifyError("signature", f"{what}: {error}") from error

    def _check_signed(self, tx: Transaction, publics: list[bytes]) -> None:
        for public in publics:
            if tx.signed and cose.key_id(public) == tx.signed.kid:
                with breaking("signature"):
                    tx.signed.verify(public, cose.purpose(cose.TRANSACTION, self.chain_id))
                return
        raise VerifyError("signature", f"a {tx.body.TYPE} not signed by a key of {tx.sender}")
