"""Blocks from before a snapshot, as one node asks another for them, and what of an answer is believed.

A node that began with a snapshot trusts the header of it and nothing else. From there every block names the hash of the one
before, so blocks are fetched downwards, and each is checked before it is written:

    header          has the hash that the block above it names
    transactions    have the header's root and count
    leaves          likewise; the first ones are the transactions' results, from which the results are made again
    attestations    are by more than two thirds of the set whose hash the header names

    wanted     [node, height, offset]: that node is asked for its blocks from `height` downwards, the first from `offset` on
    history    [height, offset, size, parts, sets]: the first part is of the block of `height`, which has `size` bytes in all;
               where it ends with that block, the others are whole blocks, each one below the last. No parts: it is not here

One answer belongs to one question and is bounded, so whoever asks sets the pace.
"""

from collections.abc import Callable
from typing import cast

from pile_coordinator.chain.transition import result_of
from pile_coordinator.engines.engine import Block
from pile_coordinator.engines.store import MAX_STORED_BYTES
from pile_shared import merkle
from pile_shared.certificate import (
    MAX_HANDOVER_BYTES,
    MAX_HEADER_BYTES,
    MAX_POWER,
    Certificate,
    Header,
    decode_header,
    validators_from,
)
from pile_shared.codec import array, decode, encode, items
from pile_shared.errors import PilechainError
from pile_shared.platform import sha256
from pile_shared.units import check_bytes, check_id, check_int

WANTED, HISTORY = "wanted", "history"
ROOM_BYTES = 1 << 17  # of an answer: some 150 idle blocks; a broker that carries certificates carries this
MAX_PARTS = 256  # in one answer: that many signatures are checked three times over, a tenth of a second
MAX_BLOCK_BYTES = 1 << 27  # 2 MiB of transactions, and at most a contract leaf for each open contract: 300,000 of them
_MAX_SETS = MAX_PARTS
_ANSWER_BYTES = ROOM_BYTES + 16 * MAX_PARTS + MAX_HANDOVER_BYTES
_MAX_ATTESTATIONS_BYTES = 16_384  # of 100 validators
_MAX_ROWS = 1 << 24

Row = tuple[bytes, bytes, bytes, bytes]
"""A block as it is stored: header, and the encodings of attestations, transactions and leaves."""


class HistoryError(PilechainError):
    """An answer that is not the block that was asked for."""

    code = "history"


# --- asking and answering --------------------------------------------------------------------------------------------------


def encode_wanted(node: str, height: int, offset: int) -> bytes:
    """The question to `node` for its blocks from `height` downwards, the first of them from byte `offset` on."""
    return encode([node, height, offset])


def decode_wanted(data: bytes) -> tuple[str, int, int]:
    """(node, height, offset); typed errors for anything else."""
    node, height, offset = array(decode(data, 64), 3)
    return check_id("node", node), check_int("height", height, 1, MAX_POWER), _check_offset(offset)


def _check_offset(value: object) -> int:
    return check_int("offset", value, 0, MAX_BLOCK_BYTES)


class Shelf:
    """Answers for blocks that are here. Used by who holds the ledger's lock."""

    def __init__(self, row: Callable[[int], Row | None], set_of: Callable[[Header], bytes | None]) -> None:
        """Take blocks from `row`, by height, and the encodings of their validator sets from `set_of`; None: not here."""
        self._row = row
        self._set_of = set_of
        self._last: tuple[int, bytes, bytes] | None = None  # a large block is asked for in many parts

    def answer(self, height: int, offset: int) -> bytes:
        """What is here from byte `offset` of block `height` on and below it, as much as an answer has room for."""
        found = self._block(height)
        if found is None or offset >= len(found[0]):
            return encode([height, offset, 0, [], []])
        whole, validators = found
        parts, sets = [whole[offset : offset + ROOM_BYTES]], [validators]
        room = ROOM_BYTES - len(parts[0])
        below = height - 1
        while room > 0 and len(parts) < MAX_PARTS and (found := self._block(below)) is not None:
            following, validators = found
            room -= len(following) + (0 if validators in sets else len(validators))
            if room >= 0:
                parts.append(following)
                sets += [] if validators in sets else [validators]
            below -= 1
        return encode([height, offset, len(whole), parts, sets])

    def _block(self, height: int) -> tuple[bytes, bytes] | None:
        """A block's bytes and its set, if both are here."""
        if self._last is None or self._last[0] != height:
            row = self._row(height)
            validators = None if row is None else self._set_of(decode_header(row[0]))
            if row is None or validators is None:
                return None
            self._last = height, encode(list(row)), validators
        return self._last[1:]


# --- believing -------------------------------------------------------------------------------------------------------------


class Fetched:
    """Blocks that one node sends, downwards from one whose hash is known.

    Attributes:
        height: of the block asked for. offset: how much of it is here.
        blocks: once that is all of it, this one and those below it that came with it, each with the encoding of its set.
    """

    def __init__(self, chain_id: str, height: int, digest: bytes) -> None:
        """Expect the block of `height` whose header has the hash `digest`."""
        self.height = height
        self.blocks: list[tuple[Block, bytes]] = []
        self._chain_id = chain_id
        self._digest = digest
        self._parts: list[bytes] = []
        self._size = 0

    @property
    def offset(self) -> int:
        """How many bytes of the block are here, which is what is to be asked for next."""
        return sum(map(len, self._parts))

    def is_passed(self, answer: bytes) -> bool:
        """Whether it answers an earlier question, as far as can be told."""
        try:
            row = array(decode(answer, _ANSWER_BYTES), 5)
        except PilechainError:
            return False
        return (row[0], row[1]) != (self.height, self.offset)

    def take(self, answer: bytes) -> bool:
        """Take what the node said; False if it has no such block.

        Raises:
            PilechainError: it is not what was asked for, or not the chain's: nothing of it is kept.
        """
        height, offset, size, parts, sets = array(decode(answer, _ANSWER_BYTES), 5)
        if (height, offset) != (self.height, self.offset):
            raise HistoryError("an answer to another question")
        parts = [check_bytes("part", part, 1, ROOM_BYTES) for part in items(parts, MAX_PARTS)]
        if not parts:
            return False
        first, rest = parts[0], parts[1:]
        have = self.offset + len(first)
        if check_int("size", size, 1, MAX_BLOCK_BYTES) < have or (self._size and size != self._size):
            raise HistoryError("a block of another size")
        self._size = size
        self._parts.append(first)
        if have < size:
            if rest:
                raise HistoryError("a block before the end of another")
            return True
        known = {sha256(one): one for one in _sets(sets)}
        self._read([b"".join(self._parts), *rest], known)
        return True

    def _read(self, wholes: list[bytes], sets: dict[bytes, bytes]) -> None:
        height, digest, found = self.height, self._digest, []
        for whole in wholes:
            block = read_block(whole, self._chain_id, height, digest, sets)
            found.append((block, sets[block.header.validators_hash]))
            height, digest = height - 1, block.header.previous
        self.blocks = found


def _sets(value: object) -> list[bytes]:
    return [check_bytes("validators", one, 1, MAX_HANDOVER_BYTES) for one in items(value, _MAX_SETS)]


def read_block(whole: bytes, chain_id: str, height: int, digest: bytes, sets: dict[bytes, bytes]) -> Block:
    """A block of whose header nothing but the hash is known.

    Args:
        whole: [header, and the encodings of attestations, transactions and leaves].
        chain_id: the chain's.
        height: the block's.
        digest: SHA-256 of its header.
        sets: encodings of validator sets by their hash, none trusted.

    Raises:
        PilechainError: it is another block, or not all of it, or not attested.
    """
    header_bytes, attested, transactions, leaved = array(decode(whole, MAX_BLOCK_BYTES), 4)
    check_bytes("header", header_bytes, 1, MAX_HEADER_BYTES)
    if sha256(header_bytes) != digest:
        raise HistoryError(f"not the block {height} that the one above it names")
    certificate = Certificate(header_bytes, cast("list[list[object]]", _rows(attested, _MAX_ATTESTATIONS_BYTES)))
    header = certificate.header
    txs, leaves = _strings(transactions), _strings(leaved)
    if (header.height, header.tx_count, header.tx_root) != (height, len(txs), merkle.root(txs)):
        raise HistoryError(f"block {height} has other transactions")
    if (header.result_count, header.result_root) != (len(leaves), merkle.root(leaves)) or len(leaves) < len(txs):
        raise HistoryError(f"block {height} has other results and events")
    if header.validators_hash not in sets:
        raise HistoryError(f"the accounting nodes of block {height} were not sent with it")
    encoded = sets[header.validators_hash]
    certificate.verify(chain_id, validators_from(decode(encoded, MAX_HANDOVER_BYTES)))
    results = [result_of(leaf, index) for index, leaf in enumerate(leaves[: len(txs)])]
    return Block(certificate, txs, results, leaves)


def _rows(data: object, most: int) -> list[object]:
    return items(decode(check_bytes("rows", data, 1, most), most), _MAX_ROWS)


def _strings(data: object) -> list[bytes]:
    found = _rows(data, min(MAX_BLOCK_BYTES, MAX_STORED_BYTES))
    return [check_bytes("item", one, 0, MAX_BLOCK_BYTES) for one in found]
