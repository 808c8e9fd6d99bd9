"""`pile-edge verify-journal`: the journal of a pile, or a copy of one, checked offline."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from pile_edge.commands import new_parser, usual_options
from pile_edge.config_file import load_config
from pile_edge.journal_check import Report, check_journal
from pile_edge.signers import open_signer
from pile_shared.errors import ConfigError

_DESCRIPTION = """Check a journal offline: CRC and order of every record, the chain of hashes, every signature, and that
readings never run backwards. Reads only; a journal in use may be looked at."""
_EPILOG = """examples:
  pile-edge verify-journal --config pile.toml
  pile-edge verify-journal --config pile.toml --json
  pile-edge verify-journal --journal copy/journal --public 04bd17... --chain north-1a2b3c4d

exit codes: 0 all of it checks, 1 something does not (each is listed), 2 wrong arguments, or no journal there"""


def add_command(commands: Any) -> None:
    """Add `verify-journal` to the `pile-edge` command."""
    parser = new_parser(
        commands,
        "verify-journal",
        "check a journal offline and say what it holds",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="the pile's TOML file; tells journal, key and chain"
    )
    parser.add_argument("--journal", type=Path, metavar="FOLDER", help="this journal instead of the configured one")
    parser.add_argument("--public", metavar="HEX", help="this public key, 130 digits, instead of the configured one")
    parser.add_argument("--chain", metavar="ID", help="this chain instead of the configured one")
    usual_options(parser, run, config=None)


def run(options: argparse.Namespace) -> int:
    """Check and show; 0 if all of it checks, else 1. ConfigError if it is not said what to check."""
    report = check_journal(*_subject(options), show_progress=not options.json)
    if options.json:
        print(json.dumps({"ok": not report.problems, **asdict(report)}))
    else:
        _show(report)
    return 1 if report.problems else 0


def _subject(options: argparse.Namespace) -> tuple[Path, bytes, str]:
    """Folder, public key and chain, from the configuration where the options do not say."""
    given = (options.journal, options.public, options.chain)
    config = None if options.config is None else load_config(options.config)
    if config is None and None in given:
        raise ConfigError("verify-journal needs --config, or --journal, --public and --chain together")
    if options.public is not None:
        try:
            public = bytes.fromhex(options.public)
        except ValueError:
            public = b""
        if len(public) != 65:
            raise ConfigError("--public must be 130 hexadecimal digits, as `pile-edge key` shows them")
    else:
        assert config is not None
        kind, _, path = config.signer.partition(":")
        if kind == "file" and not Path(path).exists():
            raise ConfigError(f"{path}: no key; give the public one by --public (the operator's registration has it)")
        public = open_signer(config.signer).public
    folder = options.journal if options.journal is not None or config is None else Path(config.journal_path)
    return folder, public, options.chain if options.chain is not None or config is None else config.chain_id


def _show(report: Report) -> None:
    console = Console(highlight=False)
    table = Table(show_header=False, box=None, pad_edge=False)
    events = ", ".join(f"{count} {name}" for name, count in sorted(report.events.items()))
    table.add_row("proofs", f"{report.records}: {report.first} to {report.last}" if report.records else "none")
    table.add_row("of which", events or "-")
    table.add_row("sessions", f"{report.sessions} begun and ended")
    table.add_row("receipts", "none" if report.retired is None else f"through {report.retired}")
    table.add_row("waiting", f"{report.pending} for a receipt")
    table.add_row("register", f"+{report.energy_wh} Wh, unix ms {report.from_ms} to {report.to_ms}")
    table.add_row("on flash", f"{report.size_bytes} bytes in {report.segments} segments")
    console.print(table)
    for note in report.notes:
        console.print(f"note: {note}", style="yellow", soft_wrap=True, markup=False)
    for problem in report.problems:
        console.print(f"wrong: {problem}", style="red", soft_wrap=True, markup=False)
    if report.problems:
        console.print(
            "Keep a copy of the folder before anything else; the coordinator has every proof a receipt covers."
        )
    else:
        console.print("every record, hash and signature checks", style="green")
