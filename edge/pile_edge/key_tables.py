"""Tables of the accounting nodes' keys, beside the journal: with one a board verifies a signature in half the time.

A pile checks the same few keys for years, so each is worth a comb (pile_shared.p256), computed once. A file holds the
table and a CRC-32 over key and table: it shows flash that rots and a table of another key. It is no seal, and need not
be: whoever writes this flash can as well take the pile's own key from it. A file comes by `Storage.replace`, so a power
cut leaves all of it or none; without one, and whenever one fails, the general path verifies, and only takes longer.
"""

from binascii import hexlify

from pile_shared.certificate import Validator
from pile_shared.cose import key_id
from pile_shared.p256 import KEY_TABLE_BYTES, fill_key_table
from pile_shared.platform import crc32

# 16 files, each a block of 4 kB on littlefs. Two thirds of the power of a larger set are checked in part without.
MAX_TABLES = 16
SUFFIX = ".comb"
_PIECE_BYTES = 256


class KeyTables:
    """The tables in one folder."""

    def __init__(self, storage) -> None:  # type: ignore[no-untyped-def] # noqa: ANN001 - differs by interpreter
        """Keep them in `storage`, the journal's."""
        self._storage = storage
        self._done = None

    def find(self, public: bytes):  # type: ignore[no-untyped-def] # noqa: ANN201 - a file, which differs by interpreter
        """An open reader of a key's table, or None if it is damaged (and now removed). For `p256.use_key_tables`.

        Raises:
            OSError: there is none, or the file system fails.
        """
        name = _name(public)
        crc = crc32(public)
        with self._storage.open(name) as file:
            for _ in range(KEY_TABLE_BYTES // _PIECE_BYTES):
                crc = crc32(file.read(_PIECE_BYTES), crc)
            is_whole = file.read(5) == crc.to_bytes(4, "big")
        if is_whole:
            return self._storage.open(name)
        self._storage.remove(name)
        return None

    def prepare(self, validators: list[Validator]) -> None:
        """Do one piece of what there is to do: make a missing table of the set, having removed those of other sets.

        To be called whenever there is time, and heap: it takes that of about two verifications and 2 kB. Where it fails
        for want of flash or heap, it does not try again before the next start or the next set.
        """
        if validators is self._done:
            return
        try:
            if self._make_one([validator.public for validator in validators[:MAX_TABLES]]):
                return
        except (OSError, MemoryError):
            pass  # they save time and nothing else
        self._done = validators

    def _make_one(self, keys: list[bytes]) -> bool:
        """False when all are there."""
        wanted = [_name(public) for public in keys]
        there = [name for name in self._storage.names() if name.endswith(SUFFIX)]
        for name in there:
            if name not in wanted:
                self._storage.remove(name)
        for name, public in zip(wanted, keys):
            if name not in there:
                table = bytearray(KEY_TABLE_BYTES + 4)
                fill_key_table(table, public)
                table[-4:] = crc32(memoryview(table)[:-4], crc32(public)).to_bytes(4, "big")
                self._storage.replace(name, table)
                return True
        return False


def _name(public: bytes) -> str:
    return hexlify(key_id(public)).decode() + SUFFIX
