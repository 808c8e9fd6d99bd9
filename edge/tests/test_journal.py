"""The journal against power cuts: the real CPython storage over a file system that loses what was not fsynced."""

import contextlib
import hashlib
import itertools
import os
import random
import signal
import stat as stat_module
import subprocess
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pile_edge.journal import RECORD_MAX_BYTES, RESERVE_DIVISOR, STATE_MAX_BYTES, Journal
from pile_edge.ports import micropython_storage
from pile_edge.ports.cpython_storage import Storage
from pile_shared.errors import BoundsError, JournalError

SEGMENT_BYTES = 2062
CAPACITY_BYTES = 4 * SEGMENT_BYTES
SURVIVALS = ("synced", "all", "names", "torn", "zeros")


class PowerCut(BaseException):
    """Not an Exception: nothing in the code under test may catch it."""


class Inode:
    def __init__(self):
        self.now = b""
        self.safe = b""


class LossyFs:
    """The part of `os` that Storage uses. Content is safe after fsync of the file, names after fsync of the folder."""

    def __init__(self):
        self.now: dict[str, Inode] = {}
        self.safe: dict[str, Inode] = {}
        self.open_files: dict[int, list] = {}
        self.next_fd = 3
        self.changes = 0
        self.cut_at: int | None = None
        self.fail_at: int | None = None

    def _change(self):
        self.changes += 1
        if self.changes == self.cut_at:
            raise PowerCut
        if self.changes == self.fail_at:
            raise OSError(28, "No space left on device")

    def makedirs(self, _path, exist_ok):
        assert exist_ok

    def listdir(self, folder):
        return [name.removeprefix(folder + "/") for name in self.now]

    def stat(self, path):
        return SimpleNamespace(st_size=len(self.now[path].now))

    def open(self, path, flags, _mode=0o777):
        inode = self.now.get(path)
        if inode is None and flags & os.O_CREAT:
            self._change()
            inode = self.now[path] = Inode()
        if flags & os.O_TRUNC:
            inode.now = b""
        self.next_fd += 1
        self.open_files[self.next_fd] = inode
        return self.next_fd

    def close(self, fd):
        del self.open_files[fd]

    def pread(self, fd, size, offset):
        return self.open_files[fd].now[offset : offset + size]

    def write(self, fd, data):
        inode, half = self.open_files[fd], bytes(data[: len(data) // 2 + 1])
        try:
            self._change()
        except BaseException:
            inode.now += half
            raise
        inode.now += half
        return len(half)

    def fsync(self, fd):
        self._change()
        inode = self.open_files[fd]
        if inode is None:  # the folder
            self.safe = dict(self.now)
        else:
            inode.safe = inode.now

    def ftruncate(self, fd, size):
        self._change()
        self.open_files[fd].now = self.open_files[fd].now[:size]

    def replace(self, source, target):
        self._change()
        self.now[target] = self.now.pop(source)

    def unlink(self, path):
        self._change()
        del self.now[path]

    def after_power_cut(self, survival: str) -> "LossyFs":
        """A copy as the disk may look at the next boot; every kind is allowed by POSIX, none may hurt."""
        disk = LossyFs()
        names = self.safe if survival == "synced" else self.now
        for name, inode in names.items():
            copy = disk.now[name] = Inode()
            extra = inode.now[len(inode.safe) :] if inode.now.startswith(inode.safe) else b""
            copy.now = {
                "synced": inode.safe,
                "names": inode.safe,
                "all": inode.now,
                "torn": inode.safe + extra[: len(extra) * 2 // 3],
                "zeros": inode.safe + bytes(len(extra)),
            }[survival]
            copy.safe = copy.now
        disk.safe = dict(disk.now)
        return disk


def make(fs, *, capacity_bytes=CAPACITY_BYTES, segment_bytes=SEGMENT_BYTES) -> Journal:
    return Journal(Storage("/j", fs), capacity_bytes=capacity_bytes, segment_bytes=segment_bytes)


def record_of(sequence: int, size_bytes: int) -> bytes:
    """Another content for each sequence; random, so that no part of it looks like another."""
    return random.Random(sequence).randbytes(size_bytes)


class Model:
    """What the outside world was told, and the one operation that may or may not have happened."""

    def __init__(self):
        self.records: list[tuple[int, bytes]] = []
        self.retired = -1
        self.state = b""
        self.doubt: tuple | None = None

    def perform(self, journal: Journal, operation: tuple) -> None:
        self.doubt = operation
        kind, *values = operation
        if kind == "append":
            journal.append(*values)
        elif kind == "retire":
            journal.retire(*values)
        else:
            journal.save_state(*values)
        self.settle()

    def settle(self) -> None:
        kind, *values = self.doubt
        self.doubt = None
        if kind == "append":
            self.records.append(tuple(values))
        elif kind == "retire":
            self.retired = max(self.retired, -1 if values[0] is None else values[0])
        else:
            self.state = values[0]

    def check_after_boot(self, journal: Journal) -> None:
        """Accept the doubtful operation as done or as not done, and nothing else."""
        if self.doubt is not None:
            kind, *values = self.doubt
            if kind == "retire":  # whole segments go first, one by one
                assert self.retired <= (-1 if journal.retired_through is None else journal.retired_through) <= values[0]
                self.doubt = (kind, journal.retired_through)
            if kind == "retire" or (journal.state if kind == "state" else journal.last_sequence) == values[0]:
                self.settle()
            self.doubt = None
        self.check(journal)

    def check(self, journal: Journal) -> None:
        assert journal.pending(-1, 1000) == [item for item in self.records if item[0] > self.retired]
        assert journal.state == self.state
        if self.records:
            sequence, record = self.records[-1]
            assert journal.head == (sequence, hashlib.sha256(record).digest())
            assert journal.last() == (sequence, record)
        else:
            assert journal.head is None
            assert journal.last() is None


def script():
    """Segments fill, roll and go; the cursor is replaced again and again."""
    for sequence in range(1, 15):
        yield ("append", sequence, record_of(sequence, 300 + 400 * (sequence % 4)))
        if sequence % 3 == 0:
            yield ("retire", sequence - 1)
        if sequence % 4 == 0:
            yield ("state", b"s" * sequence)
    yield ("retire", 14)
    yield ("append", 15, record_of(15, 700))


def run_until_cut(cut_at: int | None):
    fs, model = LossyFs(), Model()
    fs.cut_at = cut_at
    try:
        journal = make(fs)
        for operation in script():
            model.perform(journal, operation)
    except PowerCut:
        return fs, model, True
    return fs, model, False


def test_power_cut_at_every_change_of_the_disk():
    for cut_at in itertools.count(1):
        fs, model, was_cut = run_until_cut(cut_at)
        for survival in SURVIVALS:
            disk = fs.after_power_cut(survival)
            journal = make(disk)
            after = Model()
            after.records, after.retired, after.state, after.doubt = (
                list(model.records),
                model.retired,
                model.state,
                model.doubt,
            )
            after.check_after_boot(journal)
            following = 1 if journal.last_sequence is None else journal.last_sequence + 1
            after.perform(journal, ("append", following, b"after"))
            after.check(make(disk.after_power_cut("synced")))
        if not was_cut:
            assert cut_at > 100
            return


def test_power_cut_while_recovering_from_a_power_cut():
    for first in range(1, 130, 7):
        fs, model, _ = run_until_cut(first)
        for survival, second in itertools.product(("torn", "zeros", "all"), range(1, 6)):
            disk = fs.after_power_cut(survival)
            disk.cut_at = second
            with contextlib.suppress(PowerCut):
                make(disk)
            after = Model()
            after.records, after.retired, after.state, after.doubt = (
                list(model.records),
                model.retired,
                model.state,
                model.doubt,
            )
            after.check_after_boot(make(disk.after_power_cut("torn")))


class JournalMachine(RuleBasedStateMachine):
    """Any order of operations, crashes in the middle and clean reopens, against the plain list."""

    @initialize()
    def start(self):
        self.fs, self.model = LossyFs(), Model()
        self.journal = make(self.fs)

    def _try(self, operation: tuple, cut_after: int | None, survival: str):
        self.fs.cut_at = None if cut_after is None else self.fs.changes + cut_after
        try:
            self.model.perform(self.journal, operation)
        except JournalError as error:
            assert error.code == "full"  # noqa: PT017 - it may also not be raised
            self.model.doubt = None
        except PowerCut:
            self.fs = self.fs.after_power_cut(survival)
            self.journal = make(self.fs)
            self.model.check_after_boot(self.journal)
        self.fs.cut_at = None

    cuts = st.one_of(st.none(), st.integers(1, 8))

    @rule(size=st.integers(1, RECORD_MAX_BYTES), cut=cuts, survival=st.sampled_from(SURVIVALS))
    def append(self, size, cut, survival):
        sequence = 0 if self.journal.last_sequence is None else self.journal.last_sequence + 1
        self._try(("append", sequence, record_of(sequence, size)), cut, survival)

    @precondition(lambda self: self.model.records)
    @rule(share=st.integers(0, 100), cut=cuts, survival=st.sampled_from(SURVIVALS))
    def retire(self, share, cut, survival):
        self._try(("retire", self.model.records[-1][0] * share // 100), cut, survival)

    @rule(state=st.binary(max_size=STATE_MAX_BYTES), cut=cuts, survival=st.sampled_from(SURVIVALS))
    def save_state(self, state, cut, survival):
        self._try(("state", state), cut, survival)

    @rule()
    def reopen(self):
        self.journal = make(self.fs)

    @rule(limit=st.integers(1, 3))
    def read_in_steps(self, limit):
        seen, after = [], -1
        while batch := self.journal.pending(after, limit):
            assert len(batch) <= limit
            seen += batch
            after = batch[-1][0]
        assert seen == [item for item in self.model.records if item[0] > self.model.retired]

    @invariant()
    def same_as_the_list(self):
        self.model.check(self.journal)
        assert self.journal.used_bytes <= CAPACITY_BYTES


TestJournalMachine = JournalMachine.TestCase
TestJournalMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_a_failed_write_leaves_nothing_behind():
    """A full or failing disk: an error, the sequence is still free, and the next append works."""
    for fail_at in range(1, 8):
        fs, model = LossyFs(), Model()
        journal = make(fs)
        model.perform(journal, ("append", 5, record_of(5, 1500)))
        fs.fail_at = fs.changes + fail_at
        try:
            model.perform(journal, ("append", 6, record_of(6, 900)))  # needs a new segment
        except JournalError as error:
            assert error.code == "full"  # noqa: PT017 - it may also not be raised
            model.doubt = None
        model.check(journal)
        sequence = journal.last_sequence + 1
        model.perform(journal, ("append", sequence, b"another record for the same sequence"))
        model.check(make(fs.after_power_cut("synced")))


def test_a_write_that_cannot_be_undone_closes_the_journal():
    fs = LossyFs()
    journal = make(fs)
    journal.append(1, b"one")

    def dead(*_):
        raise OSError(5, "Input/output error")

    fs.write = fs.ftruncate = dead
    with pytest.raises(JournalError, match="Input/output"):
        journal.append(2, b"two")
    del fs.write
    del fs.ftruncate
    with pytest.raises(JournalError, match="open it again") as caught:
        journal.append(2, b"other two")
    assert caught.value.code == "storage"
    make(fs).append(2, b"other two")


def fill_up(journal: Journal, sequence: int, *, keep: bool) -> tuple[int, int]:
    """Append until refused; returns the sequence that was refused and how many were not."""
    for count in range(CAPACITY_BYTES):
        try:
            journal.append(sequence, bytes(200), keep=keep)
        except JournalError as error:
            assert error.code == "full"  # noqa: PT017
            return sequence, count
        sequence += 1
    pytest.fail("never full")


def test_full_keeps_a_reserve_for_what_must_not_go():
    journal = make(LossyFs())
    sequence = 0
    while journal.thinning:
        journal.append(sequence, bytes(200), keep=False)
        sequence += 1
    sequence, _ = fill_up(journal, sequence, keep=False)
    assert journal.used_bytes <= CAPACITY_BYTES - CAPACITY_BYTES // RESERVE_DIVISOR
    sequence, kept = fill_up(journal, sequence, keep=True)
    assert kept >= CAPACITY_BYTES // RESERVE_DIVISOR // 214
    journal.retire(sequence - 1)
    assert journal.thinning == 1
    journal.append(sequence, bytes(200), keep=False)
    assert [item[0] for item in journal.pending(-1, 9)] == [sequence]


def fill(fs) -> list[str]:
    journal = make(fs)
    for sequence in range(12):
        journal.append(sequence, record_of(sequence, 400))
    return sorted(fs.now)


def flip(fs, name: str, offset: int) -> None:
    data = bytearray(fs.now[name].now)
    data[offset] ^= 1
    fs.now[name].now = bytes(data)


def test_a_bad_record_in_an_older_segment_is_loud():
    for offset in (0, 5, 13, 200, 411, 414 + 3, 414 + 100):
        fs = LossyFs()
        names = fill(fs)
        flip(fs, names[1], offset)
        with pytest.raises(JournalError) as caught:
            make(fs)
        assert caught.value.code == "corrupt"
        assert names[1].removeprefix("/j/") in str(caught.value)
        assert f"at {offset // 414 * 414}:" in str(caught.value)


def test_a_bad_record_with_good_ones_behind_it_is_no_torn_tail():
    """Cutting there would give the sequences of published proofs out again."""
    for offset in (0, 5, 13, 200):
        fs = LossyFs()
        names = fill(fs)
        assert len(fs.now[names[-1]].now) > 2 * 414
        flip(fs, names[-1], offset)
        with pytest.raises(JournalError) as caught:
            make(fs)
        assert caught.value.code == "corrupt"


def test_every_torn_tail_is_cut_off():
    fs = LossyFs()
    names = fill(fs)
    whole = fs.now[names[-1]].now
    for length in range(len(whole) - 413, len(whole)):
        fs.now[names[-1]].now = whole[:length]
        assert make(fs).last_sequence == 10
        assert len(fs.now[names[-1]].now) == len(whole) - 414


def test_a_damaged_or_lost_file_is_loud_where_a_sequence_could_come_again():
    fs = LossyFs()
    fill(fs)
    make(fs).retire(3)
    for offset in range(len(fs.now["/j/cursor.j1"].now)):
        flip(fs, "/j/cursor.j1", offset)
        with pytest.raises(JournalError, match=r"cursor\.j1 at 0"):
            make(fs)
        flip(fs, "/j/cursor.j1", offset)
    newest = max(name for name in fs.now if "cursor" not in name)
    del fs.now[newest]
    with pytest.raises(JournalError, match="missing"):
        make(fs)


def test_the_head_outlives_the_segments_when_all_was_retired():
    fs = LossyFs()
    fill(fs)
    make(fs).retire(11)
    for name in [name for name in fs.now if "cursor" not in name]:
        del fs.now[name]
    journal = make(fs)
    assert journal.head == (11, hashlib.sha256(record_of(11, 400)).digest())
    with pytest.raises(JournalError, match="sequence 11 after 11"):
        journal.append(11, b"again")
    journal.append(12, b"next")
    assert make(fs).pending(-1, 5) == [(12, b"next")]


def test_refusals_change_nothing():
    journal = make(LossyFs())
    with pytest.raises(JournalError, match="never written"):
        journal.retire(0)
    journal.append(7, b"seven")
    for sequence in (0, 6, 7, 9):
        with pytest.raises(JournalError) as caught:
            journal.append(sequence, b"x")
        assert caught.value.code == "sequence"
    for record in (b"", bytes(RECORD_MAX_BYTES + 1)):
        with pytest.raises(BoundsError):
            journal.append(8, record)
    with pytest.raises(JournalError, match="never written"):
        journal.retire(8)
    with pytest.raises(BoundsError):
        journal.save_state(bytes(STATE_MAX_BYTES + 1))
    with pytest.raises(BoundsError):
        make(LossyFs(), capacity_bytes=3 * SEGMENT_BYTES)
    assert journal.pending(-1, 9) == [(7, b"seven")]
    assert journal.pending(7, 9) == []


@pytest.mark.parametrize("storage", [Storage, micropython_storage.Storage])
def test_on_the_real_file_system(tmp_path, storage):
    """Both ports' storage, including a torn tail on each and a leftover temporary file."""
    folder, model = tmp_path / "journal", Model()
    journal = Journal(storage(str(folder)), capacity_bytes=CAPACITY_BYTES, segment_bytes=SEGMENT_BYTES)
    for operation in script():
        model.perform(journal, operation)
    newest = max(path for path in folder.iterdir() if path.name != "cursor.j1")
    with newest.open("ab") as file:
        file.write(b"\x01\x00torn")
    (folder / "cursor.j1.tmp").write_bytes(b"half")
    journal = Journal(storage(str(folder)), capacity_bytes=CAPACITY_BYTES, segment_bytes=SEGMENT_BYTES)
    model.check(journal)
    assert not (folder / "cursor.j1.tmp").exists()
    model.perform(journal, ("append", 16, b"after"))
    model.check(Journal(storage(str(folder)), capacity_bytes=CAPACITY_BYTES, segment_bytes=SEGMENT_BYTES))
    if storage is Storage:
        assert stat_module.S_IMODE(newest.stat().st_mode) == 0o600


WRITER = """
import sys, zlib
from pile_edge.journal import Journal
from pile_edge.ports.cpython_storage import Storage
journal = Journal(Storage(sys.argv[1]), capacity_bytes=1 << 20, segment_bytes=4096)
sequence = 0 if journal.last_sequence is None else journal.last_sequence + 1
while True:
    journal.append(sequence, zlib.compress(str(sequence).encode() * 50, 0))
    print("a", sequence, flush=True)
    if sequence % 10 == 9:
        journal.retire(sequence - 5)
        print("r", sequence - 5, flush=True)
    sequence += 1
"""


def test_sigkill_of_a_real_process_at_random_moments(tmp_path):
    folder, dice = tmp_path / "journal", random.Random(7)
    root = Path(__file__).resolve().parents[2]
    env = {**os.environ, "PYTHONPATH": f"{root / 'shared'}{os.pathsep}{root / 'edge'}"}
    acknowledged = retired = -1
    for _ in range(8):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE, text=True, env=env
        ) as writer:
            for _ in range(dice.randint(1, 120)):
                kind, number = writer.stdout.readline().split()
                acknowledged, retired = (int(number), retired) if kind == "a" else (acknowledged, int(number))
            for _ in range(dice.randint(0, 20000)):
                pass
            writer.send_signal(signal.SIGKILL)
            for kind, number in (line.split() for line in writer.stdout if line.endswith("\n")):
                acknowledged, retired = (int(number), retired) if kind == "a" else (acknowledged, int(number))
        journal = Journal(Storage(str(folder)), capacity_bytes=1 << 20, segment_bytes=4096)
        assert journal.last_sequence in (acknowledged, acknowledged + 1)
        assert journal.retired_through is None or journal.retired_through >= retired
        pending = journal.pending(-1, 10000)
        first = -1 if journal.retired_through is None else journal.retired_through
        assert [item[0] for item in pending] == list(range(first + 1, journal.last_sequence + 1))
        assert all(zlib.decompress(record) == str(sequence).encode() * 50 for sequence, record in pending)
