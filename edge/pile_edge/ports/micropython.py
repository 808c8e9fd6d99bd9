"""The port to MicroPython; its names are explained in ports/__init__.py."""
# ruff: noqa: ANN001, ANN202 - nothing checks types here: the modules it imports exist on a board only

import gc
import hashlib
import json
import os
import time
from time import ticks_diff, ticks_ms

import pile_shared
from pile_edge.key_tables import keep, keep_in
from pile_edge.ports.micropython_bus import open_bus
from pile_edge.ports.micropython_link import Link
from pile_edge.ports.micropython_storage import Storage
from pile_edge.signers import open_signer
from pile_shared.errors import PilechainError
from pile_shared.p256 import load_comb_table
from pile_shared.reading import TIME_INFORMATIVE, TIME_SYNCHRONISED, TIME_UNKNOWN

_EPOCH_OFFSET_MS = 946_684_800_000 if time.gmtime(0)[0] == 2000 else 0
_SET_AFTER_MS = 1_735_689_600_000  # 2025: a clock before this has never been set
_PIECE_BYTES = 256
COMB_BYTES = 16384

_WATCHDOG_MS = 120_000  # a certificate of a hundred attestations takes a board a minute

_clock = {"synchronised": False, "stopping": False, "dog": False}


def wall_ms():
    """Unix milliseconds by the board's clock."""
    return time.time_ns() // 1_000_000 + _EPOCH_OFFSET_MS


def time_status():
    """Synchronised after `synchronise`, else informative if the clock was ever set, else unknown."""
    if _clock["synchronised"]:
        return TIME_SYNCHRONISED
    return TIME_INFORMATIVE if wall_ms() >= _SET_AFTER_MS else TIME_UNKNOWN


def synchronise():
    """Set a board's clock by NTP, where the firmware has `ntptime`; whether that worked."""
    try:
        import ntptime

        ntptime.settime()
        _clock["synchronised"] = True
    except (ImportError, OSError) as error:
        log("clock not synchronised: " + repr(error))
    return _clock["synchronised"]


def load_curve_table():
    """Take the table for P-256 from the bundle, in ROMFS without a copy; without the file it is computed when needed."""
    try:
        with open(pile_shared.__file__.rsplit("/", 1)[0] + "/p256.bin", "rb") as file:
            load_comb_table(memoryview(file) if pile_shared.__file__.startswith("/rom/") else file.read(COMB_BYTES))
    except OSError:
        log("no table for P-256: computing it")


def log(text):
    """One line to stdout."""
    print(text)


collect = gc.collect


def firmware_hash():
    """SHA-256 over the bundle's files, by path."""
    root = pile_shared.__file__.rsplit("/", 2)[0]
    digest = hashlib.sha256()
    for folder in sorted(os.listdir(root)):
        if folder.startswith("pile_"):  # the packages, or the one they were linked into
            _hash_folder(digest, root, folder)
    return digest.digest()


def _hash_folder(digest, root, folder):
    for name in sorted(os.listdir(root + "/" + folder)):
        path = folder + "/" + name
        if os.stat(root + "/" + path)[0] & 0x4000:
            _hash_folder(digest, root, path)
            continue
        digest.update(hashlib.sha256(path.encode()).digest())
        digest.update(_file_hash(root + "/" + path))


def _file_hash(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while True:
            piece = file.read(_PIECE_BYTES)
            if not piece:
                return digest.digest()
            digest.update(piece)


def is_stopping():
    """Boards stop by losing power, or to be updated."""
    return _clock["stopping"]


def alive():
    """Feed the hardware watchdog, where there is one."""
    if _clock["dog"] is False:
        _clock["dog"] = _watchdog()
    if _clock["dog"]:
        _clock["dog"].feed()


def _watchdog():
    try:
        from machine import WDT
    except ImportError:
        return None
    return WDT(timeout=_WATCHDOG_MS)


def reported():
    """End a trial of new software well (pile_edge.board.loader): its marker is renamed, if there is one."""
    try:
        os.rename("trial", "reported")
    except OSError:
        pass


def take_offer(version, message):
    """Keep an offer for the updater, which runs after the next reset (pile_edge.board.loader tells what the files mean).

    Raises:
        PilechainError: `old_offer`: that version runs, failed, or a trial goes on; so a repeated offer restarts nothing.
    """
    try:
        with open("slots.json") as file:
            state = json.load(file)
    except (OSError, ValueError):
        raise PilechainError("this board has no slots", "no_slots")
    trial = state["trial"]
    running = state["slots"][state["active"] ^ bool(trial)][0]
    if version <= running or version == state["failed"] or (trial and "reported" not in os.listdir()):
        raise PilechainError("no newer than what runs, or tried before", "old_offer")
    with open("offer.cose", "wb") as file:
        file.write(message)
    _clock["stopping"] = True


def open_storage(folder):
    """The journal's folder, created if needed; the tables of the accounting nodes' keys lie there too."""
    storage = Storage(folder)
    keep_in(storage)
    return storage


def open_link(section, *, client_id, subscriptions, will):
    """The link of the `mqtt` section; connects when first polled."""
    return Link(section, client_id=client_id, subscriptions=subscriptions, will=will)


__all__ = ["collect", "keep", "open_bus", "open_signer", "ticks_diff", "ticks_ms"]
