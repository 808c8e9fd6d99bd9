"""`pilechain evidence stats`: what was delivered, paid, disputed and left idle, as a table, JSON or CSV."""

import argparse
import csv
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table
from sqlalchemy import Connection

from pile_coordinator.amounts import money
from pile_coordinator.evidence.calendar import HOUR, PERIODS, Period, find_zone, parse_moment
from pile_coordinator.evidence.calendar import YEAR as A_YEAR
from pile_coordinator.evidence.calendar import periods as periods_of
from pile_coordinator.evidence.opening import add_where, reading
from pile_coordinator.evidence.statistics import MAX_PRICES, counted_between, history, prices, ranking
from pile_coordinator.evidence.tallies import ALL, DIMENSIONS
from pile_coordinator.evidence_trace_cli import WIDE
from pile_shared.errors import ConfigError

_DESCRIPTION = """\
What contracts came to: energy, money, deviations, disputes, how long settling took, and how much of the offered time piles
stood idle. A contract counts when it is closed, for that is when its money moves: a past period never changes. Times
are those of the zone you name; days have 23 or 25 hours where clocks change."""
_EVER_MS = 1 << 53  # later than any block
_EPILOG = """\
examples:
  pilechain evidence stats --evidence data/evidence.sqlite                     the whole chain by month
  pilechain evidence stats operator operator-1 --per quarter --tz Europe/Berlin --evidence data/evidence.sqlite
  pilechain evidence stats pile --from 2026-Q1 --to 2026-Q2 --csv ...          every pile in that quarter
  pilechain evidence stats zone north --prices --from 2026-03-29 --csv ...     each price beside the load that made it

Energy is in Wh and money in micro (millionths) in --json and --csv, in kWh and the currency's unit in the table.
Exit status: 0 done, 1 the evidence cannot be read, 2 called wrongly."""


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `stats` to the `evidence` commands."""
    stats = commands.add_parser(
        "stats",
        help="energy, money, deviations, disputes and idle piles by hour, day, month, quarter or year",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    stats.add_argument(
        "dimension", nargs="?", choices=DIMENSIONS, default=ALL, help="whose statistics (default: all, the whole chain)"
    )
    stats.add_argument("name", nargs="?", help="the one of these; without it, each of them in one row")
    stats.add_argument("--per", choices=PERIODS, default="month", help="one row for each of these (default: month)")
    stats.add_argument(
        "--from", dest="since", metavar="TIME", help="2026, 2026-Q1, 2026-03, 2026-03-29 or 2026-03-29T12:00"
    )
    stats.add_argument(
        "--to", dest="until", metavar="TIME", help="up to and without this time (default: the last block)"
    )
    stats.add_argument("--tz", default="UTC", metavar="ZONE", help="IANA time zone, as Europe/Berlin (default: UTC)")
    stats.add_argument("--prices", action="store_true", help="prices by load instead, of a zone")
    shape = stats.add_mutually_exclusive_group()
    shape.add_argument("--json", action="store_true", help="one JSON object per row")
    shape.add_argument("--csv", action="store_true", help="CSV with a header line")
    add_where(stats)
    stats.set_defaults(run=_stats)


def _stats(options: argparse.Namespace) -> int:
    zone = find_zone(options.tz)
    if options.prices and (options.dimension != "zone" or not options.name):
        raise ConfigError("--prices needs a zone: pilechain evidence stats zone NAME --prices")
    if options.dimension == ALL and options.name:
        raise ConfigError("'all' is the whole chain and has no names")
    with reading(options.evidence) as db:
        first, last = (0, _EVER_MS) if options.prices else counted_between(db) or (0, 0)
        start_ms = parse_moment(options.since, zone) if options.since else first
        end_ms = parse_moment(options.until, zone) if options.until else max(last, start_ms)
        if start_ms > end_ms:
            raise ConfigError("--from is after --to")
        rows = (
            _prices(db, options.name, start_ms, end_ms)
            if options.prices
            else _rows(db, options, start_ms, end_ms, zone)
        )
        _show(rows, options)
    return 0


def _rows(
    db: Connection, options: argparse.Namespace, start_ms: int, end_ms: int, zone: Any
) -> Iterator[dict[str, object]]:
    if options.dimension == ALL or options.name:
        at: int | None = start_ms
        while at is not None and at < end_ms:
            page = history(db, options.dimension, options.name or "", options.per, at, end_ms, zone)
            yield from (row.fields() for row in page.rows)
            at = page.next if isinstance(page.next, int) else None
        return
    period, after = _whole(start_ms, end_ms, zone), ""
    while True:
        ranked = ranking(db, options.dimension, period, after)
        yield from (row.fields() for row in ranked.rows)
        if not isinstance(ranked.next, str):
            return
        after = ranked.next


def _whole(start_ms: int, end_ms: int, zone: Any) -> Period:
    """All of it, in whole hours, called by its year if it is one."""
    years = list(periods_of(A_YEAR, start_ms, end_ms, zone)) if end_ms > start_ms else []
    if len(years) == 1 and (years[0].start_ms, years[0].end_ms) == (start_ms, end_ms):
        return years[0]
    hours = [
        *periods_of(HOUR, start_ms, start_ms + 1, zone),
        *periods_of(HOUR, max(start_ms, end_ms - 1), end_ms, zone),
    ]
    first, last = hours[0], hours[-1]
    return Period(f"{first.label}/{last.label}", first.start_ms, last.end_ms)


def _prices(db: Connection, zone: str, start_ms: int, end_ms: int) -> Iterator[dict[str, object]]:
    height = 0
    while found := prices(db, zone, start_ms, end_ms, after_height=height, limit=MAX_PRICES):
        yield from (price.fields() for price in found)
        height = found[-1].height


def _show(rows: Iterable[dict[str, object]], options: argparse.Namespace) -> None:
    if options.json:
        for row in rows:
            sys.stdout.write(json.dumps(row) + "\n")
    elif options.csv:
        writer = None
        for row in rows:
            if writer is None:
                writer = csv.DictWriter(sys.stdout, list(row), lineterminator="\n")
                writer.writeheader()
            writer.writerow(
                {key: str(value).lower() if isinstance(value, bool) else value for key, value in row.items()}
            )
    else:
        _print_table(list(rows), prices=options.prices)


_COLUMNS: Sequence[tuple[str, str]] = (
    ("name", "name"), ("period", "period"), ("contracts", "contracts"), ("measured_wh", "kWh"),
    ("contracted_wh", "under contract"), ("grid_wh", "from the grid"), ("unpaid_wh", "unpaid"), ("user_micro", "paid"),
    ("owner_micro", "to owners"), ("grid_micro", "to the grid"), ("fee_micro", "fees"), ("over", "over"), ("under", "under"),
    ("unserved", "unserved"), ("disputed", "disputed"), ("idle_permille", "idle"), ("mean_delay_ms", "settled after"),
)  # fmt: skip
_PRICES: Sequence[tuple[str, str]] = (
    ("height", "block"), ("time_ms", "UTC"), ("catalog_micro_per_kwh", "catalog per kWh"), ("price_micro_per_kwh", "per kWh"),
    ("open_before_wh", "load before, kWh"), ("open_after_wh", "after, kWh"), ("capacity_wh", "capacity, kWh"),
)  # fmt: skip


def _print_table(rows: list[dict[str, object]], *, prices: bool) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = WIDE
    if not rows:
        console.print("nothing was counted then; is the evidence up to date, and the name right?")
        return
    columns = _PRICES if prices else [c for c in _COLUMNS if any(row[c[0]] not in {"", 0} for row in rows)]
    table = Table(box=None, pad_edge=False)
    for name, title in columns:
        table.add_column(title, justify="left" if name in {"name", "period", "time_ms"} else "right", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(name, row[name]) for name, _ in columns))
    console.print(table)


def _cell(name: str, value: object) -> str:
    if value is None:
        return "-"
    if not isinstance(value, int):
        return str(value)
    if name == "time_ms":
        return datetime.fromtimestamp(value // 1000, UTC).isoformat(sep=" ")
    if name == "mean_delay_ms":
        return f"{value // 60_000} min"
    if name == "idle_permille":
        return f"{value // 10}.{value % 10} %"
    if name.endswith("_wh"):
        return f"{value // 1000}.{value % 1000:03}"
    return money(value) if "micro" in name else str(value)
