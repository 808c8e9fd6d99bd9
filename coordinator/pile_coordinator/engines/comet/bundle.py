"""Several transactions in one of CometBFT's, so that its gossip, mempool and our answers are paid for once.

A coordinator hands over together what came to it in the time of one call. A bundle is nothing but an envelope: each
transaction in it is signed, checked, applied, answered and proven as if it had come alone, and a block of ours knows only
transactions. It says nothing and is signed by nobody, so whoever proposes a block may pack anew.
"""

from pile_shared import codec
from pile_shared.errors import CodecError

MAX_BUNDLED = 256
MAX_ENTRY_BYTES = 65_536  # CometBFT's max_tx_bytes in our networks: a transaction of ours has at most 65,000
_HEAD_BYTES = 3  # of an array of up to 65,535, and of each string in it


def pack(txs: list[bytes], max_bytes: int = MAX_ENTRY_BYTES) -> list[bytes]:
    """Entries for CometBFT that hold `txs` in their order, each as many as it may; a single one stands for itself.

    Args:
        txs: transactions.
        max_bytes: of an entry with more than one of them.
    """
    entries, part, size = [], list[bytes](), _HEAD_BYTES
    for tx in txs:
        takes = len(tx) + _HEAD_BYTES
        if part and (size + takes > max_bytes or len(part) == MAX_BUNDLED):
            entries.append(_entry(part))
            part, size = [], _HEAD_BYTES
        part.append(tx)
        size += takes
    return [*entries, _entry(part)] if part else entries


def _entry(txs: list[bytes]) -> bytes:
    return txs[0] if len(txs) == 1 else codec.encode(txs)


def unpack(entry: bytes) -> list[bytes]:
    """The transactions in one of CometBFT's: those of a bundle, or the entry itself if it is none.

    Never raises: what only looks like a bundle is a transaction that nobody can decode, and is refused as that. A
    transaction begins with CBOR's tag 18 or, with ring signatures, is a string and an array in an array; a bundle is an array
    of strings, and one of one is none.
    """
    if not entry or not 0x82 <= entry[0] <= 0x99 or len(entry) > MAX_ENTRY_BYTES:
        return [entry]
    try:
        txs = codec.items(codec.decode(entry, MAX_ENTRY_BYTES), MAX_BUNDLED)
    except CodecError:
        return [entry]
    return txs if len(txs) > 1 and all(type(tx) is bytes for tx in txs) else [entry]
