"""What waits in CometBFT's mempool, as far as we must know it: cheap checks first, and nothing that is there already.

CometBFT keeps the transactions; this remembers only which sequences and proofs are among them. It asks again for each that
is left after a block (recheck), so everything here is forgotten at Commit and built up anew.
"""

from pile_coordinator.chain.env import Env
from pile_coordinator.chain.proofs import parse_proof
from pile_coordinator.chain.records import Candidate, Party, Pile, PileKey
from pile_coordinator.chain.rejections import Rejection
from pile_coordinator.chain.state import State
from pile_coordinator.chain.transactions import DoubleAttestation, Spend, SubmitProofs, Transaction, decode_transaction
from pile_coordinator.chain.transition import check_tx
from pile_coordinator.engines.comet.bundle import pack, unpack
from pile_coordinator.engines.rings import MAX_BLOCK_RINGS, CachingRings, images_of, ring_claims
from pile_shared.errors import PilechainError
from pile_shared.proof import proof_hash

# Of one party, beyond its sequence: gossip may bring a later one first, and a coordinator sends a few batches a second.
# Bounds what one party can fill of a mempool of 5,000.
MAX_AHEAD = 64


# Why a transaction in a bundle is refused that an honest coordinator packed: time has passed, or another brought it.
# Of an anonymous order: its notes were spent by another meanwhile, or the bin is gone with the last of them.
_LATE = frozenset({"replayed", "waits", "expired", "spent", "unknown_note"})
# Ring signatures of transactions that come by gossip and are checked here, between two blocks: half a second of this node,
# which can do nothing else meanwhile. Those that its own coordinator took were checked elsewhere.
MAX_GOSSIPED_RINGS = 128
# Four blocks of them: each that waits is looked at again after each block, though no more at its signatures.
MAX_WAITING_RINGS = 4 * MAX_BLOCK_RINGS
# What a transaction takes in a block besides its bytes, at most: 3 for its length in a bundle; 3 for a bundle's, and 4 for the
# frame around it, if it begins one.
_PACKED_BYTES = 10


class WaitsError(PilechainError):
    """It, or another one in its place, waits in the mempool already: nothing is lost if this one is refused."""

    code = "waits"


class CrowdedError(WaitsError):
    """More came between two blocks than can be checked. Who sent it proposes it to the others in a block, or sends it again."""

    code = "crowded"


class Pool:
    """Sequences, notes and proofs that wait. Used by who holds the ledger's lock."""

    def __init__(self, rings: CachingRings | None = None) -> None:
        """`rings` checks ring signatures, and says which of them are new."""
        self._rings = rings or CachingRings()
        self._rings_left = MAX_GOSSIPED_RINGS
        self._images: dict[bytes, bytes] = {}  # key image -> id of what spends this note
        self._ringed: dict[bytes, int] = {}  # id -> ring signatures of it
        self._sequences: dict[str, dict[int, bytes]] = {}  # by party: the transaction that waits with a sequence
        self._waited = self._sequences  # the same, before the last block
        self._proofs: dict[tuple[str, int], Transaction] = {}  # (pile, sequence) -> what brings it
        self._entered: set[bytes] = set()  # ids of what CometBFT has, not only we

    def clear(self) -> None:
        """A block was committed: CometBFT will ask again for what is left."""
        self._waited = self._sequences
        self._sequences = {}
        self._images.clear()
        self._ringed.clear()
        self._rings_left = MAX_GOSSIPED_RINGS
        self._proofs.clear()
        self._entered.clear()

    def next_sequence(self, party: str, committed: int) -> int:
        """The first sequence after `committed` that none of a party's waiting transactions has."""
        waiting = self._sequences.get(party, {})
        due = committed + 1
        while due in waiting:
            due += 1
        return due

    def holds(self, tx: Transaction) -> bool:
        """Whether this very transaction waits."""
        return self._sequences.get(tx.sender, {}).get(tx.sequence) == tx.id

    def enter(self, state: State, env: Env, entry: bytes, *, again: bool = False) -> None:
        """Take one of CometBFT's transactions into the mempool: a transaction of ours, or a bundle of several.

        A bundle in which some came too late is good for the others; one that brings nothing new is refused, as it could be
        packed in any number of ways. What no honest coordinator packs, a forged signature for one, spoils all of it; but
        once it waits, what became impossible for one sender costs the others nothing.

        Args:
            state: after the last committed block.
            env: of the block to come.
            entry: what CometBFT asks about.
            again: it waits since before the last block.

        Raises:
            Rejection: it cannot succeed. WaitsError: what it says waits already.
        """
        txs = unpack(entry)
        is_bundle = len(txs) > 1
        taken, refusal = [], None
        for data in txs:
            try:
                taken.append(self.check(state, env, data, again=again))
            except (Rejection, WaitsError) as error:
                if not is_bundle or not (again or _came_late(error, data)):
                    raise
                refusal = error
        if is_bundle and all(tx.id in self._entered for tx in taken):
            raise refusal or WaitsError("everything in it waits already")
        for tx in taken:
            self._entered.add(tx.id)
            self.add(state, tx)

    def check(self, state: State, env: Env, data: bytes, *, again: bool = False) -> Transaction:
        """The transaction, if it may wait: what costs least is looked at first, its signature last.

        Args:
            state: after the last committed block.
            env: of the block to come.
            data: the transaction.
            again: it waits since before the last block. It may stay though what it says is known by now: others of its
                sender are numbered after it. It was well signed; if its sender's key is another one since, no proposal
                takes it, and it goes when it expires. It may not stay if one that comes before it was not here by the
                last block: CometBFT offers a proposer the oldest of what waits, as much as one block takes, so what can
                be in none would keep the others out; and where no block of ours is made, nothing ever expires.

        Raises:
            Rejection: it cannot succeed. WaitsError: what it says waits already.
        """
        tx = decode_transaction(data)
        sender = state.find(Party, tx.sender)
        if sender is not None:
            if tx.sequence <= sender.sequence:
                raise Rejection("replayed", f"{sender.id} is at sequence {sender.sequence}")
            if tx.sequence > sender.sequence + MAX_AHEAD:
                raise Rejection("sequence_gap", f"{sender.id} is at sequence {sender.sequence}")
        if self._sequences.get(tx.sender, {}).get(tx.sequence, tx.id) != tx.id:
            raise WaitsError(f"another transaction of {tx.sender} waits with sequence {tx.sequence}")
        if again and sender is not None:
            if tx.valid_until_height < env.height:
                raise Rejection("expired", f"was valid until block {tx.valid_until_height}, this is {env.height}")
            if not self._waited.get(sender.id, {}).keys() >= set(range(sender.sequence + 1, tx.sequence)):
                raise Rejection(
                    "sequence_gap", f"{sender.id} is at sequence {sender.sequence}, and not all between waits"
                )
            return tx
        if isinstance(tx.body, SubmitProofs) and not self._new_proofs(state, tx.id, tx.body):
            raise WaitsError("every proof in it is known, or waits already")
        if isinstance(tx.body, DoubleAttestation) and _is_punished(state, tx.body.candidate):
            raise Rejection("phase", f"{tx.body.candidate} was punished for this already")
        self._check_rings(state, env, tx, again=again)
        return tx if again and tx.signed is None else check_tx(state, env, data)

    def _check_rings(self, state: State, env: Env, tx: Transaction, *, again: bool) -> None:
        """Whether its ring signatures may be checked: nothing cheaper refuses it, and not too many were or wait already.

        Raises:
            Rejection: it cannot succeed. WaitsError: another one that waits spends a note of it. CrowdedError: too many.
        """
        claims = ring_claims(state, env, tx)
        if any(self._images.get(image, tx.id) != tx.id for image in images_of(tx)):
            raise WaitsError("another transaction that spends this note waits")
        if again or not claims:
            return
        if tx.id not in self._ringed and sum(self._ringed.values()) + len(claims) > MAX_WAITING_RINGS:
            raise CrowdedError("too many anonymous transactions wait already")
        new = sum(not self._rings.knows(claim) for claim in claims)
        if new > self._rings_left:
            raise CrowdedError("too many anonymous transactions came since the last block")
        self._rings_left -= new

    def _new_proofs(self, state: State, tx_id: bytes, body: SubmitProofs) -> list[tuple[str, int]]:
        """Which proofs of a batch nobody else has brought, by pile and sequence; malformed ones are none."""
        new = []
        for message in body.proofs:
            try:
                signed, proof = parse_proof(message)
            except PilechainError:
                continue
            key = state.find(PileKey, signed.kid)
            if key is None:
                continue
            pile, place = state.get(Pile, key.pile), (key.pile, proof.sequence)
            is_fork = proof.sequence == pile.last_sequence and proof_hash(message) != pile.last_hash
            if (is_fork or proof.sequence > pile.last_sequence) and not self._is_brought(state, place, tx_id):
                new.append(place)
        return new

    def _is_brought(self, state: State, place: tuple[str, int], tx_id: bytes) -> bool:
        """Whether another transaction brings this proof, and waits for none that is not here."""
        holder = self._proofs.get(place)
        if holder is None or holder.id == tx_id:
            return False
        committed = state.get(Party, holder.sender).sequence
        return committed < holder.sequence < self.next_sequence(holder.sender, committed)

    def add(self, state: State, tx: Transaction) -> None:
        """Note that a transaction waits."""
        self._sequences.setdefault(tx.sender, {})[tx.sequence] = tx.id
        self._images.update(dict.fromkeys(images_of(tx), tx.id))
        if tx.rings:
            self._ringed[tx.id] = len(tx.rings)
        if isinstance(tx.body, SubmitProofs):
            for place in self._new_proofs(state, tx.id, tx.body):
                self._proofs[place] = tx


def _came_late(refusal: Rejection | WaitsError, data: bytes) -> bool:
    """Whether a transaction may have been good when it was packed. An anonymous order's party is one no more when it ended."""
    if refusal.code == "unknown_sender":
        tx = decode_transaction(data)
        return tx.signed is None and not isinstance(tx.body, Spend)
    return refusal.code in _LATE


def _is_punished(state: State, party: str) -> bool:
    """Whether a node was punished already: every coordinator that saw it attest twice says so, and one is enough."""
    candidate = state.find(Candidate, party)
    return candidate is not None and candidate.tombstoned


class Turns:
    """What a correct proposer sends: well signed transactions, each in turn for its sender, by the committed state alone.

    Whether they succeed is for the block to say, which every node applies alike; who proposes and who checks a proposal ask
    the same of the same state, so they cannot disagree.
    """

    def __init__(self, state: State, env: Env) -> None:
        """Begin a block after `state`."""
        self._state = state
        self._env = env
        self._next: dict[str, int] = {}
        self._images: set[bytes] = set()
        self._rings_left = MAX_BLOCK_RINGS

    def take(self, txs: list[bytes]) -> bool:
        """Whether these may come next in the block, one after the other; if so, their senders' turns have passed.

        A note is spent once in a block, and a block has MAX_BLOCK_RINGS ring signatures at most: so who proposes cannot make
        the others check more of them than they have time for, with a few notes of his own.
        """
        after: dict[str, int] = {}
        images: set[bytes] = set()
        rings = 0
        for data in txs:
            try:
                tx = decode_transaction(data)
                spent, rings = images_of(tx), rings + len(tx.rings)
                if rings > self._rings_left or not (images | self._images).isdisjoint(spent):
                    return False
                ring_claims(self._state, self._env, tx)  # whose bins may be too young for this block
                check_tx(self._state, self._env, data)
            except Rejection:
                return False
            due = after.get(tx.sender) or self._next.get(tx.sender) or self._sequence(tx.sender) + 1
            if tx.sequence != due:
                return False
            after[tx.sender] = due + 1
            images.update(spent)
        self._next |= after
        self._images |= images
        self._rings_left -= rings
        return True

    def _sequence(self, sender: str) -> int:
        """Of its last transaction; 0 for who comes to be by the first, paying with notes."""
        party = self._state.find(Party, sender)
        return party.sequence if party else 0


def propose(state: State, env: Env, waiting: list[bytes], max_bytes: int) -> list[bytes]:
    """The entries of a proposal, in the order in which they came unless their senders numbered them otherwise.

    Args:
        state: after the last committed block.
        env: of the block to come.
        waiting: CometBFT's mempool, in its order.
        max_bytes: how much they may take in a block, each with CometBFT's frame around it.
    """
    proposal = _Proposal(Turns(state, env), max_bytes)
    left = [txs for entry in waiting if not proposal.add(entry, txs := unpack(entry))]
    proposal.add_some([tx for txs in left for tx in txs])
    return proposal.entries


class _Proposal:
    """A block that is being filled."""

    def __init__(self, turns: Turns, max_bytes: int) -> None:
        self._turns = turns
        self._left = max_bytes
        self.entries: list[bytes] = []

    def add(self, entry: bytes, txs: list[bytes]) -> bool:
        """Add an entry whole, if there is room and everything in it is in turn."""
        size = framed_bytes(entry)
        if size > self._left or not self._turns.take(txs):
            return False
        self.entries.append(entry)
        self._left -= size
        return True

    def add_some(self, txs: list[bytes]) -> None:
        """Of what is in no entry that could be added whole, add what is in turn, packed anew.

        Each is looked at twice at most, whatever order they are in: a proposer has little time, and who packed them may want
        it to be too little.
        """
        waiting: dict[tuple[str, int], list[bytes]] = {}
        for tx in txs:
            waiting.setdefault(_place(tx), []).append(tx)
        chosen: list[bytes] = []
        for tx in txs:
            candidates = [tx]
            while (taken := next(filter(self._has_taken, candidates), None)) is not None:
                chosen.append(taken)
                sender, sequence = _place(taken)
                candidates = waiting.pop((sender, sequence + 1), [])
        self.entries += pack(chosen)

    def _has_taken(self, tx: bytes) -> bool:
        """Whether there was room for one that will be packed, and its turn."""
        size = len(tx) + _PACKED_BYTES
        if size > self._left or not self._turns.take([tx]):
            return False
        self._left -= size
        return True


def _place(data: bytes) -> tuple[str, int]:
    """Whose turn a transaction is, by sender and sequence; ("", 0), which nobody has, if it is none."""
    try:
        tx = decode_transaction(data)
    except Rejection:
        return "", 0
    return tx.sender, tx.sequence


def framed_bytes(data: bytes) -> int:
    """What a transaction takes in CometBFT's block (types/tx.go, ComputeProtoSizeForTxs): a tag and its length before it."""
    length, head = len(data), 2
    while length >= 0x80:
        length >>= 7
        head += 1
    return len(data) + head
