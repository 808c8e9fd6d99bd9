"""The program on a board: `main(["config.cbor", "run" | "key"])`.

A board's own main.py is two lines: `from pile_edge.ports.main import main` and `main(["config.cbor", "run"])`; the
unix build runs `micropython -m pile_edge.ports.main config.cbor run`.
"""
# ruff: noqa: ANN001, ANN201, E402 - nothing checks types here: it imports the MicroPython port

import gc

# Before all else, and kept: sweeping up every 2 kB keeps what stays close together. Measured on 32 bits from ROMFS: with it
# the agent runs in 68 kB, with the default it does not.
gc.threshold(2048)

import os
import sys
from binascii import hexlify

import pile_edge
from pile_edge.ports import micropython as port
from pile_shared.codec import decode
from pile_shared.errors import PilechainError
from pile_shared.platform import sha256

USAGE = "usage: main config.cbor run|key"


def load(path):
    """The settings in a CBOR file made by `pile-edge compile-config`."""
    from pile_edge.config import MAX_CONFIG_BYTES, check_config

    size_bytes = os.stat(path)[6]  # read(n) takes n bytes of heap, however short the file
    with open(path, "rb") as file:
        data = file.read(min(size_bytes, MAX_CONFIG_BYTES + 1))
    settings = check_config(decode(data, MAX_CONFIG_BYTES), path.rpartition("/")[0])
    # It is not needed again, and 2 kB of a heap of 64 are many.
    del sys.modules["pile_edge.config"]
    del pile_edge.config
    return settings


def show_key(config):
    """Print what registering this pile needs; makes the key if there is none."""
    public = port.open_signer(config.signer).public
    print("pile " + config.pile_id)
    print("public " + hexlify(public).decode())
    print("fingerprint " + hexlify(sha256(public)).decode())


def run(config):
    """Run the agent until power is lost or an error that only a restart can mend."""
    from pile_edge.agent import Agent

    port.synchronise()
    Agent(config, port).run(port.is_stopping)


def main(arguments):
    """Do what the arguments say; 0, or 2 if the configuration or the arguments are wrong."""
    if len(arguments) != 2 or arguments[1] not in ("run", "key"):
        print(USAGE)
        return 2
    try:
        port.load_curve_table()
        config = load(arguments[0])
        if arguments[1] == "key":
            show_key(config)
        else:
            run(config)
    except (PilechainError, OSError) as error:
        print(arguments[0] + ": " + str(error))
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
