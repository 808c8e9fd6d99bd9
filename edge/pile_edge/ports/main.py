"""The program on a board: `main(["config.cbor", "run" | "key"])`.

A board's own main.py is two lines: `from pile_edge.ports.main import main` and `main(["config.cbor", "run"])`; the
unix build runs `micropython -m pile_edge.ports.main config.cbor run`.
"""
# ruff: noqa: ANN001, ANN201 - nothing checks types here: it imports the MicroPython port

import gc
import sys
from binascii import hexlify

from pile_edge.config import MAX_CONFIG_BYTES, Config
from pile_edge.ports import micropython as port
from pile_shared.codec import decode
from pile_shared.errors import PilechainError
from pile_shared.platform import sha256

USAGE = "usage: main config.cbor run|key"


def load(path):
    """The configuration in a CBOR file made by `pile-edge compile-config`."""
    with open(path, "rb") as file:
        data = file.read(MAX_CONFIG_BYTES + 1)
    return Config(decode(data, MAX_CONFIG_BYTES), path.rpartition("/")[0])


def show_key(config):
    """Print what registering this pile needs; makes the key if there is none."""
    public = port.open_signer(config.signer).public
    print("pile " + config.pile_id)
    print("public " + hexlify(public).decode())
    print("fingerprint " + hexlify(sha256(public)).decode())


def run(config):
    """Run the agent until power is lost or an error that only a restart can mend."""
    gc.collect()
    from pile_edge.agent import Agent

    port.synchronise()
    Agent(config, port).run(port.is_stopping)


def main(arguments):
    """Do what the arguments say; 0, or 2 if the configuration or the arguments are wrong."""
    if len(arguments) != 2 or arguments[1] not in ("run", "key"):
        print(USAGE)
        return 2
    try:
        config = load(arguments[0])
        gc.collect()
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
