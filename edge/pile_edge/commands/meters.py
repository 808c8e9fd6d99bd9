"""`pile-edge meters`, `scan` and `read`: which meters there are, which are on this bus, and what one shows."""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pile_edge.advice import advice
from pile_edge.commands import new_parser, usual_options
from pile_edge.config_file import load_config
from pile_edge.meters import catalogue
from pile_edge.meters.scan import UNKNOWN, Finding, Line, Plan, Report, scan, usual_lines
from pile_shared.errors import BusError, ConfigError

if TYPE_CHECKING:
    from rich.console import Console

EXIT_OK, EXIT_FAILED = 0, 1
_ATTEMPTS_NOTE = "each reading is tried three times"
_MAX_UNIT = 247


def add_command(commands: Any) -> None:
    """Add the three to a parser's subcommands."""
    meters = commands.add_parser("meters", help="the meters there is a profile for", description=_METERS)
    meters.add_argument("words", nargs="*", metavar="WORD", help="only those with each of these in id, maker or model")
    _profiles_option(meters)
    form = meters.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="whole profiles, for programs")
    form.add_argument("--markdown", action="store_true", help="the table as docs/meters.md has it")
    meters.set_defaults(run=_meters)
    scanning = commands.add_parser("scan", help="find and name the meters on a bus", description=_SCAN)
    place = scanning.add_mutually_exclusive_group(required=True)
    place.add_argument("--port", metavar="DEVICE", help="serial adapter, such as /dev/ttyUSB0")
    place.add_argument("--tcp", metavar="HOST[:PORT]", help="meter or gateway on the network; port 502 if not given")
    scanning.add_argument("--addresses", type=_units, metavar="LIST", help="such as 1-20,36; default 1-10, on TCP 1")
    scanning.add_argument("--bauds", type=_numbers, metavar="LIST", help="such as 9600,19200; default: the usual ones")
    scanning.add_argument("--parities", type=_parities, metavar="LIST", help="such as N,E; default: the usual ones")
    scanning.add_argument(
        "--timeout-ms", type=int, default=200, help="how long a meter may take to answer; default 200"
    )
    scanning.add_argument(
        "--gap-ms", type=int, help="silence between questions; default: what the slowest known meter needs"
    )
    scanning.add_argument("--budget-s", type=int, default=600, help="stop after this time; default 600")
    _profiles_option(scanning)
    usual_options(scanning, _scan, config=None)
    reading = new_parser(commands, "read", "one decoded reading of the meter", description=_READ, epilog=_READ_EPILOG)
    usual_options(reading, _read)


_METERS = "List the meter profiles: those that come with this program, and with --profiles your own."
_SCAN = "Ask every address at every line setting who is there, name the meters, and print what to configure."
_READ = f"Read the configured meter once and print what a proof would hold; {_ATTEMPTS_NOTE}."

_READ_EPILOG = """Compare energy with the meter's own display. On a serial line it takes turns with a running agent; a meter or
gateway on the network may allow one connection only: stop the pile's service first.

examples:
  pile-edge read --config pile.toml
  pile-edge read --config pile.toml --json

exit codes: 0 a reading, 1 none (what to check is said), 2 wrong configuration"""


def _profiles_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--profiles", type=Path, metavar="FOLDER", help="your own profiles, one JSON file each")


def meter_row(mapping: Mapping[str, Any]) -> dict[str, str]:
    """What a table says of a profile."""
    places = []
    if "line" in mapping:
        line = mapping["line"]
        doubt = "?" if line["known"] == "assumed" else ""
        places.append(f"{Line(line['baud'], line['parity'], line['stopbits'])}{doubt} @{line['unit']}")
    if "tcp" in mapping:
        places.append(f"TCP :{mapping['tcp']['port']} @{mapping['tcp']['unit']}")
    energy = mapping["energy_import"]
    base = "model+" if "sunspec" in mapping else ""
    return {
        "id": mapping["id"],
        "meter": f"{mapping['manufacturer']} {mapping['model']}",
        "phases": str(mapping["phases"]),
        "as delivered": ", ".join(places),
        "energy": f"FC{energy.get('function', mapping['function'])} {base}{energy['address']:#06x} {energy['type']}"
        + ("" if mapping["counts"] == "import" else ", total")
        + ("" if mapping["word_order"] == "big" else ", low word first"),
        "named by": "SunSpec" if "sunspec" in mapping else "register" if "identify" in mapping else "readings",
    }


def _meters(options: argparse.Namespace) -> int:
    mappings = catalogue.profile_mappings(options.profiles)
    words = [word.lower() for word in options.words]
    shown = [m for m in mappings if all(w in f"{m['id']} {m['manufacturer']} {m['model']}".lower() for w in words)]
    if options.json:
        print(json.dumps(shown))
        return EXIT_OK if shown else EXIT_FAILED
    if not shown:
        print(
            f"pile-edge: none of {len(mappings)} profiles has {' '.join(options.words)}\n  check: fewer words; "
            "`pile-edge meters` lists all; docs/meters.md tells how to add one of your own",
            file=sys.stderr,
        )
        return EXIT_FAILED
    if options.markdown:
        print(markdown_table(shown))
        return EXIT_OK
    _print_table([meter_row(mapping) for mapping in shown], f"{len(shown)} of {len(mappings)} meters")
    if len(shown) <= 3:
        _print_notes(shown)
    return EXIT_OK


def markdown_table(mappings: Sequence[Mapping[str, Any]]) -> str:
    """The table of `pile-edge meters` in Markdown."""
    rows = [meter_row(mapping) for mapping in mappings]
    lines = [list(rows[0]), ["---"] * len(rows[0]), *([f"`{row['id']}`", *list(row.values())[1:]] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _print_notes(mappings: Sequence[Mapping[str, Any]]) -> None:
    for mapping in mappings:
        print(f"\n{mapping['id']}")
        for source in mapping["source"]:
            print(f"  source  {source}")
        for trap in mapping["traps"]:
            print(f"  trap    {trap}")


def _print_table(rows: Sequence[Mapping[str, str]], title: str) -> None:
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, header_style="bold", pad_edge=False)
    for heading in rows[0]:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*row.values())
    _console().print(table)


def _console(stderr: bool = False) -> "Console":
    from rich.console import Console

    # Into a pipe or a file a table keeps its columns; only a terminal has a width to fit into.
    console = Console(stderr=stderr, highlight=False, markup=False)
    return console if console.is_terminal else Console(stderr=stderr, highlight=False, markup=False, width=160)


def _scan(options: argparse.Namespace) -> int:
    from pile_edge.ports.cpython_bus import open_bus

    mappings = catalogue.profile_mappings(options.profiles)
    plan = _plan(options, mappings)
    if not options.json:
        print(_estimate(plan), file=sys.stderr, flush=True)
    try:
        report = _with_progress(plan, mappings, open_bus, quiet=options.json)
    except BusError as error:
        raise BusError(f"{error.message}\n  check: {advice(error, plan.bus)}", error.code) from error
    if options.json:
        print(json.dumps(_report_json(report)))
    else:
        _print_report(report, plan)
    return EXIT_OK if any(found.sure != UNKNOWN for found in report.findings) else EXIT_FAILED


def _plan(options: argparse.Namespace, mappings: Sequence[Mapping[str, Any]]) -> Plan:
    gap_ms = max(mapping["min_gap_ms"] for mapping in mappings) if options.gap_ms is None else options.gap_ms
    limits = {"timeout_ms": options.timeout_ms, "gap_ms": gap_ms, "budget_s": options.budget_s}
    if options.tcp:
        host, _, port = options.tcp.rpartition(":") if ":" in options.tcp else (options.tcp, "", "502")
        if not port.isdecimal() or not 1 <= int(port) <= 65_535:
            raise ConfigError(f"--tcp must be HOST or HOST:PORT, not {options.tcp}")
        bus: dict[str, object] = {"kind": "tcp", "host": host, "port": int(port)}
        return Plan(bus, [], options.addresses or [1], **limits)
    if 0 in (options.addresses or []):
        raise ConfigError("--addresses: on a serial line 0 is everybody, and nobody answers; they go from 1 to 247")
    usual = usual_lines(mappings)
    bauds = options.bauds or list(dict.fromkeys(line.baud for line in usual))
    parities = options.parities or list(dict.fromkeys(line.parity for line in usual))
    lines = [Line(baud, parity, 1) for baud in bauds for parity in parities]
    if not options.bauds and not options.parities:
        lines = usual
    return Plan({"kind": "rtu", "device": options.port}, lines, options.addresses or list(range(1, 11)), **limits)


def _estimate(plan: Plan) -> str:
    seconds = -(-plan.silent_ms() // 1000)
    settings = f"{len(plan.lines)} line settings, " if plan.lines else ""
    return (
        f"{settings}{len(plan.units)} addresses: about {seconds} s if nobody answers, "
        f"some seconds more for each unit found; stops after {plan.budget_s} s"
    )


def _with_progress(plan: Plan, mappings: Sequence[Mapping[str, Any]], open_bus: Any, *, quiet: bool) -> Report:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = _console(stderr=True)
    if quiet or not console.is_terminal:
        return scan(plan, mappings, open_bus)
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None)
        tell: Callable[[int, int, str], None] = lambda done, total, what: bar.update(  # noqa: E731 - one line of glue
            task, completed=done, total=total, description=what
        )
        return scan(plan, mappings, open_bus, tell)


def _print_report(report: Report, plan: Plan) -> None:
    if report.findings:
        _print_table([_finding_row(found) for found in report.findings], f"{len(report.findings)} units answered")
    for found in report.findings:
        if found.note:
            print(f"address {found.unit}: {found.note}")
    for unit, line in report.garbled:
        print(f"address {unit} at {line or 'TCP'}: answers that are no frames; check wiring, parity, doubled addresses")
    for line, reason in report.refused:
        print(f"{line}: this adapter cannot be set so ({reason})")
    if report.unfinished:
        print(f"not finished: {report.unfinished}; use --budget-s, fewer --addresses or --bauds")
    if not report.findings:
        silence = BusError("nobody answered", "timeout")
        print(f"nobody answered\n  check: {advice(silence, {**plan.bus, 'baud': 'the baud', 'parity': 'you tried'})}")
    for found in report.findings:
        if found.profiles:
            print(f"\n# address {found.unit}, {found.sure}: for the pile's configuration\n{config_lines(found, plan)}")


def _finding_row(found: Finding) -> dict[str, str]:
    reading = "" if found.energy_wh is None else f"{found.energy_wh:,} Wh, {found.power_w} W"
    return {
        "address": str(found.unit),
        "line": str(found.line or "TCP"),
        "meter": ", ".join(found.profiles) or "?",
        "sure": found.sure,
        "serial": found.serial,
        "reading": reading,
    }


def config_lines(found: Finding, plan: Plan) -> str:
    """The `bus` and `meter` sections for a meter that was found, in TOML; what a scan cannot know is left to fill in."""
    bus = dict(plan.bus)
    if found.line:
        bus.update(baud=found.line.baud, parity=found.line.parity)
    meter: dict[str, object] = {"profile": found.profiles[0], "unit": found.unit}
    meter["serial"] = found.serial or "as printed on the meter"
    if found.model_address is not None:
        meter["model_address"] = found.model_address
    if found.word_order:
        meter["word_order"] = found.word_order
    lines = ["[bus]", *(f"{key} = {json.dumps(value)}" for key, value in bus.items()), ""]
    lines += ["[meter]", *(f"{key} = {json.dumps(value)}" for key, value in meter.items())]
    return "\n".join([*lines, "rated_power_w = 11000  # the most that can flow here"])


def _report_json(report: Report) -> dict[str, object]:
    findings = [{**vars(found), "line": found.line._asdict() if found.line else None} for found in report.findings]
    garbled = [{"unit": unit, "line": line._asdict() if line else None} for unit, line in report.garbled]
    refused = [{"line": line._asdict(), "reason": reason} for line, reason in report.refused]
    return {"findings": findings, "garbled": garbled, "refused": refused, "unfinished": report.unfinished}


def _read(options: argparse.Namespace) -> int:
    from pile_edge.meters.decode import MeterReader
    from pile_edge.ports import cpython as port

    config = load_config(options.config)
    bus = port.open_bus(config.bus)
    reader = MeterReader(bus, config.profile, config.unit)
    try:
        sample = reader.read()
        serial = reader.serial()
    except BusError as error:
        raise BusError(f"{error.message}\n  check: {advice(error, config.bus, config.unit)}", error.code) from error
    finally:
        bus.close()
    reading = {"time_ms": port.wall_ms(), "energy_wh": sample.energy_wh, "power_w": sample.power_w}
    if options.json:
        more = {"raw": sample.raw.hex(), "profile": config.profile.id, "unit": config.unit, "serial": serial}
        print(json.dumps({**reading, **more, "retries": reader.retries}))
        return EXIT_OK
    print("  ".join(f"{key} {value}" for key, value in reading.items()) + f"  raw {sample.raw.hex()}")
    if serial is not None and str(serial) != config.meter_serial.lstrip("0"):
        print(f"the meter says its serial number is {serial}, the configuration says {config.meter_serial}")
    return EXIT_OK


def _units(text: str) -> list[int]:
    units: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        units += range(_number(first), _number(last or first) + 1)
    if not units or not all(0 <= unit <= _MAX_UNIT for unit in units):
        raise argparse.ArgumentTypeError(f"addresses are 1 to {_MAX_UNIT}, such as 1-20,36")
    return list(dict.fromkeys(units))


def _numbers(text: str) -> list[int]:
    return [_number(part) for part in text.split(",")]


def _number(text: str) -> int:
    if not text.strip().isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number")
    return int(text)


def _parities(text: str) -> list[str]:
    parities = text.upper().split(",")
    if not set(parities) <= {"N", "E", "O"}:
        raise argparse.ArgumentTypeError("parities are N, E and O, such as N,E")
    return parities
