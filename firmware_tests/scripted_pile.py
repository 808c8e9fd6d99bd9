"""A pile's surroundings as plain objects, for tests that run the real agent on either interpreter without a wire.

Time moves only when the agent polls its link, or when a test says so; energy flows only while the contactor is closed.
"""
# ruff: noqa: ARG002, ARG005 - a stand-in takes what it is given

from pile_edge.key_tables import keep, keep_in
from pile_edge.signers import open_signer
from pile_shared import merkle
from pile_shared.certificate import Certificate, Header, Inclusion, attest, validators_hash
from pile_shared.codec import encode
from pile_shared.platform import sha256
from pile_shared.terms import LEAF_RECEIPT

SERIAL = "12345678"
POWER_W = 6000
MASK = (1 << 32) - 1


class Hardware:
    """A clock, an ABB meter as unit 1 of a bus and a relay as unit 2; outlives the agent, as they do."""

    def __init__(self, now_ms, energy_wh=1234560, power_w=POWER_W):
        self.now_ms = now_ms
        self.energy_mwh = energy_wh * 1000
        self.power_w = power_w
        self.is_on = False

    def advance(self, ms):
        self.now_ms += ms
        if self.is_on:
            self.energy_mwh += self.power_w * ms // 3600

    @property
    def shown_wh(self):
        """What the register shows, in steps of 10 Wh."""
        return self.energy_mwh // 10000 * 10

    def read(self, unit, function, address, count):
        if unit == 2:
            return bytes((int(self.is_on),))
        if address == 20480:
            return (self.energy_mwh // 10000).to_bytes(8, "big")
        if address == 23316:
            return ((self.power_w * 100 if self.is_on else 0) & MASK).to_bytes(4, "big")
        return int(SERIAL).to_bytes(4, "big")

    def write_coil(self, unit, address, on):
        self.is_on = on

    def close(self):
        pass


class Link:
    """The other end of the wire: each poll takes `step_ms` and brings what is in `queue`; `said` is told of each proof."""

    connected = True
    inflight = 0

    def __init__(self, hardware, step_ms, said):
        self.hardware = hardware
        self.step_ms = step_ms
        self.said = said
        self.queue = []

    def poll(self, timeout_ms):
        self.hardware.advance(self.step_ms)
        queue, self.queue = self.queue, []
        return queue

    def publish(self, topic, payload, retain=False):
        if not retain:
            self.said(payload)
        return True

    def close(self):
        pass


class Port:
    """The agent's port over `Hardware`, any storage and any link."""

    def __init__(self, hardware, storage, link, log=None):
        self.hardware = hardware
        self.storage = storage
        self.link = link
        self.log = log or (lambda text: None)

    def wall_ms(self):
        return self.hardware.now_ms

    def ticks_ms(self):
        return self.hardware.now_ms

    def ticks_diff(self, new, old):
        return new - old

    def time_status(self):
        return 2

    def alive(self):
        """No watchdog here."""

    def reported(self):
        """No software is on trial here."""

    def collect(self):
        pass

    def firmware_hash(self):
        return bytes(32)

    def open_bus(self, section):
        return self.hardware

    def open_storage(self, path):
        keep_in(self.storage)
        return self.storage

    def keep(self, validators):
        keep(validators)

    def open_signer(self, uri):
        return open_signer(uri)

    def open_link(self, section, client_id, subscriptions, will):
        return self.link


def receipt(chain_id, validators, signer, pile_id, through, digest):
    """The message that tells a pile through which proof the chain has it; `signer` is the only validator's."""
    leaf = encode([LEAF_RECEIPT, pile_id, through, digest])
    names = validators_hash(validators)
    header = Header(
        chain_id=chain_id,
        height=through,
        time_ms=1800000000000,
        proposer="node-0",
        tx_count=0,
        result_count=1,
        previous=sha256(b"previous"),
        tx_root=merkle.EMPTY_ROOT,
        result_root=merkle.root([leaf]),
        state_root=sha256(b"state"),
        validators_hash=names,
        next_validators_hash=names,
    ).encoded()
    certificate = Certificate(header, [[0, attest(header, signer, chain_id)]])
    return Inclusion(certificate, leaf, 0, []).encoded()
