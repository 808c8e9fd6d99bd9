"""`pile-edge ocmf`: the signed begin and end records of this pile's sessions, for drivers, operators and their software."""

import argparse
import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from pile_edge.commands import new_parser, usual_options
from pile_edge.config_file import load_config
from pile_edge.ocmf_records import Record, list_records, safe_xml
from pile_edge.signers import open_signer
from pile_shared.errors import ConfigError

_DESCRIPTION = """List the sessions of this pile, or show the OCMF records of one.

A record is text that the pile signed: a reading of its meter at the begin or end of a session. The XML file opens in the
S.A.F.E. Transparency Software, which checks both against the pile's public key and tells the energy between them."""

_EPILOG = """examples:
  pile-edge ocmf --config pile.toml                            the sessions
  pile-edge ocmf --config pile.toml 3f9a12c4                   the records of one, by the begin of its contract id
  pile-edge ocmf --config pile.toml 3f9a12c4 --xml bill.xml    for the Transparency Software"""
MIN_PREFIX_DIGITS = 4


def add_command(commands: Any) -> None:
    """Register `ocmf`."""
    parser = new_parser(
        commands, "ocmf", "signed begin and end records of sessions", description=_DESCRIPTION, epilog=_EPILOG
    )
    parser.add_argument("contract", nargs="?", help="the first digits of a contract id, at least 4")
    parser.add_argument("--xml", type=Path, metavar="FILE", help="write them for the Transparency Software")
    usual_options(parser, run)


def run(options: argparse.Namespace) -> int:
    """List or show; 0. ConfigError if there is no such session."""
    config = load_config(options.config)
    records = list_records(config.ocmf_path)
    if options.contract is not None:
        records = _of_contract(records, options.contract.lower(), config.ocmf_path)
    if options.xml is not None:
        if not records:
            raise ConfigError(f"no OCMF records in {config.ocmf_path} yet: nothing written")
        options.xml.write_text(safe_xml(records, open_signer(config.signer).public), encoding="ascii")
    if options.json:
        print(json.dumps([_fields(record) for record in records]))
    elif options.xml is not None:
        print(f"{options.xml}: {len(records)} records")
    elif options.contract is not None:
        for record in records:
            print(record.text())
    else:
        _print_sessions(records)
    return 0


def _of_contract(records: list[Record], prefix: str, folder: str) -> list[Record]:
    if len(prefix) < MIN_PREFIX_DIGITS:
        raise ConfigError(f"give at least {MIN_PREFIX_DIGITS} digits of the contract id")
    # Records name 40 of the 64 digits of a contract id.
    found = [record for record in records if record.contract.startswith(prefix[: len(record.contract)])]
    contracts = {record.contract for record in found}
    if len(contracts) != 1:
        problem = "several sessions begin" if contracts else "no session begins"
        raise ConfigError(f"{problem} with {prefix} in {folder}; see the list: pile-edge ocmf --config FILE")
    return found


def _fields(record: Record) -> dict[str, object]:
    return {
        "pagination": record.pagination,
        "sequence": record.sequence,
        "kind": record.kind,
        "contract": record.contract,
        "ocmf": record.text(),
    }


def _print_sessions(records: list[Record]) -> None:
    if not records:
        print("no session has left a record yet")
        return
    table = Table("record", "kind", "contract", "time (UTC)", "kWh")
    for record in records:
        reading = json.loads(record.text().split("|")[1], parse_float=str)["RD"][0]
        table.add_row(f"T{record.pagination}", record.kind, record.contract, reading["TM"], reading["RV"])
    Console().print(table)
