"""What runs first on a board (there: `pile_boot.mpy`, in its file system): which of two slots of software starts.

The flash partition `romfs` is two halves, each for one linked image (ADR 7). `slots.json` says which is active, which
images they should hold, and whether the other one is on trial:

    {"active": 0 | 1, "floor": n, "failed": n, "trial": null | [boots left, floor afterwards],
     "slots": [[version, size_bytes, sha256 in hex] | null, the same]}

It is replaced in one step (rename on littlefs), so a power cut leaves the old or the new one, and every start repeats what
the file says. An image starts only if its bytes still have their hash. A new one starts at most TRIES times without the
agent having reported (`reported`: renamed from `trial` at the first receipt); then the old one starts again, and
`failed` names the version that is not tried a second time. `floor` is the lowest version that may start; it rises when a
new image has reported, never before.

This file is never updated over the air: it is the part that must not be lost. What `pile_edge.ports.updater` and
`pile-edge flash` call here (`load`, `save`, `install`, `Slots`, TAKEN, TRIAL, TRIES, REPORTED) therefore stays as it is.
"""
# ruff: noqa: ANN001, ANN201, ANN202, ANN204 - nothing checks types here: it runs on a board only

import gc
import hashlib
import json
import os
import sys
from binascii import hexlify

STATE = "slots.json"
OFFER = "offer.cose"  # a signed offer of new software: the updater runs in the agent's place
TAKEN = "offer.taken"  # the offer the updater runs for: renamed, so that it runs once, whatever becomes of it
TRIAL = "trial"
REPORTED = "reported"
WIFI = "wifi.json"
TRIES = 3  # boots on trial: a brownout or two must not cost a good update
TRIAL_MS = 900_000  # of one such boot: connecting, a heartbeat and a block take a minute or two
SECTOR_BYTES = 4096  # of ESP32 flash: what is erased at once
_PIECE_BYTES = 1024
_ROMFS_MAGIC = b"\xd2\xcd\x31"


class Slots:
    """Two images in flash. `views`: their memory, mapped; `size_bytes`: room in each."""

    def __init__(self):
        """Find the partition.

        Raises:
            OSError: the firmware has no partition `romfs`, or none of its size; `pile-edge flash` makes one.
        """
        from esp32 import Partition
        from vfs import rom_ioctl

        found = Partition.find(Partition.TYPE_DATA, label="romfs")
        memory = memoryview(rom_ioctl(2, 0)) if found else b""
        self.size_bytes = len(memory) // 2 // SECTOR_BYTES * SECTOR_BYTES
        if not self.size_bytes:
            raise OSError("no flash partition romfs")
        self._partition = found[0]
        self.views = [memory[slot * self.size_bytes : (slot + 1) * self.size_bytes] for slot in (0, 1)]

    def erase(self, slot, size_bytes):
        """Make room for `size_bytes`, from the last sector to the first: half erased it is no image any more."""
        first = slot * self.size_bytes // SECTOR_BYTES
        for sector in range((size_bytes - 1) // SECTOR_BYTES, -1, -1):
            self._partition.ioctl(6, first + sector)

    def write(self, slot, offset, data):
        """Program erased flash."""
        sector, within = divmod(slot * self.size_bytes + offset, SECTOR_BYTES)
        self._partition.writeblocks(sector, data, within)

    def holds(self, slot, entry):
        """Whether a slot's bytes are those of its entry [version, size, hash]."""
        if entry is None or not 0 < entry[1] <= self.size_bytes or bytes(self.views[slot][:3]) != _ROMFS_MAGIC:
            return False
        digest = hashlib.sha256()
        for start in range(0, entry[1], _PIECE_BYTES):
            digest.update(self.views[slot][start : min(start + _PIECE_BYTES, entry[1])])
        return hexlify(digest.digest()).decode() == entry[2]


def load():
    """The state; OSError or ValueError if it is not there or damaged: `pile-edge flash` puts it there."""
    with open(STATE) as file:
        return json.load(file)


def save(state):
    """Replace the state in one step; durable on return."""
    with open(STATE + ".tmp", "w") as file:
        json.dump(state, file)
        file.flush()
    os.rename(STATE + ".tmp", STATE)
    if hasattr(os, "sync"):
        os.sync()


def settle(state, is_reported):
    """What the last run means for this one.

    Args:
        state: As in `slots.json`; changed in place.
        is_reported: Whether the agent on trial has reported.

    Returns:
        The slot to start.
    """
    trial = state["trial"]
    if trial is None:
        return state["active"]
    other = 1 - state["active"]
    if is_reported:
        state["active"] = other
        state["floor"] = max(state["floor"], trial[1])
        state["trial"] = None
        return other
    if trial[0] > 0:
        state["trial"] = [trial[0] - 1, trial[1]]
        return other
    return give_up(state)


def give_up(state):
    """End a trial without success: the active slot starts."""
    state["failed"] = state["slots"][1 - state["active"]][0]
    state["trial"] = None
    return state["active"]


def choose(state, slots, is_reported):
    """Like `settle`, and what is chosen is whole; a damaged slot gives way to the other if that may start.

    Raises:
        OSError: neither slot holds what it should.
    """
    slot = settle(state, is_reported)
    if slots.holds(slot, state["slots"][slot]):
        return slot
    if state["trial"] is not None:
        slot = give_up(state)
    else:
        slot = 1 - slot
        state["active"] = slot
    entry = state["slots"][slot]
    if not slots.holds(slot, entry) or entry[0] < state["floor"]:
        raise OSError("no slot holds the software it should: flash this board again")
    return slot


def prepare():
    """Mount the slot that is to start at /rom, first on sys.path.

    Returns:
        True if the updater is to run in the agent's place.

    Raises:
        OSError, ValueError: nothing can be started.
    """
    import vfs

    names = os.listdir()
    old = json.dumps(load())
    state = json.loads(old)
    slots = Slots()
    slot = choose(state, slots, REPORTED in names)
    if json.dumps(state) != old:
        save(state)
    try:
        vfs.umount("/rom")  # the firmware mounts what it finds at the start of the partition
    except OSError:
        pass
    vfs.mount(vfs.VfsRom(slots.views[slot]), "/rom")
    sys.path[:] = ["/rom", "", ".frozen"]
    print("slot", slot, "version", state["slots"][slot][0], "on trial" if state["trial"] else "proven")
    if state["trial"] is not None:
        _guard()
    if WIFI in names:
        _connect()
    gc.collect()
    if state["trial"] is not None or OFFER not in names:
        return False
    os.rename(OFFER, TAKEN)
    return True


def install(version, path):
    """Put the image in a file into slot 0 as a board's first software; for `pile-edge flash`.

    Returns:
        What is in flash now, read back: its size and its SHA-256 in hex.
    """
    slots = Slots()
    size_bytes = os.stat(path)[6]
    if size_bytes > slots.size_bytes:
        raise OSError("the image has " + str(size_bytes) + " bytes, a slot " + str(slots.size_bytes))
    slots.erase(0, size_bytes)
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for offset in range(0, size_bytes, _PIECE_BYTES):
            piece = file.read(_PIECE_BYTES)
            digest.update(piece)
            slots.write(0, offset, piece)
    entry = [version, size_bytes, hexlify(digest.digest()).decode()]
    if not slots.holds(0, entry):
        raise OSError("flash does not hold what was written")
    save({"active": 0, "floor": 0, "failed": 0, "trial": None, "slots": [entry, None]})
    os.remove(path)
    return entry[1:]


def _guard():
    """Reset a trial that has not reported in time, whatever its code does meanwhile."""
    from machine import Timer, reset

    def check(_timer):
        if REPORTED not in os.listdir():
            reset()

    Timer(0).init(mode=Timer.ONE_SHOT, period=TRIAL_MS, callback=check)


def _connect():
    """Start joining the wireless network; it goes on by itself, and joins again when it was lost."""
    import network

    with open(WIFI) as file:
        known = json.load(file)
    station = network.WLAN(network.STA_IF)
    station.active(True)
    station.connect(known["ssid"], known["password"])
