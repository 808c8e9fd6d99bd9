"""A seeded year of orders in the evidence's tables, in the form in which the exporter writes such a chain.

A chain of a million orders would take hours to make. Here what happened is drawn by chance into tables of facts, and the rows
that follow from them are written by SQL, table by table in the order of its key. coordinator/tests/test_bench_year.py puts the
facts of real blocks into the same tables and holds what comes of them to what the exporter wrote of those blocks.

Each order is three blocks: one with its listing and bid, one with the session's proofs (a begin, and two with ten readings
each), one with both confirmations. All is delivered as ordered, and piles are offered for what they serve.
"""

import random
from collections.abc import Iterator
from itertools import islice
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.schema import CreateIndex, CreateTable

from pile_coordinator.evidence import schema
from pile_coordinator.evidence.calendar import SLOT_MS
from pile_coordinator.evidence.database import HEAD
from pile_coordinator.evidence.tallies import MEASURES, SPANS

BEGUN_MS, YEAR_MS = 1_735_689_600_000, 365 * 86_400_000  # 2025, UTC
HOUR_MS, MINUTE_MS = 3_600_000, 60_000
PILES, USERS, ZONES = 2000, 20_000, 20
OPERATOR, GRID = "operator", "grid"
READINGS = 21  # of each session: the begin's and ten in each of two proofs
PROOF_BYTES = (229, 310, 312)  # as long as real ones
TERMS_BYTES = 372
_ROWS_AT_ONCE = 20_000

FACTS = (
    "header (height INTEGER PRIMARY KEY, time_ms, hash, proposer, txs, results)",
    "entry (position INTEGER PRIMARY KEY, id, type, sender)",  # transactions of the first block
    "person (name, role, public, position)",
    "deposited (position, reference, party, amount)",
    "place (name PRIMARY KEY, owner, zone, kid, power_w)",
    ("life (n INTEGER PRIMARY KEY, pile, user, listing, bid, contract, terms, batch, digest, confirmed_user, confirmed_owner,"
    " energy_wh, price, catalog_sell, catalog_buy, limit_price, fee, escrow, bond, capacity_wh, tariff, open_before_wh,"
    " placed_ms, start_ms, end_ms, expires_ms, measured_ms, closed_ms, placed, measured, closed, sequence)"),
    "told (n INTEGER, share INTEGER, hash, bytes, first_ms, last_ms, register_wh, PRIMARY KEY (n, share)) WITHOUT ROWID",
)  # fmt: skip


def fill(db: Connection, orders: int, seed: int = 6) -> None:
    """Make the schema and write a year of `orders` orders; commits."""
    begin(db)
    _draw(db, orders, random.Random(seed))
    write(db)


def begin(db: Connection) -> None:
    """The tables without their indexes, and those of the facts, empty."""
    for pragma in ("journal_mode=OFF", "synchronous=OFF", "cache_size=-400000", "temp_store=FILE"):
        db.exec_driver_sql(f"PRAGMA {pragma}")
    for table in schema.metadata.sorted_tables:
        db.execute(CreateTable(table))
    for view in schema.views:
        db.execute(view)
    for fact in FACTS:
        db.exec_driver_sql(f"CREATE TEMP TABLE {fact}")


def write(db: Connection) -> None:
    """All rows that follow from the facts, and the indexes at the end, which sorts once; commits."""
    for statement in (*_ROWS, *_tallies()):
        db.exec_driver_sql(statement)
    for table in schema.metadata.sorted_tables:
        for index in table.indexes:
            db.execute(CreateIndex(index))
    db.exec_driver_sql("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
    db.exec_driver_sql("INSERT INTO alembic_version VALUES (?)", (HEAD,))  # so that commands open it
    db.commit()


# --- what happened ------------------------------------------------------------------------------------------------------


def _draw(db: Connection, orders: int, rng: random.Random) -> None:
    """Piles take turns, so that none serves two at a time."""
    _admit(db, rng)
    rounds = -(-orders // PILES)
    drawn = (_life(rng, n, YEAR_MS // rounds) for n in range(orders))
    registers = [1_000_000] * PILES
    while some := list(islice(drawn, _ROWS_AT_ONCE)):
        _put(db, "life", [life for life, _ in some])
        _put(db, "told", [row for life, energy in some for row in _told(rng, life, energy, registers)])
    # Blocks in order of time: heights of an order's three are found by it.
    db.exec_driver_sql(
        "CREATE TEMP TABLE happened AS SELECT row_number() OVER (ORDER BY time_ms, n) + 1 AS height, n, kind, time_ms FROM"
        " (SELECT n, 0 AS kind, placed_ms AS time_ms FROM life UNION ALL SELECT n, 1, measured_ms FROM life"
        " UNION ALL SELECT n, 2, closed_ms FROM life)"
    )
    db.exec_driver_sql("CREATE UNIQUE INDEX temp.happened_to ON happened (n, kind, height)")
    for kind, column in enumerate(("placed", "measured", "closed")):
        found = f"(SELECT height FROM happened h WHERE h.n = life.n AND h.kind = {kind})"
        db.exec_driver_sql(f"UPDATE life SET {column} = {found}")
    db.exec_driver_sql(
        "INSERT INTO header SELECT height, time_ms, randomblob(32), 'operator', CASE kind WHEN 1 THEN 1 ELSE 2 END,"
        " CASE kind WHEN 0 THEN 5 ELSE 3 END FROM happened ORDER BY height"
    )


def _put(db: Connection, table: str, rows: list[tuple[Any, ...]]) -> None:
    marks = ", ".join("?" * len(rows[0]))
    db.exec_driver_sql(f"INSERT INTO {table} VALUES ({marks})", rows)


def _admit(db: Connection, rng: random.Random) -> None:
    entries: list[tuple[str, str, str]] = []  # type, sender, whom it is about
    for number in range(PILES):
        owner = f"owner-{number}"
        entries += [
            ("register-party", OPERATOR, owner),
            ("register-pile", OPERATOR, f"pile-{number}"),
            ("deposit", GRID, owner),
        ]
    for number in range(USERS):
        entries += [("register-party", OPERATOR, f"user-{number}"), ("deposit", GRID, f"user-{number}")]
    _put(db, "entry", [(i, rng.randbytes(32), kind, sender) for i, (kind, sender, _) in enumerate(entries)])
    people = [(i, whom) for i, (kind, _, whom) in enumerate(entries) if kind == "register-party"]
    roles = {"owner": "pile-owner", "user": "ev-owner"}
    _put(db, "person", [(whom, roles[whom.split("-")[0]], rng.randbytes(65), i) for i, whom in people])
    paid = [
        (i, whom[0] + whom.split("-")[1], whom, 10**12)
        for i, (kind, _, whom) in enumerate(entries)
        if kind == "deposit"
    ]
    _put(db, "deposited", paid)
    places = [(f"pile-{i}", f"owner-{i}", f"zone-{i % ZONES}", rng.randbytes(8), 7000) for i in range(PILES)]
    _put(db, "place", places)
    total = len(entries)
    _put(db, "header", [(1, BEGUN_MS - HOUR_MS, rng.randbytes(32), OPERATOR, total, total)])


def _life(rng: random.Random, n: int, spacing_ms: int) -> tuple[tuple[Any, ...], int]:
    """One order and how much it was for; readings are 3 minutes apart, so its session takes half an hour and more."""
    turn, pile = divmod(n, PILES)
    start = BEGUN_MS + turn * spacing_ms + rng.randrange(max(1, spacing_ms - 4 * HOUR_MS)) // MINUTE_MS * MINUTE_MS
    energy = rng.randrange(2000, 20_000, 100)
    price = 650_000 + rng.randrange(60_000)
    measured = start + HOUR_MS + rng.randrange(10 * MINUTE_MS)
    closed = measured + MINUTE_MS + rng.randrange(90 * MINUTE_MS)
    ids = rng.randbytes(32 * 7)
    listing, bid, contract, batch, digest, by_user, by_owner = (ids[i : i + 32] for i in range(0, len(ids), 32))
    who = (n, f"pile-{pile}", f"user-{rng.randrange(USERS)}", listing, bid, contract, bytes(TERMS_BYTES))
    agreed = (
        energy,
        price,
        650_000,
        400_000,
        1_000_000,
        50_000,
        energy * price // 900 + 50_000,
        energy * 130,
        61_320_000,
    )
    when = (start - rng.randrange(1, 30) * MINUTE_MS, start, start + 3 * HOUR_MS, start + 3 * HOUR_MS, measured, closed)
    said = (batch, digest, by_user, by_owner)
    return (*who, *said, *agreed, bytes(32), 0, *when, None, None, None, 3 * turn + 1), energy


def _told(rng: random.Random, life: tuple[Any, ...], energy: int, registers: list[int]) -> Iterator[tuple[Any, ...]]:
    n, start = life[0], life[_START]
    for share, length in enumerate(PROOF_BYTES):
        first = start + MINUTE_MS + (share - 1) * 30 * MINUTE_MS if share else start + 1000
        register = registers[n % PILES] + energy * share // 2
        yield n, share, rng.randbytes(32), bytes(length), first, first + 27 * MINUTE_MS * min(share, 1), register
    registers[n % PILES] += energy


_START = [name.strip().split()[0] for name in FACTS[5].partition("(")[2].split(",")].index("start_ms")


# --- what the exporter writes of it -------------------------------------------------------------------------------------

_PLACED = "life l JOIN place p ON p.name = l.pile"
_ROWS = (
    "INSERT INTO mark SELECT 1, max(height) FROM header",
    "INSERT INTO block SELECT height, time_ms, hash, proposer, txs, results FROM header ORDER BY height",
    f"""INSERT INTO tx SELECT height, position, id, type, sender, 'ok' FROM (
          SELECT 1 AS height, position, id, type, sender FROM entry
          UNION ALL SELECT placed, 0, listing, 'list', p.owner FROM {_PLACED}
          UNION ALL SELECT placed, 1, bid, 'bid', user FROM life
          UNION ALL SELECT measured, 0, batch, 'proofs', '{OPERATOR}' FROM life
          UNION ALL SELECT closed, 0, confirmed_user, 'confirm', user FROM life
          UNION ALL SELECT closed, 1, confirmed_owner, 'confirm', p.owner FROM {_PLACED}) ORDER BY height, position""",
    "INSERT INTO party SELECT name, role, public, 1, position FROM person ORDER BY name",
    "INSERT INTO pile SELECT kid, name, owner, zone, power_w, 1, NULL FROM place ORDER BY kid",
    f"INSERT INTO operated SELECT name, '{OPERATOR}' FROM place ORDER BY name",
    "INSERT INTO deposit SELECT 1, position, reference, party, amount FROM deposited ORDER BY position",
    "INSERT INTO receipt SELECT pile, max(measured), 2, sequence + 2 FROM life GROUP BY pile ORDER BY pile",
    f"""INSERT INTO orders SELECT * FROM (
          SELECT listing AS id, placed, 0, p.owner, 'listing', energy_wh, -1, 0, 0, NULL, pile, start_ms, end_ms, NULL,
            'spent', placed FROM {_PLACED}
          UNION ALL SELECT bid, placed, 1, user, 'limited bid', energy_wh, limit_price, 0, 0, p.zone, pile, start_ms, end_ms,
            expires_ms, 'filled', placed FROM {_PLACED}) ORDER BY id""",
    "INSERT INTO offer SELECT listing, pile, max(start_ms, placed_ms), end_ms FROM life ORDER BY listing",
    f"""INSERT INTO clearing SELECT placed, p.zone, 4, capacity_wh, tariff, open_before_wh, open_before_wh + energy_wh
        FROM {_PLACED} ORDER BY placed""",
    f"INSERT INTO price SELECT p.zone, placed, catalog_sell, price FROM {_PLACED} ORDER BY 1, 2",
    f"""INSERT INTO contract SELECT contract, placed, 2, terms, bid, NULL, listing, pile, p.kid, p.zone, user, p.owner,
          energy_wh, price, 1, catalog_sell, catalog_buy, start_ms, end_ms, fee, escrow, bond, 'closed', placed, 2, NULL,
          closed, 2, 'confirmed' FROM {_PLACED} ORDER BY contract""",
    """INSERT INTO proof SELECT p.kid, l.sequence + t.share, l.measured, 0, t.share, t.hash, l.contract,
          CASE t.share WHEN 0 THEN 'begin' WHEN 1 THEN 'periodic' ELSE 'end' END,
          CASE t.share WHEN 2 THEN 'contracted energy reached' ELSE 'none' END, t.first_ms, t.last_ms, t.register_wh, t.bytes
        FROM told t JOIN life l ON l.n = t.n JOIN place p ON p.name = l.pile ORDER BY 1, 2""",
    """INSERT INTO statement SELECT contract, 1, measured, 1, energy_wh, energy_wh, 0, 0, 'none', digest, NULL
        FROM life ORDER BY contract""",
    """INSERT INTO posting SELECT contract, 1, item, debit, credit, CASE item WHEN 0 THEN energy_wh * price / 1000
          WHEN 1 THEN fee WHEN 2 THEN escrow - fee - energy_wh * price / 1000 ELSE bond END
        FROM life, (SELECT 0 AS item, 'E' AS debit, 'H' AS credit UNION ALL SELECT 1, 'E', 'F' UNION ALL SELECT 2, 'E', 'U'
          UNION ALL SELECT 3, 'B', 'H') ORDER BY contract, item""",
    f"""INSERT INTO confirmation SELECT * FROM (SELECT contract, p.owner AS party, closed, 1 FROM {_PLACED}
          UNION ALL SELECT contract, user, closed, 0 FROM life) ORDER BY contract, party""",
)  # fmt: skip

_COUNTED = {
    "contracts": "1", "sessions": "1", "agreed_wh": "energy_wh", "measured_wh": "energy_wh", "contracted_wh": "energy_wh",
    "owner_micro": "energy_wh * price / 1000", "fee_micro": "fee", "delay_ms": "closed_ms - measured_ms",
}  # fmt: skip
_DIMENSIONS = {
    "all": "''",
    "zone": "zone",
    "operator": f"'{OPERATOR}'",
    "owner": "owner",
    "pile": "pile",
    "user": "user",
}
_BEGINS_ENDS = {
    "listed": ("max(start_ms, placed_ms)", "end_ms"),
    "used": (
        "(SELECT first_ms FROM told WHERE n = l.n AND share = 0)",
        "(SELECT last_ms FROM told WHERE n = l.n AND share = 2)",
    ),
}
_ENDS = tuple(f"{span}_{end}" for span in SPANS for end in ("begun", "begun_into_ms", "ended", "ended_into_ms"))
_COLUMNS = (*MEASURES, *_ENDS)


def _tallies() -> Iterator[str]:
    """A row for each name and quarter of an hour in which something happened to it; those of many from those of one."""
    sums = ", ".join(f"sum({column}) AS {column}" for column in _COLUMNS)
    yield f"CREATE TEMP TABLE event AS {' UNION ALL '.join(_events())}"
    yield f"CREATE TEMP TABLE by_pile AS SELECT pile, slot, {sums} FROM event GROUP BY 1, 2"
    of_zone = "by_pile b JOIN place p ON p.name = b.pile"
    yield f"CREATE TEMP TABLE by_zone AS SELECT p.zone, slot, {sums} FROM {of_zone} GROUP BY 1, 2"
    tables = {
        "all": ("''", "by_zone"), "operator": (f"'{OPERATOR}'", "by_zone"), "owner": ("p.owner", of_zone),
        "pile": ("pile", "by_pile"), "user": ("user", "event WHERE contracts"), "zone": ("zone", "by_zone"),
    }  # fmt: skip
    for dimension, (name, table) in tables.items():  # what users do is no use of a pile of theirs
        rows = f"SELECT '{dimension}', {name}, slot, {sums} FROM {table} GROUP BY 2, 3 ORDER BY 2, 3"
        yield f"INSERT INTO tally {rows}"
    yield "INSERT INTO tallied SELECT DISTINCT dimension, name FROM tally ORDER BY 1, 2"


def _events() -> Iterator[str]:
    """What counts, at each of an order's times."""
    yield _event("closed_ms", _COUNTED)
    for span, times in _BEGINS_ENDS.items():
        for end, time in zip(("begun", "ended"), times, strict=True):
            yield _event(time, {f"{span}_{end}": "1", f"{span}_{end}_into_ms": f"({time}) % {SLOT_MS}"})


def _event(time: str, counted: dict[str, str]) -> str:
    columns = ", ".join(f"{counted.get(column, '0')} AS {column}" for column in _COLUMNS)
    return f"SELECT pile, user, ({time}) / {SLOT_MS} AS slot, {columns} FROM life l"
