"""`pile-edge provision`: a pile's configuration from answers or options, its key, its registration request."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pile_edge.commands import new_parser, usual_options
from pile_edge.commands.registration import ceremony, fingerprint, write_request
from pile_edge.config_file import load_config
from pile_edge.meters.catalogue import profile_ids
from pile_shared.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

_EPILOG = """Asked for what no option gives. The operator's file holds what is the same for all its piles (chain_id, validators,
mqtt, update_public), as TOML; it comes from your operator.

examples:
  pile-edge provision --config pile.toml --operator operator.toml
  pile-edge provision --config pile.toml --operator operator.toml --pile garage-17 --profile eastron-sdm630 \\
      --serial 63000117 --rated-power 7000 --device /dev/ttyUSB0 --relay-unit 2
  pile-edge provision --config pile.toml --operator operator.toml --board      key: on the board, by `pile-edge flash`
  pile-edge provision --config pile.toml                                       the file is there: key and request only"""

_TEMPLATE = """# {pile_id}: made by `pile-edge provision`; every key is explained in docs/pile.md
pile_id = {pile_id_q}
signer = "file:pile.key"

{operator}
[bus]
kind = "rtu"
{device}baud = {baud}
parity = {parity_q}

[meter]
profile = {profile_q}
unit = {unit}
serial = {serial_q}
rated_power_w = {rated_power}

[control]
kind = "coil"
unit = {relay_unit}
coil = 0

[journal]
path = "journal"
"""


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `provision` to the commands of `pile-edge`."""
    parser = new_parser(
        commands,
        "provision",
        "make a pile's configuration, its key and its registration request",
        description="Make a pile's configuration, its key (on this device) and its registration request.",
        epilog=_EPILOG,
    )
    add = parser.add_argument
    add("--operator", type=Path, metavar="FILE", help="the operator's part of the configuration, TOML")
    add("--pile", metavar="ID", help="what the pile is called")
    add("--profile", metavar="ID", help="meter profile; `pile-edge scan` finds it")
    add("--unit", type=int, default=1, metavar="N", help="bus address of the meter (%(default)s)")
    add("--serial", metavar="TEXT", help="as printed on the meter")
    add("--rated-power", type=int, metavar="W", help="the most that can flow")
    add("--device", metavar="PATH", help="serial port of the bus; not for a board")
    add("--pins", metavar="TX,RX[,DE]", help="pins of the bus; for a board")
    add("--baud", type=int, default=9600, metavar="N", help="(%(default)s)")
    add("--parity", choices=("N", "E", "O"), default="N", help="(%(default)s)")
    add("--relay-unit", type=int, metavar="N", help="bus address of the relay that closes the contactor")
    add("--board", action="store_true", help="for an ESP32: makes no key here")
    add("--request", type=Path, metavar="FILE", help="registration request to write (CONFIG with .registration.json)")
    usual_options(parser, run, config="TOML file to make, or one that is there")


def run(options: argparse.Namespace) -> int:
    """Make what is missing; 0."""
    if options.operator is not None:
        if options.config.exists():
            raise ConfigError(f"{options.config} is there already: without --operator it is used as it is")
        _write_config(options, _ask if sys.stdin.isatty() else _refuse)
    elif not options.config.exists():
        raise ConfigError(
            f"{options.config} is not there\n  check: its name; to make it, give --operator FILE, from your operator"
        )
    config = load_config(options.config)
    if options.board:
        next_step = f"next: pile-edge flash --port /dev/ttyUSB0 --firmware FILE --config {options.config}"
        print(json.dumps({"pile_id": config.pile_id, "config": str(options.config)}) if options.json else next_step)
        return 0
    from pile_edge.signers import open_signer

    public = open_signer(config.signer).public
    request = options.request or options.config.with_suffix(".registration.json")
    write_request(request, config, public)
    if options.json:
        found = {"pile_id": config.pile_id, "public": public.hex(), "fingerprint": fingerprint(public)}
        print(json.dumps({**found, "config": str(options.config), "request": str(request)}))
    else:
        print(ceremony(config.pile_id, public, request))
    return 0


def _write_config(options: argparse.Namespace, ask: Callable[[str, str], str]) -> None:
    """Write the file from options and answers; what is wrong is removed again, and said."""
    try:
        operator = options.operator.read_text()
    except OSError as error:
        raise ConfigError(f"{options.operator}: {error.strerror}") from error
    top, tables = _split(operator)
    values = {
        "pile_id": options.pile or ask("--pile", "what is the pile called (a-z, 0-9, -)"),
        "profile": options.profile or ask("--profile", f"meter profile, one of {', '.join(profile_ids())}"),
        "serial": options.serial or ask("--serial", "serial number printed on the meter"),
        "rated_power": options.rated_power or ask("--rated-power", "most power that can flow, in W"),
        "relay_unit": options.relay_unit or ask("--relay-unit", "bus address of the relay"),
        "unit": options.unit,
        "baud": options.baud,
        "parity": options.parity,
    }
    text = _TEMPLATE.format(
        operator=tables,
        device=_device(options, ask),
        **values,
        **{f"{name}_q": json.dumps(str(values[name])) for name in ("pile_id", "profile", "serial", "parity")},
    )
    head, _, rest = text.partition("\n")
    options.config.parent.mkdir(parents=True, exist_ok=True)
    options.config.touch(0o600)  # the operator's part may have the broker's password
    options.config.write_text(f"{head}\n{top}{rest}")
    try:
        load_config(options.config)
    except ConfigError:
        options.config.unlink()
        raise


def _device(options: argparse.Namespace, ask: Callable[[str, str], str]) -> str:
    if not options.board:
        return f"device = {json.dumps(options.device or ask('--device', 'serial port, like /dev/ttyUSB0'))}\n"
    pins = (options.pins or ask("--pins", "pins of the bus: TX,RX or TX,RX,DE")).split(",")
    names = ("tx_pin", "rx_pin", "de_pin")
    if not 2 <= len(pins) <= 3 or not all(pin.strip().isdigit() for pin in pins):
        raise ConfigError("--pins must be like 17,16 or 17,16,4")
    lines = [f"{name} = {int(pin)}\n" for name, pin in zip(names, pins, strict=False)]
    return 'device = "uart:1"\n' + "".join(lines)


def _split(text: str) -> tuple[str, str]:
    """Keys that stand above all tables, and the tables: TOML wants them in that order."""
    lines = text.splitlines(keepends=True)
    first = next((i for i, line in enumerate(lines) if line.lstrip().startswith("[")), len(lines))
    return "".join(lines[:first]).rstrip() + "\n", "".join(lines[first:])


def _ask(_option: str, question: str) -> str:
    return input(f"{question}: ").strip()


def _refuse(option: str, question: str) -> str:
    raise ConfigError(f"{option} is missing: {question}")
