"""Tables of the accounting nodes' keys, beside the journal: with one a board verifies a signature in half the time.

A pile checks the same few keys for years, so each is worth a comb (pile_shared.p256), computed once. A file holds the
table and a CRC-32 over key and table: it shows flash that rots and a table of another key. It is no seal, and need not
be: whoever writes this flash can as well take the pile's own key from it. A file comes by `Storage.replace`, so a power
cut leaves all of it or none; without one, and whenever one fails, the general path verifies, and only takes longer.

Functions, and one folder for the process: a class would take 300 bytes more of a board's heap.
"""

from binascii import hexlify

from pile_shared.certificate import Validator
from pile_shared.cose import key_id
from pile_shared.p256 import KEY_DISTANCE, KEY_ROWS, KEY_TABLE_BYTES, fill_table, use_key_tables
from pile_shared.platform import crc32

# 16 files, each a block of 4 kB on littlefs; of a larger set the rest is verified without.
MAX_TABLES = 16
SUFFIX = ".key-table.v1"  # the 1 is the format version
_PIECE_BYTES = 256

# The storage, and the set of which all tables are made or given up.
_state: list = [None, None]  # type: ignore[type-arg] # of anything


def keep_in(storage) -> None:  # type: ignore[no-untyped-def] # noqa: ANN001 - differs by interpreter
    """Keep the tables in `storage`, the journal's, and let `p256.verify` find them there."""
    _state[:] = [storage, None]
    use_key_tables(find)


def find(public: bytes):  # type: ignore[no-untyped-def] # noqa: ANN201 - a file, which differs by interpreter
    """An open reader of a key's table, or None if it is damaged (and now removed), for `p256.use_key_tables`.

    Raises:
        OSError: there is none, or the file system fails.
    """
    storage, name = _state[0], _name(public)
    crc = crc32(public)
    with storage.open(name) as file:
        for _ in range(KEY_TABLE_BYTES // _PIECE_BYTES):
            crc = crc32(file.read(_PIECE_BYTES), crc)
        is_whole = file.read(5) == crc.to_bytes(4, "big")
    if is_whole:
        return storage.open(name)
    storage.remove(name)
    return None


def keep(validators: list[Validator]) -> None:
    """Do one piece of what there is to do: remove the tables of other sets, and make one that is missing of this one.

    To be called whenever there is time, and heap: it takes 4 kB for as long as some two verifications. Where it fails for
    want of flash or heap, it does not try again before the next start or the next set.
    """
    storage, done = _state
    if validators is done:
        return
    try:
        names = [_name(validator.public) for validator in validators[:MAX_TABLES]]
        there = [name for name in storage.names() if name.endswith(SUFFIX)]
        for name in there:
            if name not in names:
                storage.remove(name)
        for validator, name in zip(validators, names):  # noqa: B905 - MicroPython's knows no `strict`; names are the fewer
            if name not in there:
                table = bytearray(KEY_TABLE_BYTES + 4)
                fill_table(table, validator.public, KEY_ROWS, KEY_DISTANCE)
                table[-4:] = crc32(memoryview(table)[:-4], crc32(validator.public)).to_bytes(4, "big")
                storage.replace(name, table)
                return
    except (OSError, MemoryError):
        pass  # they save time and nothing else
    _state[1] = validators


def _name(public: bytes) -> str:
    return hexlify(key_id(public)).decode() + SUFFIX
