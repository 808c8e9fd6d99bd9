"""Runs under MicroPython: the journal on littlefs, power cut at every program and erase of the block device.

argv: "cuts" (a larger heap holds the snapshots) or "heap" (what the journal needs within a board's heap).
"""

import errno
import gc
import hashlib
import sys

import vfs

gc.collect()
START = gc.mem_alloc()

from pile_edge.journal import Journal  # noqa: E402 - its cost is being measured
from pile_edge.ports.micropython_storage import Storage  # noqa: E402
from pile_shared.errors import JournalError  # noqa: E402

gc.collect()
print("modules_bytes", gc.mem_alloc() - START)

BLOCK_BYTES = 512
SEGMENT_BYTES = 2062
CAPACITY_BYTES = 4 * SEGMENT_BYTES


class Flash:
    """A NOR-like block device in RAM: programs and erases count; the `cut_at`-th is done by half, then nothing answers."""

    def __init__(self, blocks, data=None):
        self.blocks = blocks
        self.data = data or bytearray(b"\xff" * (blocks * BLOCK_BYTES))
        self.changes = 0
        self.cut_at = 0
        self.dead = False

    # An error is returned as a number: VfsLfs2 would print the traceback of an exception.
    def _change(self):
        self.changes += 1
        if self.changes == self.cut_at:
            self.dead = True

    def readblocks(self, block, buffer, offset=0):
        start = block * BLOCK_BYTES + offset
        buffer[:] = self.data[start : start + len(buffer)]
        return -errno.EIO if self.dead else 0

    def writeblocks(self, block, buffer, offset=0):
        return self._fill(block * BLOCK_BYTES + offset, buffer)

    def _fill(self, start, data):
        if self.dead:
            return -errno.EIO
        self._change()
        size = len(data) // 2 if self.dead else len(data)
        self.data[start : start + size] = data[:size]
        return -errno.EIO if self.dead else 0

    def ioctl(self, op, arg):
        if op == 4:
            return self.blocks
        if op == 5:
            return BLOCK_BYTES
        return self._fill(arg * BLOCK_BYTES, b"\xff" * BLOCK_BYTES) if op == 6 else 0


def mount(flash):
    vfs.mount(vfs.VfsLfs2(flash, progsize=32, readsize=32, lookahead=32), "/flash")


def open_journal():
    return Journal(Storage("/flash/journal"), capacity_bytes=CAPACITY_BYTES, segment_bytes=SEGMENT_BYTES)


def record_of(sequence, size_bytes):
    """Another content for each sequence."""
    digest = hashlib.sha256(str(sequence).encode()).digest()
    return (digest * (size_bytes // 32 + 1))[:size_bytes]


def script():
    """Segments of several blocks fill, roll and go; the cursor is replaced again and again."""
    for sequence in range(1, 25):
        yield ("append", sequence, record_of(sequence, 200 + 300 * (sequence % 4)))
        if sequence % 4 == 3:
            yield ("retire", sequence - 1)
        if sequence % 5 == 0:
            yield ("state", b"s" * 20 * sequence)
    yield ("retire", 24)
    yield ("append", 25, record_of(25, 700))


def perform(journal, operation):
    if operation[0] == "append":
        journal.append(operation[1], operation[2])
    elif operation[0] == "retire":
        journal.retire(operation[1])
    else:
        journal.save_state(operation[1])


class Told:
    """What the outside world was told before the cut: acknowledged operations, and the one in doubt."""

    def __init__(self):
        self.records = []
        self.retired = -1
        self.state = b""
        self.doubt = None

    def settle(self, operation):
        if operation[0] == "append":
            self.records.append(operation[1:])
        elif operation[0] == "retire":
            self.retired = operation[1]
        else:
            self.state = operation[1]

    def check(self, journal):
        doubt = self.doubt
        if doubt is not None:
            now = {"append": journal.last_sequence, "retire": journal.retired_through, "state": journal.state}[doubt[0]]
            if doubt[0] == "retire" and now is not None:  # whole segments go first, one by one
                assert self.retired <= now <= doubt[1] or now == 0, "retired"
                self.retired = max(self.retired, now)
            elif now == doubt[1]:
                self.settle(doubt)
            self.doubt = None
        expected = [item for item in self.records if item[0] > self.retired]
        assert journal.pending(-1, 100) == expected, "pending"
        assert journal.state == self.state, "state"
        if self.records:
            sequence, record = self.records[-1]
            assert journal.head == (sequence, hashlib.sha256(record).digest()), "head"
            assert journal.last() == (sequence, record), "last"
        else:
            assert journal.head is None, "head"


def run_until_cut(flash):
    told = Told()
    try:
        mount(flash)
        journal = open_journal()
        for operation in script():
            told.doubt = operation
            perform(journal, operation)
            told.settle(operation)
            told.doubt = None
    except (OSError, JournalError):
        assert flash.dead
    try:  # noqa: SIM105 - no contextlib on a board
        vfs.umount("/flash")
    except OSError:
        pass
    return told


def check_after_cut(flash, told):
    """Boot again on what is left, check, go on, boot once more."""
    flash = Flash(flash.blocks, flash.data)
    mount(flash)
    journal = open_journal()
    told.check(journal)
    following = 1 if journal.last_sequence is None else journal.last_sequence + 1
    for operation in (("append", following, record_of(following, 500)), ("state", b"after")):
        perform(journal, operation)
        told.settle(operation)
    told.check(open_journal())
    vfs.umount("/flash")


def cut_everywhere():
    blank = Flash(48)
    vfs.VfsLfs2.mkfs(blank, progsize=32, readsize=32, lookahead=32)
    blank = bytes(blank.data)
    cut_at = 0
    while True:
        cut_at += 1
        flash = Flash(48, bytearray(blank))
        flash.cut_at = cut_at
        told = run_until_cut(flash)
        try:
            check_after_cut(flash, told)
        except Exception:
            print("cut at", cut_at)
            raise
        gc.collect()
        if not flash.dead:
            print("cuts", cut_at - 1)
            return


def full_disk():
    """The disk is smaller than the capacity promised: an error, nothing lost, and it goes on once something was retired."""
    flash = Flash(14)
    vfs.VfsLfs2.mkfs(flash, progsize=32, readsize=32, lookahead=32)
    mount(flash)
    journal, told, refused = open_journal(), Told(), 0
    for sequence in range(1, 60):
        operation = ("append", sequence, record_of(sequence, 300))
        try:
            perform(journal, operation)
        except JournalError as error:
            assert error.code == "full", error.code  # noqa: PT017 - no pytest on a board
            refused += 1
            told.check(journal)
            told.check(open_journal())
            retire = ("retire", sequence - 1)
            perform(journal, retire)
            told.settle(retire)
            perform(journal, operation)
        told.settle(operation)
        told.check(journal)
    vfs.umount("/flash")
    print("refused", refused)


def heap():
    """Figures for a board: heap held by the modules, and by an open journal that has filled and emptied a few times."""
    flash = Flash(40)
    vfs.VfsLfs2.mkfs(flash, progsize=32, readsize=32, lookahead=32)
    mount(flash)
    gc.collect()
    opened = gc.mem_alloc()
    journal = open_journal()
    for sequence in range(1, 40):
        while journal.last_sequence != sequence:
            try:
                journal.append(sequence, record_of(sequence, 2048 if sequence % 10 == 0 else 250))
            except JournalError as error:
                assert error.code == "full", error.code  # noqa: PT017
                journal.retire(sequence - 2)
    assert journal.pending(-1, 2)
    gc.collect()
    print("journal_bytes", gc.mem_alloc() - opened)
    vfs.umount("/flash")


if sys.argv[1] == "cuts":
    cut_everywhere()
    full_disk()
else:
    heap()
print("ok")
