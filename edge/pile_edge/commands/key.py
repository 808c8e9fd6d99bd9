"""`pile-edge key`: the key ceremony. Shows what registering the pile needs; makes a key where there is none, replaces none."""

import argparse
import json
from typing import Any

from pile_edge.commands import new_parser, usual_options
from pile_edge.commands.registration import fingerprint
from pile_edge.config_file import load_config
from pile_edge.signers import open_signer
from pile_edge.signers.hardware import open_hardware_signer
from pile_shared.platform import sha256

_DESCRIPTION = """Show the pile's public key and its fingerprint, for registration.

A missing key file is made, readable by its owner only. A key in a TPM or a secure element is made only with --make.
A key that is there is never replaced: for another one, name another file, handle or slot in the configuration."""

_EPILOG = """the ceremony:
  1. on the pile:      pile-edge key --config pile.toml --make
  2. send the public key to the operator, by any way
  3. compare the fingerprint by telephone or on paper; only then the operator registers the pile"""


def add_command(commands: Any) -> None:
    """Register `key`."""
    parser = new_parser(
        commands, "key", "make the key if it is missing, and show it", description=_DESCRIPTION, epilog=_EPILOG
    )
    parser.add_argument("--make", action="store_true", help="make the key in a TPM or secure element if it has none")
    usual_options(parser, run)


def run(options: argparse.Namespace) -> int:
    """Show the key; 0. Errors are the signer's."""
    config = load_config(options.config)
    is_file = config.signer.startswith("file:")
    signer = (
        open_hardware_signer(config.signer, make=True) if options.make and not is_file else open_signer(config.signer)
    )
    if options.json:
        told = {
            "pile_id": config.pile_id,
            "signer": config.signer,
            "public": signer.public.hex(),
            "fingerprint": sha256(signer.public).hex(),
        }
        print(json.dumps(told))
        return 0
    print(f"pile         {config.pile_id}")
    print(f"kept in      {config.signer}")
    print(f"public key   {signer.public.hex()}")
    print(f"fingerprint  {fingerprint(signer.public)}")
    return 0
