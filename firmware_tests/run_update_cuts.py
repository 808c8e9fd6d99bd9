"""Runs under MicroPython: an update from offer to end, power cut once at every program and erase of either flash.

argv: the folder with pile_boot.mpy, and "reports" or "silent": what the new software does.
"""
# ruff: noqa: ARG002, ARG004, PLW0602, PTH104, PTH123, PTH208, SIM105

import errno
import hashlib
import os
import sys
from binascii import hexlify

import vfs

how = sys.argv[2]
sys.path.append(sys.argv[1])
BLOCK_BYTES, BLOCKS = 512, 64
SECTOR_BYTES = 4096
SLOT_BYTES = 2 * SECTOR_BYTES


def image_of(version):
    digest = hashlib.sha256(str(version).encode()).digest()
    return b"\xd2\xcd\x31" + digest * 180  # 5763 bytes: three pieces, two sectors


def entry_of(version):
    image = image_of(version)
    return [version, len(image), hexlify(hashlib.sha256(image).digest()).decode()]


class Power:
    """Counts changes of either flash; the `cut_at`-th is done by half, then nothing answers."""

    def __init__(self):
        self.files = bytearray(b"\xff" * (BLOCKS * BLOCK_BYTES))
        self.slots = bytearray(b"\xff" * (2 * SLOT_BYTES))
        self.changes = self.cut_at = 0
        self.dead = False

    def change(self, memory, start, data):
        if self.dead:
            return False
        self.changes += 1
        self.dead = self.changes == self.cut_at
        size = len(data) // 2 if self.dead else len(data)
        memory[start : start + size] = data[:size]
        return not self.dead

    # littlefs; an error is returned as a number, for it would print the traceback of an exception

    def readblocks(self, block, buffer, offset=0):
        start = block * BLOCK_BYTES + offset
        buffer[:] = self.files[start : start + len(buffer)]
        return -errno.EIO if self.dead else 0

    def writeblocks(self, block, buffer, offset=0):
        return 0 if self.change(self.files, block * BLOCK_BYTES + offset, buffer) else -errno.EIO

    def ioctl(self, op, arg):
        if op == 4:
            return BLOCKS
        if op == 5:
            return BLOCK_BYTES
        if op == 6:
            return 0 if self.change(self.files, arg * BLOCK_BYTES, b"\xff" * BLOCK_BYTES) else -errno.EIO
        return 0


power = Power()


class Partition:
    TYPE_DATA = 1

    @staticmethod
    def find(kind, label):
        return [Partition()]

    def ioctl(self, op, sector):
        if not power.change(power.slots, sector * SECTOR_BYTES, b"\xff" * SECTOR_BYTES):
            raise OSError(errno.EIO)

    def writeblocks(self, sector, data, within):
        if not power.change(power.slots, sector * SECTOR_BYTES + within, bytes(data)):
            raise OSError(errno.EIO)


class Names:
    pass


esp32, flash = Names(), Names()
esp32.Partition = Partition
flash.rom_ioctl = lambda *_: power.slots
sys.modules["esp32"], sys.modules["vfs"] = esp32, flash

import pile_boot  # noqa: E402

from pile_edge.ports import updater  # noqa: E402
from pile_edge.update import PIECE_BYTES, Offer  # noqa: E402
from pile_shared.codec import decode, encode  # noqa: E402

NEW = image_of(2)


class Link:
    """Hands out what is asked for."""

    inflight = 0

    def publish(self, topic, payload):
        version, offset, _ = decode(payload, 100)
        self.answer = encode([version, offset, NEW[offset : offset + PIECE_BYTES]])
        return True

    def poll(self, timeout_ms):
        return [("", self.answer)]


def boot():
    """What the loader's `prepare` does, but for mounting what it chose: the slot, and whether the updater is to run."""
    names = os.listdir()
    state = pile_boot.load()
    before = repr(state)
    slots = pile_boot.Slots()
    slot = pile_boot.choose(state, slots, pile_boot.REPORTED in names)
    if repr(state) != before:
        pile_boot.save(state)
    assert slots.holds(slot, state["slots"][slot]), "starts what is damaged"
    assert state["slots"][slot] in (entry_of(1), entry_of(2)), "starts what was never offered"
    if state["trial"] is not None or pile_boot.OFFER not in names:
        return slot, False
    os.rename(pile_boot.OFFER, pile_boot.TAKEN)
    return slot, True


def live(boots):
    """Start after start, until nothing more happens or power goes. The operator offers again what was lost."""
    for _ in range(boots):
        slot, wants_update = boot()
        state = pile_boot.load()
        if wants_update:
            updater.put_in_place(Offer("mpy6", 2, 2, len(NEW), hashlib.sha256(NEW).digest()), Link(), "t")
        elif state["trial"] is not None and how == "reports":
            try:
                os.rename("trial", "reported")  # the port's `reported`, at each receipt
            except OSError as error:
                if error.errno != errno.ENOENT:
                    raise
        elif state["slots"][slot][0] == 1 and state["failed"] != 2:
            with open(pile_boot.OFFER, "wb") as file:
                file.write(b"offer")


def fresh():
    global power
    power.__init__()
    vfs.VfsLfs2.mkfs(power, progsize=32, readsize=32, lookahead=32)
    mount()
    power.slots[: len(image_of(1))] = image_of(1)
    pile_boot.save({"active": 0, "floor": 0, "failed": 0, "trial": None, "slots": [entry_of(1), None]})
    power.changes = 0


def mount():
    vfs.mount(vfs.VfsLfs2(power, progsize=32, readsize=32, lookahead=32), "/flash")
    os.chdir("/flash")


def unmount():
    os.chdir("/")
    vfs.umount("/flash")


def check_end():
    state = pile_boot.load()
    assert state["trial"] is None, state
    expected = (1, 2, 0) if how == "reports" else (0, 0, 2)
    assert (state["active"], state["floor"], state["failed"]) == expected, state


fresh()
live(8)
check_end()
operations = power.changes
unmount()
print("operations", operations)
cuts = 0
for cut_at in range(1, operations + 1):
    fresh()
    power.cut_at = cut_at
    try:
        live(8)
    except OSError:
        pass
    assert power.dead, cut_at
    cuts += 1
    unmount()
    power.dead = False
    power.cut_at = 0
    mount()
    live(10)
    check_end()
    unmount()
print("cuts", cuts)
print("done")
