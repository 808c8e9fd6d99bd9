"""A wallet's notes: one seed in a file, what was done with it in another, and which notes of the chain are its own.

The seed is all there is to back up. Base keys and order keys are made from it by number, so a purse whose other file is lost
finds its notes among all bins (`recognise`), and its open orders among all that are open (`restore`). What is about to be
spent is written before it is sent: after a crash the same bytes can be sent again, and no note is spent for two orders.
"""

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import cast

from pile_coordinator.chain import notes
from pile_coordinator.chain.records import NoteRules
from pile_coordinator.chain.transactions import pseudonym
from pile_coordinator.only_one import OnlyOne
from pile_coordinator.ring.group import POINT_BYTES
from pile_coordinator.ring.keys import SEED_BYTES, base_public, base_secret, note_public, note_secret
from pile_coordinator.ring.signature import RING_SIZE, key_image, sign
from pile_shared.codec import encode
from pile_shared.cose import SoftwareSigner
from pile_shared.errors import ConfigError, PilechainError
from pile_shared.platform import random_bytes, sha256

VERSION = 1
GAP = 64  # base keys looked for beyond the last one known: those of purchases that a crash kept from the file
RESTORE_GAP = (
    4096  # the same where the file is lost: bins of which all is spent are gone, and base keys with them; 0.3 s
)
# Of one transaction's notes: 64 bought, or what came back in as few as there can be; with what a dispute won that may be many
# times 12. Only for notes of one's own are they tried.
MAX_PLACES = 4096
MAX_ORDERS = 2000  # in the file, 2 kB each; of those that are over the oldest are forgotten
LOCK_S = 10.0  # how long a wallet waits for another one that is choosing notes: that takes milliseconds
_ORDER_KEY = "pilechain/1/order-key"

# What is known of an order: sent, and no answer yet; in a block; ended; or refused, so that its notes are free again.
SENT, TAKEN, OVER, VOID = "sent", "taken", "over", "void"


class PurseError(PilechainError):
    """The purse cannot do this; `code` says why."""

    code = "purse"


# --- what the chain shows ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Bin:
    """A bin as everybody sees it. Sixteen notes if sealed_ms is not 0."""

    id: bytes
    sealed_ms: int
    keys: tuple[bytes, ...]
    bases: tuple[bytes, ...]
    sources: tuple[bytes, ...]
    images: frozenset[bytes]

    @property
    def ring(self) -> bytes:
        """Its keys, one after the other."""
        return b"".join(self.keys)

    @property
    def name(self) -> str:
        """For people: denomination and number."""
        return f"{self.id[0]}/{int.from_bytes(self.id[1:], 'big')}"


@dataclass(frozen=True, slots=True)
class Market:
    """All notes of a chain at a moment: the rules, every bin, and who sent the transactions that notes come from.

    open_orders: [pseudonym, bin, image, refund base, order] of each order that notes pay for.
    """

    rules: NoteRules
    time_ms: int
    height: int
    objection_bond_micro: int
    kinds: list[dict[str, int]]
    bins: dict[bytes, Bin]
    senders: dict[bytes, str]
    open_orders: list[list[object]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Note:
    """A note of one's own.

    Attributes:
        base: number of its base key. number: which of the notes of its source. place: in the ring.
    """

    bin: bytes
    place: int
    value_micro: int
    base: int
    source: bytes
    number: int
    image: bytes
    sealed_ms: int
    spent: bool


# --- what a purse remembers ---------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Spending:
    """A transaction that spends notes: an order, or notes turned into money. All bytes in hex.

    Attributes:
        what: the words of the order, to know it again. notes: as in NOTE_ROW. ring: the keys
        of the leading note's bin. refund: number of the base key of what is left. owners: how many the ledger leaves
        possible. raw: the transaction, until its fate is known.
    """

    kind: str  # "bid" or "redeem"
    transaction: str
    raw: str
    until: int
    status: str
    what: list[object]
    notes: list[list[object]]
    ring: str
    refund: int
    owners: int
    placed_ms: int
    contract: str = ""


@dataclass(slots=True)
class _Memory:
    """The state file's content."""

    version: int
    chain_id: str
    next_base: int
    bought_ms: dict[str, int] = field(default_factory=dict)  # by base key number: when it was bought
    spendings: list[Spending] = field(default_factory=list)


class Purse:
    """A party's seed and memory on one chain."""

    def __init__(self, folder: Path, party: str, chain_id: str) -> None:
        """The purse of `party` in a folder: `party.seed` and `party.<chain>.purse`. Nothing is read or made yet."""
        self.chain_id = chain_id
        self.seed_file = folder / f"{party}.seed"
        self._file = folder / f"{party}.{chain_id}.purse"
        self._lock_file = folder / f"{party}.{chain_id}.purse.lock"
        self._seed = b""
        self._publics: list[bytes] = []
        self._memory = _Memory(VERSION, chain_id, 0)
        self.is_new = True  # nothing was remembered: where there are notes, the file is lost
        self._signers: dict[bytes, SoftwareSigner] = {}
        self._made_now = False

    @property
    def exists(self) -> bool:
        """Whether there is a seed."""
        return self.seed_file.exists()

    def open(self) -> "Purse":
        """Read it; a seed is made where there is none, and never written over.

        Raises:
            ConfigError: A file is not what it should be, or others can read the seed.
        """
        if not self.exists:
            _write_new(self.seed_file, random_bytes(SEED_BYTES).hex() + "\n")
            self._made_now = True
        self._seed = _read_seed(self.seed_file)
        self._load()
        return self

    def _load(self) -> None:
        try:
            row = json.loads(self._file.read_text())
            spendings = [Spending(**one) for one in row.pop("spendings")]
            self._memory = _Memory(**row, spendings=spendings)
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise ConfigError(
                f"{self._file} cannot be read ({error}); move it away: all but closed orders is found again by the seed"
            ) from error
        if (self._memory.version, self._memory.chain_id) != (VERSION, self.chain_id):
            raise ConfigError(f"{self._file} is of another release or chain; move it away")
        self.is_new = False

    @contextlib.contextmanager
    def locked(self, timeout_s: float = LOCK_S) -> Iterator[None]:
        """Alone with the files: what others did is read first, what is done inside is written on the way out.

        Raises:
            ConfigError: Another wallet has had it for too long.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                lock = OnlyOne(self._lock_file)
                break
            except ConfigError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
        with lock:
            self._load()
            yield
            self._save()

    def _save(self) -> None:
        over = [one for one in self._memory.spendings if one.status in {VOID, OVER}]
        for one in over[: max(0, len(self._memory.spendings) - MAX_ORDERS)]:
            self._memory.spendings.remove(one)
        _write_over(self._file, json.dumps(asdict(self._memory), indent=1) + "\n")
        self.is_new = False

    # --- keys ----------------------------------------------------------------------------------------------------

    def base(self, number: int) -> bytes:
        """The base key of a number."""
        while len(self._publics) <= number:
            self._publics.append(base_public(base_secret(self._seed, self.chain_id, len(self._publics))))
        return self._publics[number]

    def take_base(self) -> int:
        """The number of a base key that was never given. Only while locked."""
        self._memory.next_base += 1
        return self._memory.next_base - 1

    def last_order_ms(self) -> int:
        """When the newest anonymous order was placed, unix ms; 0 if there is none that is remembered."""
        return max((one.placed_ms for one in self.spendings if one.kind == "bid" and one.status != VOID), default=0)

    def order_signer(self, image: bytes) -> SoftwareSigner:
        """The P-256 key of the order that a note leads: names its pseudonym, starts and stops its session.

        A note leads one order, so no two have a key in common, and it takes the seed alone to find it again.
        """
        tries = 0
        while image not in self._signers:
            with contextlib.suppress(PilechainError):  # outside [1, n - 1]: one in 2^32
                secret = sha256(encode([_ORDER_KEY, self._seed, self.chain_id, image, tries]))
                self._signers[image] = SoftwareSigner(secret)
            tries += 1
        return self._signers[image]

    def signer_of(self, one: Spending) -> SoftwareSigner:
        """The same of what is remembered."""
        return self.order_signer(_note_of(one.notes[0]).image)

    def secret_of(self, base: int, source: bytes, number: int) -> bytes:
        """The secret of a note of one's own."""
        return note_secret(base_secret(self._seed, self.chain_id, base), source, number)

    # --- which notes are whose ---------------------------------------------------------------------------------------

    def recognise(self, market: Market) -> list[Note]:
        """One's own notes in all bins, spent ones too."""
        numbers = self._numbers({base for one in market.bins.values() for base in one.bases})
        found = []
        for one in market.bins.values():
            for place, base in enumerate(one.bases):
                if base in numbers:
                    found.append(self._own(market, one, place, numbers[base]))
        return found

    def _numbers(self, shown: set[bytes]) -> dict[bytes, int]:
        """The base keys of one's own among those shown, and their numbers. What is next is beyond them all."""
        gap = RESTORE_GAP if self.is_new else GAP
        found: dict[bytes, int] = {}
        end = self._memory.next_base
        number = 0
        while number < end + gap:
            if self.base(number) in shown:
                found[self.base(number)] = number
                end = max(end, number + 1)
            number += 1
        is_lost = self.is_new and not self._made_now
        self._memory.next_base = end + (GAP if is_lost else 0)  # beyond what is spent and gone, too
        return found

    def _own(self, market: Market, one: Bin, place: int, base: int) -> Note:
        source, key = one.sources[place], one.keys[place]
        number = next((n for n in range(MAX_PLACES) if note_public(one.bases[place], source, n) == key), None)
        if number is None:
            raise PurseError(f"the coordinator shows a note in bin {one.name} that nobody can own", "malformed")
        context = notes.context(self.chain_id, one.id)
        image = key_image(self.secret_of(base, source, number), context)
        value = notes.value_micro(market.rules, one.id[0])
        return Note(one.id, place, value, base, source, number, image, one.sealed_ms, image in one.images)

    def settle(self, market: Market) -> None:
        """Of what was sent without an answer and can be taken no more, the bins tell whether it was. Only while locked."""
        for one in self.spendings:
            if one.status == SENT and market.height > one.until:
                note = _note_of(one.notes[0])
                found = market.bins.get(note.bin)  # gone, once all is spent of it
                one.status = TAKEN if found is None or note.image in found.images else VOID
                one.raw = ""

    # --- orders --------------------------------------------------------------------------------------------------------

    @property
    def spendings(self) -> list[Spending]:
        """All that is remembered, the oldest first."""
        return self._memory.spendings

    def reserved(self) -> set[bytes]:
        """Images of notes that were spent, or are about to be."""
        return {bytes.fromhex(str(row[1])) for one in self.spendings if one.status != VOID for row in one.notes}

    def find(self, order: bytes) -> Spending | None:
        """An order of one's own that notes pay for, by its id or that of its contract."""
        orders = (one for one in self.spendings if one.kind == "bid")
        return next((one for one in orders if order.hex() in (one.transaction, one.contract)), None)

    def remember(self, one: Spending) -> None:
        """Write what is about to be sent. Only while locked."""
        self._memory.spendings.append(one)

    def change(self, transaction: str, **fields: object) -> None:
        """Write what has become of it."""
        with self.locked():
            known = self._memory.spendings
            self._memory.spendings = [
                replace(one, **fields) if one.transaction == transaction else one  # type: ignore[arg-type]
                for one in known
            ]

    def bought(self, base: int, time_ms: int) -> None:
        """Remember when notes of a base key were bought. Only while locked."""
        self._memory.bought_ms[str(base)] = time_ms

    def bought_ms(self, note: Note) -> int:
        """When a note was bought; when its bin was full, if that is not known."""
        return self._memory.bought_ms.get(str(note.base), note.sealed_ms)

    def sign_all(self, chosen: list[Note], market: Market) -> Callable[[bytes], list[bytes]]:
        """Signs a transaction's message with each of these notes."""

        def signatures(message: bytes) -> list[bytes]:
            return [self._sign(note, market.bins[note.bin].ring, message) for note in chosen]

        return signatures

    def _sign(self, note: Note, ring: bytes, message: bytes) -> bytes:
        secret = self.secret_of(note.base, note.source, note.number)
        return sign(secret, ring, note.place, notes.context(self.chain_id, note.bin), message)

    def sign_for(self, one: Spending) -> Callable[[bytes], list[bytes]]:
        """Signs what the user of an open order sends: with the note that leads."""
        note, ring = _note_of(one.notes[0]), bytes.fromhex(one.ring)
        return lambda message: [self._sign(note, ring, message)]

    def leading(self, one: Spending) -> Note:
        """The note that leads an order."""
        return _note_of(one.notes[0])

    def restore(self, market: Market, own: list[Note]) -> int:
        """Take up open orders that the file does not know; how many there were. Only while locked."""
        by_image = {note.image: note for note in own}
        known = {one.transaction for one in self.spendings}
        found = 0
        for party, name, image, refund, order in market.open_orders:
            note = by_image.get(cast("bytes", image))
            if note is None or not isinstance(order, bytes) or order.hex() in known or note.bin not in market.bins:
                continue
            if note.bin != name or pseudonym(self.order_signer(note.image).public) != party:
                continue  # another wallet's, of the same seed and another release
            number = next((n for n, base in enumerate(self._publics) if base == refund), -1)
            self._memory.next_base = max(self._memory.next_base, number + 1)
            ring = market.bins[note.bin].ring.hex()
            self.remember(Spending("bid", order.hex(), "", 0, TAKEN, [], [note_row(note)], ring, number, 0, 0))
            found += 1
        return found


def note_row(note: Note) -> list[object]:
    """A note as the file has it: bin, image, base number, source, number in it, place in the ring, value."""
    return [
        note.bin.hex(),
        note.image.hex(),
        note.base,
        note.source.hex(),
        note.number,
        note.place,
        note.value_micro,
    ]


def _note_of(row: list[object]) -> Note:
    name, image, base, source, number, place, value = row
    found = [bytes.fromhex(str(text)) for text in (name, image, source)]
    return Note(found[0], int(place), int(value), int(base), found[2], int(number), found[1], 0, spent=True)  # type: ignore[call-overload]


def parse_bin(row: dict[str, object]) -> Bin:
    """A bin from a coordinator's answer; PurseError if it is none."""
    columns = [row.get(name) for name in ("keys", "bases", "sources", "images")]
    name, sealed_ms = row.get("id"), row.get("sealed_ms")
    if not isinstance(name, bytes) or not isinstance(sealed_ms, int) or not all(isinstance(c, bytes) for c in columns):
        raise PurseError("the coordinator's answer holds no bin", "malformed")
    keys, bases, sources, images = (_split(column) for column in columns if isinstance(column, bytes))
    same = len(keys) == len(bases) == len(sources) <= RING_SIZE
    if not same or (sealed_ms and len(keys) != RING_SIZE):
        raise PurseError("the coordinator's answer holds no bin", "malformed")
    return Bin(name, sealed_ms, keys, bases, sources, frozenset(images))


def _split(column: bytes) -> tuple[bytes, ...]:
    return tuple(column[i : i + POINT_BYTES] for i in range(0, len(column), POINT_BYTES))


# --- files ---------------------------------------------------------------------------------------------------------------


def _read_seed(path: Path) -> bytes:
    try:
        mode, text = path.stat().st_mode, path.read_text()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    if mode & 0o077:
        raise ConfigError(f"{path} can be read by others; run: chmod 600 {path}")
    try:
        seed = bytes.fromhex(text.strip())
    except ValueError:
        seed = b""
    if len(seed) != SEED_BYTES:
        raise ConfigError(f"{path} does not hold a seed ({2 * SEED_BYTES} hex digits); put your backup there")
    return seed


def _write_new(path: Path, text: str) -> None:
    """A file that is whole or is not there, and never takes another's place: a seed lost is money lost."""
    partial = _written(path, text)
    try:
        os.link(partial, path)
    except FileExistsError:
        pass  # another wallet was faster: its seed counts
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    finally:
        partial.unlink()
    _sync_folder(path.parent)


def _write_over(path: Path, text: str) -> None:
    try:
        _written(path, text).replace(path)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    _sync_folder(path.parent)


def _written(path: Path, text: str) -> Path:
    """A new file beside `path`, of mode 0600, with what it is to hold, on the disk."""
    partial = path.with_name(f".{path.name}.{random_bytes(4).hex()}")
    try:
        handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise ConfigError(f"{partial}: {error.strerror}; may you write there, and is there room?") from error
    return partial


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
