"""`pilechain export`: closed orders as files that other systems read, one by one or all of a time."""

import argparse
import json
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pile_coordinator.chain.genesis import Genesis
from pile_coordinator.config import load_config, load_genesis
from pile_coordinator.evidence.database import EvidenceError
from pile_coordinator.exports.bulk import CDR, CERTIFICATE, CSV, FORMATS, OCMF, OCPP, Report, Wanted, export_orders
from pile_coordinator.exports.ocmf import RecordFolder, RecordSources
from pile_coordinator.exports.operator import load_operator
from pile_coordinator.exports.sources import DataFolder, certificate_files, is_data_folder
from pile_coordinator.records import StoredRecords
from pile_coordinator.wallet_cli.values import order_id, time_ms
from pile_shared.errors import ConfigError, PilechainError
from pile_shared.units import MAX_TIME_MS

EXIT_FAILED = 1
MAX_SHOWN = 5  # orders of one pile whose records are missing

_DESCRIPTION = """\
Write closed orders as files that other systems read. Each order's certificate is verified first, against the genesis file.

  certificate  <contract>.cbor, for `pilechain verify`
  ocmf         <contract>.begin.ocmf, .end.ocmf and .xml, which the S.A.F.E. Transparency Software opens
  ocpp         <contract>.ocpp.json: the same records as SignedMeterValueType of OCPP 2.0.1
  cdr          <contract>.cdr.json: OCPI 2.2.1 charge detail records, of a dispute with the credit note
  csv          orders.csv and postings.csv
  parquet      orders.parquet and postings.parquet (needs pyarrow)

SOURCE is a certificate, a folder of certificates, a coordinator's configuration file, or its data folder. The coordinator may
be running; all is only read. OCMF records come from its data folder, where piles sent them; which are missing is said."""

_EPILOG = """\
Examples:
  pilechain export demo-out --out export
  pilechain export data --genesis genesis.json --closed-from 2026-11-01 --closed-until 2026-12-01 --out november
  pilechain export coordinator.toml --closed-from 2026-11-01 --operator operator.toml --out billing
  pilechain export data --genesis genesis.json --order 3f9a...c4 --operator operator.toml --ocmf piles --out one
Exit status: 0 all written, 1 some orders refused (each is named, with the reason), 2 called wrongly.
docs/exports.md has a sample of each format, and the operator's file."""


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `export` to the command line."""
    export = commands.add_parser(
        "export",
        help="write closed orders as OCMF, OCPI, OCPP, CSV or Parquet",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    export.add_argument(
        "sources", nargs="+", type=Path, metavar="SOURCE", help="certificates, coordinator.toml, a data folder"
    )
    export.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where to write; it is made")
    export.add_argument(
        "--genesis",
        type=Path,
        metavar="FILE",
        help="the genesis to pin (default: that of coordinator.toml, else genesis.json beside the first source)",
    )
    export.add_argument(
        "--evidence",
        default="",
        metavar="WHERE",
        help="a copy of evidence.sqlite, or the URL of a database server, whose user needs SELECT only (default: what"
        " coordinator.toml says, else evidence.sqlite in the data folder)",
    )
    export.add_argument(
        "--formats",
        type=_formats,
        metavar="LIST",
        help=f"of {','.join(FORMATS)} (default: certificate,csv, with OCMF records also ocmf,ocpp, with --operator also cdr)",
    )
    export.add_argument(
        "--order", type=order_id, metavar="ID", help="only this one, of a data folder: its contract or bid"
    )
    export.add_argument("--closed-from", type=time_ms, default=0, metavar="TIME", help="closed then or later (UTC)")
    export.add_argument(
        "--closed-until", type=time_ms, default=MAX_TIME_MS, metavar="TIME", help="closed before then (UTC)"
    )
    export.add_argument("--operator", type=Path, metavar="FILE", help="who you are, VAT and locations, for CDRs (TOML)")
    export.add_argument(
        "--ocmf",
        type=Path,
        metavar="FOLDER",
        help="copies of piles' folders, for what the coordinator lacks",
    )
    export.add_argument("--json", action="store_true", help="one JSON object, no progress")
    export.set_defaults(run=_export)


def _formats(text: str) -> frozenset[str]:
    chosen = frozenset(text.split(","))
    if not chosen <= set(FORMATS):
        raise argparse.ArgumentTypeError(f"formats are {', '.join(FORMATS)}, separated by commas")
    return chosen


def _export(options: argparse.Namespace) -> int:
    refused: list[tuple[str, PilechainError]] = []
    with ExitStack() as stack:
        genesis, data = _open(options)
        stored = None
        if data is None:
            found = certificate_files(options.sources)
        else:
            stack.callback(data.close)
            found = (
                [data.order(options.order)] if options.order else data.closed(options.closed_from, options.closed_until)
            )
            stored = data.records
        wanted = _wanted(options, stored)
        progress = _progress(quiet=options.json)
        stack.enter_context(progress)
        task = progress.add_task("", total=len(found))

        def on_order(name: str, error: PilechainError | None) -> None:
            progress.advance(task)
            if error is not None:
                refused.append((name, error))

        report = export_orders(found, genesis, options.out, wanted, on_order)
    _show(report, refused, options.out, as_json=options.json)
    return EXIT_FAILED if refused else 0


def _open(options: argparse.Namespace) -> tuple[Genesis, DataFolder | None]:
    """The genesis to pin, and the coordinator's data, if not certificates are the source."""
    first: Path = options.sources[0]
    config = load_config(first) if first.suffix == ".toml" else None
    folder, evidence = (config.data, str(config.evidence)) if config else (first, "")
    beside = first if first.is_dir() else first.parent
    genesis = (
        config.genesis if config and not options.genesis else load_genesis(options.genesis or beside / "genesis.json")
    )
    if not config and not is_data_folder(first, has_evidence=bool(options.evidence)):
        if options.order or options.evidence:
            option = "--order" if options.order else "--evidence"
            raise ConfigError(f"{option} is for a data folder, and {first} is none; give the certificate's file")
        return genesis, None
    if len(options.sources) > 1:
        raise ConfigError("give one coordinator.toml or data folder, or certificates, not both")
    try:
        return genesis, DataFolder(folder, genesis, options.evidence or evidence)
    except EvidenceError as error:
        raise ConfigError(error.message) from error  # nothing was exported: not as when some orders were refused


def _wanted(options: argparse.Namespace, stored: StoredRecords | None) -> Wanted:
    """The formats asked for; else those for which there is all they need."""
    formats: frozenset[str] | None = options.formats
    folder = RecordFolder(options.ocmf) if options.ocmf else None
    records = RecordSources(stored, folder) if stored or folder else None
    if formats is None:
        formats = frozenset(
            {CERTIFICATE, CSV} | ({OCMF, OCPP} if records else set()) | ({CDR} if options.operator else set())
        )
    return Wanted(
        formats=formats,
        closed_from_ms=options.closed_from,
        closed_until_ms=options.closed_until,
        operator=load_operator(options.operator) if options.operator else None,
        records=records,
    )


def _progress(*, quiet: bool) -> Progress:
    columns = TextColumn("orders"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    return Progress(*columns, console=Console(stderr=True), transient=True, disable=quiet)


def _show(report: Report, refused: list[tuple[str, PilechainError]], folder: Path, *, as_json: bool) -> None:
    console = Console(highlight=False, soft_wrap=True)
    if as_json:
        facts = {
            "folder": str(folder),
            "exported": report.exported,
            "with_ocmf": report.with_ocmf,
            "without_ocmf": report.without_ocmf,
            "missing_ocmf": [
                {"contract": row.contract, "pile": row.pile, "kinds": row.kinds} for row in report.missing
            ],
            "outside": report.outside,
            "refused": [{"name": name, "code": error.code, "reason": str(error)} for name, error in refused],
        }
        console.print_json(json.dumps(facts))
        return
    for name, error in refused:
        console.print(f"[red]REFUSED[/] {escape(name)}: {escape(str(error))}")
    outside = f", {report.outside} closed at other times" if report.outside else ""
    console.print(f"{folder}: {report.exported} orders, {report.with_ocmf} with OCMF records{outside}")
    if report.missing:
        _show_missing(console, report)


def _show_missing(console: Console, report: Report) -> None:
    """Pile by pile, because that is where the records are."""
    by_pile: dict[str, list[str]] = {}
    for row in report.missing:
        by_pile.setdefault(row.pile, []).append(f"{row.contract[:16]} ({', '.join(row.kinds)})")
    console.print(f"[yellow]MISSING[/] OCMF records of {report.without_ocmf} orders:")
    for pile, orders in sorted(by_pile.items()):
        more = f" and {len(orders) - MAX_SHOWN} more" if len(orders) > MAX_SHOWN else ""
        console.print(f"  {escape(pile)}: {', '.join(orders[:MAX_SHOWN])}{more}")
    console.print(
        "A board makes none. Another pile sends them when it is online: look at its log, and at the coordinator's for"
        ' "OCMF record from"; or copy its folder and name it with --ocmf (docs/exports.md). --json lists all.'
    )
