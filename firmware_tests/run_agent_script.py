"""Runs under MicroPython and CPython alike: the real agent in scripted surroundings; prints every proof it publishes, in hex.

Arguments: a CBOR configuration, a JSON file {"start_ms", "messages": {step: [[topic, hex], ...]}, "steps": n}, an empty folder.
Time moves only by polls: one second each. Energy flows, 5 Wh a second, while the scripted contactor is closed.
"""
# ruff: noqa: PTH123 - MicroPython has no pathlib

import json
import sys
from binascii import hexlify, unhexlify

from scripted_pile import Hardware, Link, Port

from pile_edge.agent import Agent
from pile_edge.config import MAX_CONFIG_BYTES, check_config
from pile_edge.ports.micropython_storage import Storage
from pile_shared.codec import decode

STEP_MS = 1000
POWER_W = 18000


def main(config_path, script_path, folder):
    with open(config_path, "rb") as file:
        mapping = decode(file.read(), MAX_CONFIG_BYTES)
    with open(script_path) as file:
        script = json.load(file)
    sent = []

    def said(message):
        # Without receipts the agent sends everything again and again.
        if message not in sent:
            sent.append(message)
            print(hexlify(message).decode())

    hardware = Hardware(script["start_ms"], power_w=POWER_W)
    link = Link(hardware, STEP_MS, said)
    settings = check_config(mapping, config_path.rsplit("/", 1)[0])
    agent = Agent(settings, Port(hardware, Storage(folder), link))
    for step in range(1, script["steps"] + 1):
        link.queue = [(topic, unhexlify(text)) for topic, text in script["messages"].get(str(step), [])]
        agent.step()
    print("refused", sorted(agent.refused.items()))


main(*sys.argv[1:])
