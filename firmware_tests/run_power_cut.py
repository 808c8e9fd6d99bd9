"""Runs under MicroPython: the real agent through a scripted hour on littlefs, and a power cut at every flash operation.

Arguments: CBOR configuration, JSON script, shard, number of shards, kinds of cut a flash operation gets (0: all).

The hour runs once and its programs and erases are recorded. A power cut at the n-th leaves what the n - 1 before it
and some part of the n-th made of the flash: exactly that is mounted anew, and a new agent boots on it and goes on.
Prints what test_power_cut.py judges; a message is printed once, after that only its number:

    m number hex          a proof that was published
    a changes sequence    the journal's append returned after so many changes of the flash
    r changes through     its retire returned
    p changes number      a proof went out
    e energy changes full refused    the end of the hour; how often the journal was full, what the agent refused
    c n kind head retired first last energy number ...   after a cut: the journal as found at boot, what the register
                          shows in the end, and all proofs that came then
"""

import gc
import json
import sys
from binascii import hexlify, unhexlify

import vfs
from nor_flash import GEOMETRY, Flash, blank, erase, program
from scripted_pile import Hardware, Link, Port, receipt

from pile_edge.agent import Agent
from pile_edge.config import MAX_CONFIG_BYTES, check_config
from pile_edge.ports.micropython_storage import Storage
from pile_edge.session import IDLE
from pile_shared.codec import decode, encode
from pile_shared.cose import SESSION, SoftwareSigner, purpose, sign1
from pile_shared.platform import sha256
from pile_shared.proof import parse

BLOCK_BYTES = 512
STEP_MS = 5000
OUTAGE_MS = 60000
STEPS_AFTER = 32
STOP_AT = 20
PROGRAM_CUTS = ("before", "half", "bits", "tail")
ERASE_CUTS = ("before", "half", "noise")


class Observed(Flash):
    """Keeps each change, and what `observe` saw before it."""

    def __init__(self, data, observe):
        super().__init__(data, BLOCK_BYTES)
        self.observe = observe
        self.changes = []

    def writeblocks(self, block, buffer, offset=0):
        self.changes.append((block * BLOCK_BYTES + offset, bytes(buffer), self.observe()))
        return super().writeblocks(block, buffer, offset)

    def ioctl(self, op, arg):
        if op == 6:
            self.changes.append((arg * BLOCK_BYTES, None, self.observe()))
        return super().ioctl(op, arg)


def noise(count, seed):
    """Bytes that nobody wrote."""
    found = b""
    while len(found) < count:
        found += sha256(str((seed, len(found))).encode())
    return found[:count]


def interrupted(data, change, kind, seed):
    """The flash after a change that lost its power."""
    start, new, _ = change
    if kind == "before":
        return
    if new is None:
        if kind == "half":
            erase(data, start, BLOCK_BYTES // 2)
        else:  # bits between old and erased
            old, chance = data[start : start + BLOCK_BYTES], noise(BLOCK_BYTES, seed)
            data[start : start + BLOCK_BYTES] = bytes([a | b for a, b in zip(old, chance)])  # noqa: B905
        return
    half = len(new) // 2
    if kind == "half":
        program(data, start, new[:half])
    elif kind == "tail":  # a page buffer may go to the cells in any order
        program(data, start + half, new[half:])
    else:  # half of it, and of the rest some bits
        chance = noise(len(new) - half, seed)
        program(data, start, new[:half] + bytes([a | b for a, b in zip(new[half:], chance)]))  # noqa: B905


class Run:
    """Everything that stays the same from cut to cut."""

    def __init__(self, config_path, script):
        self.folder = config_path.rsplit("/", 1)[0]
        with open(config_path, "rb") as file:  # noqa: PTH123 - no pathlib on a board
            self.mapping = file.read()
        self.script = script
        self.validator = SoftwareSigner(unhexlify(script["validator"]))
        self.user = SoftwareSigner(unhexlify(script["user"]))
        self.numbers = {}
        self.settings = self.fresh_settings()

    def fresh_settings(self):
        """For one life: an agent lets go of what it has read."""
        return check_config(decode(self.mapping, MAX_CONFIG_BYTES), self.folder)

    def number_of(self, message):
        """A short name of a proof; prints the proof when it is new."""
        found = self.numbers.get(message)
        if found is None:
            found = self.numbers[message] = len(self.numbers)
            print("m", found, hexlify(message).decode())
        return found

    def receipt(self, messages):
        """The chain's word on the longest run of these."""
        newest = messages[-1]
        sequence = parse(newest)[1].sequence
        settings = self.settings
        return receipt(
            settings.chain_id, settings.validators, self.validator, settings.pile_id, sequence, sha256(newest)
        )

    def stop(self, contract, now_ms):
        """The user's word that ends a session, if one runs."""
        if contract is None:
            return []
        payload = encode([contract.contract_id, 2, now_ms, 0])
        return [(self.topic("session"), sign1(payload, self.user, purpose(SESSION, self.settings.chain_id)))]

    def topic(self, kind):
        return "pilechain/1/" + self.settings.chain_id + "/" + self.settings.pile_id + "/" + kind


def mount(flash):
    vfs.mount(vfs.VfsLfs2(flash, **GEOMETRY), "/flash")


def tell(journal, name, letter, flash):
    """Print, after each call of the journal's method that returned, how many changes the flash has seen."""
    method = getattr(journal, name)

    def told(sequence, *rest, **options):
        method(sequence, *rest, **options)
        print(letter, len(flash.changes), sequence)

    setattr(journal, name, told)


def hour(run, data):
    """The script without a cut: every change of the flash, and all that was sent."""
    hardware, sent = Hardware(run.script["start_ms"]), []
    flash = Observed(data, lambda: (hardware.now_ms, hardware.energy_mwh, hardware.is_on, len(sent)))

    def said(message):
        if message not in sent:
            sent.append(message)
            print("p", len(flash.changes), run.number_of(message))

    link = Link(hardware, STEP_MS, said)
    mount(flash)
    full = []
    log = lambda text: full.append(text) if "full" in text else None  # noqa: E731 - one line of a test's port
    agent = Agent(run.fresh_settings(), Port(hardware, Storage("/flash/journal"), link, log))
    tell(agent.journal, "append", "a", flash)
    tell(agent.journal, "retire", "r", flash)
    for step in range(1, run.script["steps"] + 1):
        link.queue = [(topic, unhexlify(text)) for topic, text in run.script["messages"].get(str(step), [])]
        if step in run.script["receipts"]:
            link.queue.append((run.topic("receipt"), run.receipt(sent)))
        agent.step()
    assert [name for name in Storage("/flash/journal").names() if name.endswith(".key-table.v1")], "no table of the key"
    vfs.umount("/flash")
    print("e", hardware.shown_wh, len(flash.changes), len(full), sorted(agent.refused.items()))
    return flash.changes, sent


def after_cut(run, data, hardware, sent):
    """Boot on what is left and go on: resume, two reports, the user's stop, a receipt; what the journal had, and what came."""
    found = []
    link = Link(hardware, STEP_MS, found.append)
    flash = Observed(data, lambda: (hardware.now_ms, hardware.energy_mwh, hardware.is_on, len(found)))
    mount(flash)
    try:
        agent = Agent(run.fresh_settings(), Port(hardware, Storage("/flash/journal"), link))
        journal = agent.journal
        pending = [sequence for sequence, _ in journal.pending(-1, 1000)]
        had = [journal.last_sequence or 0, journal.retired_through or 0]
        had += [pending[0], pending[-1]] if pending else [0, 0]
        for step in range(1, STEPS_AFTER + 1):
            if step == 3 and sent:
                link.queue.append((run.topic("receipt"), run.receipt(sent)))
            if step == STOP_AT:
                link.queue += run.stop(agent.session.contract, hardware.now_ms)
            if step == STEPS_AFTER - 2 and found:
                link.queue.append((run.topic("receipt"), run.receipt(found)))
            agent.step()
        assert agent.session.phase == IDLE, agent.session.phase
        assert not hardware.is_on
    finally:
        vfs.umount("/flash")
    return had, found, flash.changes


def main(config_path, script_path, shard, shards, limit):
    with open(script_path) as file:  # noqa: PTH123
        script = json.load(file)
    run = Run(config_path, script)
    empty = blank(script["blocks"] * BLOCK_BYTES)
    vfs.VfsLfs2.mkfs(Flash(empty, BLOCK_BYTES), **GEOMETRY)
    data = bytearray(empty)
    changes, sent = hour(run, data)
    done, data = data, empty
    for number in range(len(changes)):
        new = changes[number][1]
        if number % shards == shard:
            kinds = ERASE_CUTS if new is None else PROGRAM_CUTS
            for kind in [kinds[(number + extra) % len(kinds)] for extra in range(limit or len(kinds))]:
                cut(run, number, kind, bytearray(data), changes[number], sent)
        replay(data, changes[number])
    assert data == done
    print("ok")


def replay(data, change):
    start, new, _ = change
    if new is None:
        erase(data, start, BLOCK_BYTES)
    else:
        program(data, start, new)


def boot_after(run, data, change, sent):
    """Another life, a minute after the cut, with clock, register and relay as the cut left them."""
    hardware = Hardware(change[2][0])
    hardware.energy_mwh, hardware.is_on = change[2][1:3]
    hardware.advance(OUTAGE_MS)
    return hardware, after_cut(run, data, hardware, sent)


def cut(run, number, kind, data, change, sent):
    """One cut; after every other half operation also a second one, somewhere in the life that follows."""
    interrupted(data, change, kind, number)
    sent = sent[: change[2][3]]
    try:
        image = bytearray(data)
        hardware, (had, found, changes) = boot_after(run, data, change, sent)
        tell_cut(run, number, kind, had, hardware, found)
        if kind == "half" and changes and number % 4 < 2:
            second = number * 7 % len(changes)
            for done in changes[:second]:
                replay(image, done)
            interrupted(image, changes[second], kind, number)
            found = found[: changes[second][2][3]]
            hardware, (_, more, _) = boot_after(run, image, changes[second], sent + found)
            tell_cut(run, number, "twice", had, hardware, found + more)
    except Exception:
        print("cut at", number, kind)
        raise
    gc.collect()


def tell_cut(run, number, kind, had, hardware, found):
    numbers = [run.number_of(message) for message in found]
    print("c", number, kind, *had, hardware.shown_wh, *numbers)


main(sys.argv[1], sys.argv[2], *[int(text) for text in sys.argv[3:]])
