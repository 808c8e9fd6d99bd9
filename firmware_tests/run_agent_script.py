"""Runs under MicroPython and CPython alike: the real agent on a scripted port; prints every proof it publishes, in hex.

Arguments: a CBOR configuration, a JSON file {"messages": {step: [[topic, hex], ...]}, "steps": n}, an empty folder.
Time moves only by polls: one second each. Energy flows, 5 Wh a second, while the scripted contactor is closed.
"""
# ruff: noqa: ARG002, PTH123 - a stand-in takes what it is given; MicroPython has no pathlib

import json
import sys
from binascii import hexlify, unhexlify

from pile_edge.agent import Agent
from pile_edge.config import MAX_CONFIG_BYTES, check_config
from pile_edge.ports.micropython_storage import Storage
from pile_edge.signers import open_signer
from pile_shared.codec import decode

T0 = 1800000000000
MASK = (1 << 32) - 1


class Bus:
    """An ABB meter as unit 1, a relay as unit 2."""

    def __init__(self):
        self.energy_wh = 1234560
        self.is_on = False

    def read(self, unit, function, address, count):
        if unit == 2:
            return bytes((int(self.is_on),))
        if address == 20480:
            return (self.energy_wh // 10).to_bytes(8, "big")
        if address == 23316:
            return ((1800000 if self.is_on else 0) & MASK).to_bytes(4, "big")
        return (12345678).to_bytes(4, "big")

    def write_coil(self, unit, address, on):
        self.is_on = on

    def close(self):
        pass


class Port:
    """A port and a link in one."""

    connected = True
    inflight = 0

    def __init__(self, script, folder):
        self.script = script
        self.folder = folder
        self.bus = Bus()
        self.step = 0
        self.printed = set()

    def wall_ms(self):
        return T0 + 1000 * self.step

    def ticks_ms(self):
        return 1000 * self.step

    def ticks_diff(self, new, old):
        return new - old

    def time_status(self):
        return 2

    def log(self, text):
        pass

    def alive(self):
        """No watchdog here."""

    def keep(self, validators):
        """Keys need no tables here."""

    def reported(self):
        """No software is on trial here."""

    def collect(self):
        pass

    def firmware_hash(self):
        return bytes(32)

    def open_bus(self, section):
        return self.bus

    def open_storage(self, path):
        return Storage(self.folder)

    def open_signer(self, uri):
        return open_signer(uri)

    def open_link(self, section, client_id, subscriptions, will):
        return self

    def poll(self, timeout_ms):
        self.step += 1
        if self.bus.is_on:
            self.bus.energy_wh += 5
        return [(topic, unhexlify(text)) for topic, text in self.script["messages"].get(str(self.step), [])]

    def publish(self, topic, payload, retain=False):
        # Without receipts the agent sends everything again and again.
        if not retain and payload[-8:] not in self.printed:
            self.printed.add(payload[-8:])
            print(hexlify(payload).decode())
        return True


def main(config_path, script_path, folder):
    with open(config_path, "rb") as file:
        mapping = decode(file.read(), MAX_CONFIG_BYTES)
    with open(script_path) as file:
        script = json.load(file)
    port = Port(script, folder)
    agent = Agent(check_config(mapping, config_path.rsplit("/", 1)[0]), port)
    for _ in range(script["steps"]):
        agent.step()
    print("refused", sorted(agent.refused.items()))


main(*sys.argv[1:])
