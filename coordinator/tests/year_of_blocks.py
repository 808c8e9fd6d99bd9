"""A simulated year of real blocks with contracts that close on both sides of boundaries; and its sums, the plain way.

`Plain` is the second path: it reads blocks one after the other and keeps every contract and every span of time in a list. It
shares no code with the evidence but the decoders of the chain's own formats.
"""

import random
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from settled import Chain
from world import HOUR, key

from pile_coordinator.chain.proofs import parse_proof
from pile_coordinator.chain.records import Contract
from pile_coordinator.chain.settlement import decode_statement
from pile_coordinator.chain.transactions import (
    AT_MARKET,
    Confirm,
    Deposit,
    List,
    Object,
    PlaceBid,
    RegisterParty,
    RegisterPile,
    Rule,
    SubmitProofs,
    decode_transaction,
)
from pile_coordinator.engines.engine import Block
from pile_shared import terms as wire
from pile_shared.codec import decode
from pile_shared.proof import BEGIN, REASON_USER
from pile_shared.proof import END as END_EVENT

MINUTE = 60_000
ZONES = ("Europe/Berlin", "America/New_York", "Asia/Shanghai", "Asia/Kolkata", "Australia/Lord_Howe")
PILES = {"pile-1": ("olga", "north", "operator"), "pile-2": ("otto", "south", "operator-2")}
USERS = ("dan", "dora")


def at_ms(zone: str, *when: int) -> int:
    return int(datetime(*when, tzinfo=ZoneInfo(zone)).timestamp()) * 1000


def boundaries() -> list[int]:
    """Beginnings of quarters and the year where each zone is, and where clocks change."""
    days = [(2024, 1, 1), (2024, 4, 1), (2024, 7, 1), (2024, 10, 1), (2025, 1, 1)]
    found = [at_ms(zone, *day) for zone in ZONES for day in days]
    changes = [
        (2024, 3, 10, 7),
        (2024, 3, 31, 1),
        (2024, 4, 6, 15),
        (2024, 10, 5, 15, 30),
        (2024, 10, 27, 1),
        (2024, 11, 3, 6),
    ]
    return sorted(found + [at_ms("UTC", *change) for change in changes])


class Year:
    """Lives two contracts around each boundary: one is closed a millisecond before it, one at it."""

    def __init__(self, chain: Chain, seed: int = 6) -> None:
        self.chain, self.rng = chain, random.Random(seed)
        self.registers = dict.fromkeys(PILES, 100_000)
        self.lived = 0

    def live(self) -> None:
        self.admit(boundaries()[0] - 5 * HOUR)
        for boundary in boundaries():
            self.around(boundary)
        self.chain.block(boundaries()[-1] + 30 * HOUR)

    def admit(self, at: int) -> None:
        roles = [(u, "ev-owner") for u in USERS] + [(o, "pile-owner") for o, _, _ in PILES.values()]
        self.chain.block(at, *[("operator", RegisterParty(p, r, key(p).public)) for p, r in roles])
        piles = [
            (by, RegisterPile(pile, owner, key(pile).public, "SDM630", pile, zone, 7000))
            for pile, (owner, zone, by) in PILES.items()
        ]
        self.chain.block(at, *piles, *[("grid", Deposit(p, 1_000_000_000, p)) for p, _ in roles])

    def around(self, boundary: int) -> None:
        start = boundary - 95 * MINUTE
        bought = {pile: self.buy(pile, start) for pile in PILES}
        sessions = {pile: self.session(pile, contract, start) for pile, contract in bought.items()}
        for pile, proofs in sessions.items():
            if proofs is not None:
                self.chain.block(start + HOUR + 5 * MINUTE, (PILES[pile][2], SubmitProofs(proofs)))
        for pile, at in zip(PILES, (boundary - 1, boundary), strict=True):
            if sessions[pile] is None:
                self.chain.block(at)
            else:
                self.close(pile, bought[pile], at)

    def buy(self, pile: str, start: int) -> bytes:
        """The contract on this pile; the listing is sold out by it, or stands for a few hours."""
        owner, zone, _ = PILES[pile]
        user = self.rng.choice(USERS)
        offered = self.rng.choice((5000, 20_000))
        self.chain.block(
            start - 4 * MINUTE,
            (owner, List(pile, start, start + self.rng.randint(3, 9) * HOUR, offered, AT_MARKET, False)),
        )
        bid = PlaceBid(zone, pile, 5000, start, start + 2 * HOUR, 800_000, True, 0, False, False)
        self.chain.block(start - 3 * MINUTE, (user, bid))
        newest = max(self.contracts(), key=lambda c: c[0] == pile)
        assert newest[0] == pile
        return newest[1]

    def contracts(self) -> list[tuple[str, bytes]]:
        state = self.chain.engine.state
        return [(state.terms_of(c).pile, c.id) for c in state.each(Contract) if c.phase == "signed"]

    def session(self, pile: str, contract: bytes, start: int) -> list[bytes] | None:
        """Its proofs; None where nobody comes."""
        self.lived += 1
        if self.lived % 9 == 0 and start < at_ms("UTC", 2024, 12, 30):
            return None
        delivered = self.rng.choice((5000, 4950, 4100, 5300, 5900, 3000))
        begun, register = start + self.rng.randint(1, 200_000), self.registers[pile]
        self.registers[pile] += delivered
        return [
            self.chain.world.prove(pile, BEGIN, [(begun, register)], contract=contract),
            self.chain.world.prove(
                pile, END_EVENT, [(start + HOUR, register + delivered)], contract=contract, reason=REASON_USER
            ),
        ]

    def close(self, pile: str, contract: bytes, at: int) -> None:
        body: Confirm = self.chain.confirmation(contract)
        parties = [self.chain.engine.state.terms_of(self.record(contract)).user, PILES[pile][0]]
        if self.lived % 5 == 0:
            objector = self.rng.choice(parties)
            self.chain.block(at - 20 * MINUTE, (objector, Object(contract, "energy", 4000, "see the photo")))
            self.chain.block(at, ("auditor", Rule(contract, self.rng.choice((4000, 5000)), "user")))
        else:
            self.chain.block(at, *[(party, body) for party in parties])

    def record(self, contract: bytes):
        return self.chain.engine.state.get(Contract, contract)


# --- the second path -----------------------------------------------------------------------------------------------------


class Plain:
    """Everything that closed, as (time, names, what it came to), and spans of time as (kind, names, from, until)."""

    def __init__(self, blocks: list[Block]) -> None:
        self.closed: list[tuple[int, dict[str, str], dict[str, int]]] = []
        self.spans: list[tuple[str, dict[str, str], int, int]] = []
        self.terms: dict[bytes, wire.Terms] = {}
        self.statements: dict[bytes, list] = {}
        self.sessions: dict[bytes, list[int]] = {}
        self.objections: dict[bytes, str] = {}
        self.piles: dict[str, dict[str, str]] = {}
        self.listings: dict[bytes, tuple[str, int, int]] = {}
        self.last_ms = blocks[-1].header.time_ms
        for block in blocks:
            self.read(block)
        for pile, begun, _ in self.listings.values():  # they stand until now
            self.spans.append(("listed", self.piles[pile], begun, self.last_ms))

    def read(self, block: Block) -> None:
        now = block.header.time_ms
        for data, result in zip(block.txs, block.results, strict=True):
            assert result.code == "ok"
            self.read_tx(decode_transaction(data), now)
        for leaf in block.leaves[len(block.txs) :]:
            self.read_leaf(decode(leaf, 1 << 20), now)

    def read_tx(self, tx, now: int) -> None:
        body = tx.body
        if isinstance(body, RegisterPile):
            names = {"all": "", "zone": body.zone, "operator": tx.sender, "owner": body.owner, "pile": body.id}
            self.piles[body.id] = names
        elif isinstance(body, List):
            self.listings[tx.id] = body.pile, max(now, body.window_start_ms), body.window_end_ms
        elif isinstance(body, Object):
            self.objections[body.contract] = tx.sender
        elif isinstance(body, SubmitProofs):
            for message in body.proofs:
                _, proof = parse_proof(message)
                self.sessions.setdefault(proof.contract, []).extend(r.time_ms for r in proof.readings)

    def read_leaf(self, row: list, now: int) -> None:
        if row[0] in {wire.LEAF_CONTRACT, wire.LEAF_PROPOSED}:
            terms = wire.decode_terms(row[1])
            self.terms[terms.contract_id()] = terms
        elif row[0] == wire.LEAF_SETTLEMENT:
            statement = decode_statement(row[1])
            self.statements.setdefault(statement.contract, []).append((now, statement))
        elif row[0] == wire.LEAF_CLOSED:
            if row[1] in self.terms:
                self.close(row[1], now)
            elif row[1] in self.listings:
                pile, begun, window_end = self.listings.pop(row[1])
                sold = [t.window_end_ms for t in self.terms.values() if t.listing == row[1]]
                until = min(window_end, max([begun, now, *sold]))
                self.spans.append(("listed", self.piles[pile], begun, until))

    def close(self, contract: bytes, now: int) -> None:
        terms, written = self.terms[contract], self.statements[contract]
        statement = written[-1][1]
        measured = statement.measured_wh
        gained = {"H": -terms.bond_micro, "G": 0, "F": 0}
        for p in statement.postings:
            for side, change in ((p.debit, -p.amount_micro), (p.credit, p.amount_micro)):
                gained[side] = gained.get(side, 0) + change
        if statement.verdict is not None and statement.verdict.objector == "H":
            gained["H"] -= statement.verdict.bond_micro
        off = measured - terms.energy_wh
        beyond = measured > 0 and abs(off) > terms.tolerance_wh
        contracted, grid = measured, 0
        if beyond and off > 0:  # what is over goes to the grid, up to what the terms let through
            contracted, grid = terms.energy_wh, min(off, terms.overuse_wh)
        sums = {
            "contracts": 1,
            "sessions": int(measured > 0),
            "agreed_wh": terms.energy_wh,
            "measured_wh": measured,
            "contracted_wh": contracted,
            "grid_wh": grid,
            "unpaid_wh": measured - contracted - grid,
            "owner_micro": gained["H"],
            "grid_micro": gained["G"],
            "fee_micro": gained["F"],
            "user_micro": gained["H"] + gained["G"] + gained["F"],
            "over": int(beyond and off > 0),
            "over_wh": off if beyond and off > 0 else 0,
            "under": int(beyond and off < 0),
            "under_wh": -off if beyond and off < 0 else 0,
            "unserved": int(measured == 0),
            "disputed": int(contract in self.objections),
            "delay_ms": now - written[0][0],
        }
        names = self.piles[terms.pile] | {"user": terms.user}
        self.closed.append((now, names, sums))
        if measured:
            times = self.sessions[contract]
            self.spans.append(("used", self.piles[terms.pile], min(times), max(times)))

    def sums(self, dimension: str, name: str, kind: str, zone: str) -> dict[str, dict[str, int]]:
        """By the label of the period; only periods in which something closed."""
        found: dict[str, dict[str, int]] = {}
        for time_ms, names, sums in self.closed:
            if names[dimension] == name:
                row = found.setdefault(label(kind, time_ms, zone), dict.fromkeys(sums, 0))
                for measure, amount in sums.items():
                    row[measure] += amount
        return found

    def span_ms(self, span: str, dimension: str, name: str, start_ms: int, end_ms: int) -> int:
        """How long, in [start_ms, end_ms)."""
        return sum(
            max(0, min(until, end_ms) - max(begun, start_ms))
            for kind, names, begun, until in self.spans
            if kind == span and names.get(dimension) == name
        )


def label(kind: str, time_ms: int, zone: str) -> str:
    """What clocks on the wall say, without any arithmetic on boundaries."""
    when = datetime.fromtimestamp(time_ms // 1000, UTC).astimezone(ZoneInfo(zone))
    return {
        "hour": f"{when:%Y-%m-%dT%H %z}",  # Lord Howe's clocks go back into the midst of an hour
        "day": f"{when:%Y-%m-%d}",
        "month": f"{when:%Y-%m}",
        "quarter": f"{when.year}-Q{(when.month + 2) // 3}",
        "year": f"{when.year}",
    }[kind]
