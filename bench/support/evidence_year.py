"""A plausible, seeded year of orders, straight into the tables of the evidence."""

import random
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

from sqlalchemy import Connection, Table
from sqlalchemy.schema import CreateIndex, CreateTable

from pile_coordinator.evidence import schema
from pile_coordinator.evidence.calendar import slot_of
from pile_coordinator.evidence.tallies import Tallies, offer, operated

BEGUN_MS, YEAR_MS = 1_735_689_600_000, 365 * 86_400_000  # 2025, UTC
HOUR_MS = 3_600_000
PILES, USERS, OWNERS, ZONES = 2000, 20_000, 1500, 20
OPERATORS = ("operator-0", "operator-1", "operator-2", "operator-3")
READINGS = 20  # of each session, in two proofs beside the one that begins it
_READING_BYTES = 90
_ROWS_AT_ONCE = 10_000  # orders of a write
_PRICE, _LEAVES = 650_000, 12
_BY_HOUR = (2, 1, 1, 1, 1, 2, 4, 6, 5, 4, 4, 5, 5, 4, 4, 5, 7, 10, 12, 12, 10, 8, 5, 3)  # when people come home


def fill(db: Connection, orders: int, seed: int = 6) -> None:
    """Make the schema and write a year of `orders` orders in order of time; commits."""
    db.exec_driver_sql("PRAGMA synchronous=OFF")
    db.exec_driver_sql("PRAGMA cache_size=-200000")
    indexes = [index for table in schema.metadata.sorted_tables for index in table.indexes]
    for table in schema.metadata.sorted_tables:
        db.execute(CreateTable(table))
    for view in schema.views:
        db.execute(view)
    year = _Year(random.Random(seed), orders)
    year.begin(db)
    for _ in range(0, orders, _ROWS_AT_ONCE):
        year.write_some(db)
    for index in indexes:  # at the end, sorted: several times faster than row by row
        db.execute(CreateIndex(index))
    db.commit()


def _hash(kind: str, number: int) -> bytes:
    return sha256(f"{kind} {number}".encode()).digest()


class _Year:
    """Each order is one block that places it, and one that closes it; heights follow the clock."""

    def __init__(self, rng: random.Random, orders: int) -> None:
        self.rng, self.orders, self.done, self.height = rng, orders, 0, 0
        self.sequences = [0] * PILES
        self.registers = [0] * PILES
        self.rows: dict[Table, list[tuple[Any, ...]]] = {}

    def put(self, table: Table, *values: Any) -> None:
        self.rows.setdefault(table, []).append(values)

    def flush(self, db: Connection) -> None:
        for table, rows in self.rows.items():
            marks = ", ".join("?" * len(table.columns))
            db.exec_driver_sql(f'INSERT INTO "{table.name}" VALUES ({marks})', rows)
        self.rows.clear()

    def block(self, time_ms: int, txs: int) -> int:
        self.height += 1
        row = (self.height, time_ms, _hash("block", self.height), OPERATORS[0], txs, txs + _LEAVES)
        self.put(schema.block, *row)
        return self.height

    def sent(self, height: int, position: int, kind: str, sender: str) -> bytes:
        tx_id = _hash(kind, height * 16 + position)
        self.put(schema.tx, height, position, tx_id, kind, sender, "ok")
        return tx_id

    def begin(self, db: Connection) -> None:
        height = self.block(BEGUN_MS, 0)
        for number in range(PILES):
            names = self.names(number)
            row = (_hash("kid", number)[:8], names["pile"], names["owner"], names["zone"], 11_000, height, None)
            self.put(schema.pile, *row)
            self.put(operated, names["pile"], names["operator"])
        for kind, count in (("owner", OWNERS), ("user", USERS)):
            for number in range(count):
                self.put(schema.party, f"{kind}-{number}", f"{kind}", b"\x04" * 65, height, 0)
        self.flush(db)

    def names(self, pile: int) -> dict[str, str]:
        return {
            "all": "", "zone": f"zone-{pile % ZONES}", "operator": OPERATORS[pile % len(OPERATORS)],
            "owner": f"owner-{pile % OWNERS}", "pile": f"pile-{pile}",
        }  # fmt: skip

    def moments(self, count: int) -> Iterator[int]:
        """In order; more in the evening."""
        first = self.done * YEAR_MS // self.orders
        last = (self.done + count) * YEAR_MS // self.orders
        for time_ms in sorted(self.rng.randrange(first, last) for _ in range(count)):
            hour = self.rng.choices(range(24), _BY_HOUR)[0]
            day = time_ms // (24 * HOUR_MS)
            yield BEGUN_MS + (time_ms if last - first < 24 * HOUR_MS else day * 24 * HOUR_MS + hour * HOUR_MS)

    def write_some(self, db: Connection) -> None:
        count = min(_ROWS_AT_ONCE, self.orders - self.done)
        tallies = Tallies()
        for time_ms in sorted(self.moments(count)):
            self.order(time_ms, tallies)
            self.done += 1
        self.flush(db)
        tallies.save(db)

    def order(self, time_ms: int, tallies: Tallies) -> None:
        rng, pile = self.rng, self.rng.randrange(PILES)
        names = self.names(pile) | {"user": f"user-{self.rng.randrange(USERS)}"}
        energy = rng.randrange(2000, 40_000, 100)
        measured = energy if rng.random() < 0.8 else energy * rng.randint(50, 115) // 100
        start, end = time_ms, time_ms + energy * HOUR_MS // 11_000 + HOUR_MS
        placed = self.block(time_ms - 60_000, 2)
        listing = self.sent(placed, 0, "list", names["owner"])
        bid = self.sent(placed, 1, "place-bid", names["user"])
        contract = _hash("contract", placed)
        self.put(schema.orders, listing, placed, 0, names["owner"], "listing", energy, -1, 0, 0, "expired", placed)
        limit = _PRICE + 200_000
        self.put(schema.orders, bid, placed, 1, names["user"], "market bid", energy, limit, 0, 0, "filled", placed)
        self.put(offer, listing, names["pile"], start, end + 4 * HOUR_MS)
        self.put(schema.clearing, placed, names["zone"], 3, 1_000_000, b"\x01" * 32, 0, energy)
        price = _PRICE + rng.randrange(0, 60_000)
        self.put(schema.price, names["zone"], placed, _PRICE, price)
        closed = self.session(contract, pile, start, end, measured, names)
        money = self.settle(contract, closed, energy, measured, price, names)
        self.match(contract, bid, listing, placed, closed, names, pile, energy, price, start, end)
        for span, until in (("listed", end + 4 * HOUR_MS), ("used", end - HOUR_MS // 2)):
            tallies.add_span({k: v for k, v in names.items() if k != "user"}, span, start, until)
        over, under = max(0, measured - energy), max(0, energy - measured)
        counted = {
            "contracts": 1,
            "sessions": 1,
            "agreed_wh": energy,
            "measured_wh": measured,
            "contracted_wh": min(measured, energy),
        }
        counted |= {"grid_wh": over, "owner_micro": money, "fee_micro": 50_000, "over": int(over > 0), "over_wh": over}
        tallies.add(names, slot_of(end), counted | {"under": int(under > 0), "under_wh": under, "delay_ms": 60_000})

    def session(self, contract: bytes, pile: int, start: int, end: int, measured: int, names: dict[str, str]) -> int:
        """Three proofs; the height at which it is closed."""
        height = self.block(end, 5)
        kid = _hash("kid", pile)[:8]
        each = READINGS // 2 * _READING_BYTES
        for event, reason, count, share in (
            ("begin", "none", 150, 0),
            ("periodic", "none", each, 1),
            ("end", "energy reached", each, 2),
        ):
            self.sequences[pile] += 1
            at = start + (end - start) * share // 2
            register = self.registers[pile] + measured * share // 2
            digest = _hash("proof", pile * 10_000_000 + self.sequences[pile])
            row = (
                kid,
                self.sequences[pile],
                height,
                share,
                0,
                digest,
                contract,
                event,
                reason,
                at,
                at + 60_000,
                register,
                b"\x00" * count,
            )
            self.put(schema.proof, *row)
            self.sent(height, share, "submit-proofs", names["operator"])
        self.registers[pile] += measured
        return height

    def settle(
        self, contract: bytes, closed: int, energy: int, measured: int, price: int, names: dict[str, str]
    ) -> int:
        over, paid = max(0, measured - energy), min(measured, energy) * price // 1000
        row = (contract, 1, closed, 9, measured, measured - over, over, 0, "none", _hash("digest", closed), None)
        self.put(schema.statement, *row)
        for item, (debit, credit, amount) in enumerate(
            (("E", "H", paid), ("E", "F", 50_000), ("E", "U", 100), ("B", "H", 200))
        ):
            self.put(schema.posting, contract, 1, item, debit, credit, amount)
        for position, party in ((3, names["user"]), (4, names["owner"])):
            self.sent(closed, position, "confirm", party)
            self.put(schema.confirmation, contract, party, closed, position)
        return paid

    def match(
        self, contract: bytes, bid: bytes, listing: bytes, placed: int, closed: int, names: dict[str, str], pile: int,
        energy: int, price: int, start: int, end: int,
    ) -> None:  # fmt: skip
        kid = _hash("kid", pile)[:8]
        who = (names["pile"], kid, names["zone"], names["user"], names["owner"])
        prices = (energy, price, 1, _PRICE, 400_000, start, end, 50_000, energy * price // 900, 200)
        ended = ("closed", placed, 2, None, closed, 10, "confirmed")
        row = (contract, placed, 2, b"\x00" * 420, bid, None, listing, *who, *prices, *ended)
        self.put(schema.contract, *row)
