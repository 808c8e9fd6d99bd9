"""A market in which everything exists at once: a contract in each phase, every kind of order, party, pile and dispute.

Also what the tests of single transactions share: for each type one that would be accepted there, what the type's fields may
hold, and how to tell that a transaction left no trace.
"""

from dataclasses import dataclass

from note_world import NOTES
from world import HOUR, NOW, START, Market, consensus, key, stake_json

from pile_coordinator.chain import notes
from pile_coordinator.chain.env import Journal, Misbehaviour
from pile_coordinator.chain.records import Bid, Candidate, Contract, Listing, NoteBin, Zone
from pile_coordinator.chain.settlement import decode_statement
from pile_coordinator.chain.stake import address_of
from pile_coordinator.chain.state import State, _deadline_ms
from pile_coordinator.chain.transactions import (
    GROUND_CAUSE,
    BuyNotes,
    CollectFees,
    Confirm,
    Delegate,
    Deposit,
    Object,
    RedeemNotes,
    RegisterParty,
    RestoreKey,
    RevokeKey,
    SetTariff,
    Withdraw,
    pseudonym,
    ring_message,
    ring_sign_transaction,
)
from pile_coordinator.chain.transition import TxResult, apply_tx
from pile_coordinator.ring.keys import base_public, base_secret, note_secret
from pile_coordinator.ring.signature import key_image, sign
from pile_shared import cose
from pile_shared.certificate import Header, attest
from pile_shared.codec import encode
from pile_shared.proof import HEARTBEAT

PHASES = ("proposed", "signed", "active", "measured", "disputed", "closed")
ROLES = ("grid", "operator", "pile-owner", "ev-owner", "third-party")
NODES = ("arbiter-2", "auditor", "false-node", "grid", "operator")  # that genesis elects
AT = START + HOUR // 2  # the time of the last block
FAR = NOW + 6 * HOUR  # the window of the contract that is still only signed
BASE = base_secret(bytes(32), "test", 0)  # of user-6, whose are all notes
FULL, FILLING = notes.bin_id(7, 0), notes.bin_id(0, 0)
CLOCK = 1_700_000_000  # what a stop command was given at, by the user's own clock


@dataclass
class EveryPhase:
    """The market, and the names of what is in it. `contracts` has one per phase; the n-th is of user-n, owner-n and pile-n."""

    market: Market
    contracts: dict[str, bytes]
    bid: bytes
    listing: bytes
    withdrawal: bytes

    def parties(self, phase: str) -> tuple[str, str]:
        number = PHASES.index(phase) + 1
        return f"user-{number}", f"owner-{number}"

    def stop(self, contract: bytes, signer: str, **over: object) -> bytes:
        """A session command by which a user ends a session: [contract, 2, token, time]."""
        payload = encode([contract, over.get("action", 2), b"\x01" * 8, CLOCK])
        chain_id = str(over.get("chain_id", self.market.chain_id))
        return cose.sign1(payload, key(signer), cose.purpose(str(over.get("purpose", cose.SESSION)), chain_id))

    def proof(self, pile: str, event: int, points: list[tuple[int, int]], **over: object) -> bytes:
        """A proof that the pile could hand in next, and has not."""
        made = dict(self.market.proofs)
        try:
            return self.market.prove(pile, event, points, **over)  # type: ignore[arg-type]
        finally:
            self.market.proofs = made

    def note(self, place: int) -> list[bytes]:
        """[bin, key image] of one of the sealed notes. The first is spent already."""
        return [FULL, key_image(self._secret(place), notes.context(self.market.chain_id, FULL))]

    def _secret(self, place: int) -> bytes:
        return note_secret(BASE, self.market.state.get(NoteBin, FULL).notes[0][2], place)

    def ring(self, message: bytes, place: int = 1) -> bytes:
        """A ring signature by one of the sealed notes."""
        ring = notes.ring_of(self.market.state.get(NoteBin, FULL))
        return sign(self._secret(place), ring, place, notes.context(self.market.chain_id, FULL), message)

    def of_nobody(self, payload: bytes, place: int = 1) -> bytes:
        """A transaction with one ring signature."""
        return encode([payload, [self.ring(ring_message(self.market.chain_id, payload), place)]])

    def digest(self, phase: str) -> bytes:
        contract = self.market.state.get(Contract, self.contracts[phase])
        return decode_statement(contract.statement).digest()

    def valid(self) -> dict[str, tuple[str, list[object]]]:
        """For each type a sender and fields that would be accepted in the next block."""
        c, at = self.contracts, self.market.time_ms
        tariff = [[0, "valley", 300_000, 100_000], [480, "peak", 900_000, 500_000]]
        proof = self.proof("pile-7", HEARTBEAT, [(at, 5)])
        base, nobody = base_public(BASE), key("nobody's order").public
        wish = ["north", "", 1000, FAR, FAR + HOUR, 700_000, False, FAR + HOUR]
        return {
            "register-party": ("operator", ["eve", "ev-owner", key("eve").public]),
            "rotate-key": ("user-1", [key("user-1, later").public]),
            "revoke-key": ("operator", ["user-6"]),
            "restore-key": ("operator", ["gone-user", key("gone-user, later").public]),
            "register-pile": ("operator", ["pile-9", "owner-1", key("pile-9").public, "SDM630", "9", "north", 7000]),
            "retire-pile": ("owner-7", ["pile-7"]),
            "deposit": ("grid", ["user-1", 5, "payment 9"]),
            "withdraw": ("owner-1", [5, "bank"]),
            "pay-out": ("grid", [self.withdrawal, "payment 10"]),
            "refuse-withdrawal": ("grid", [self.withdrawal, "no such bank"]),
            "collect-fees": ("grid", ["operator", 1]),
            "set-tariff": ("grid", [at + HOUR, 480, tariff]),
            "list": ("owner-1", ["pile-1", NOW, FAR, 1000, -1, False]),
            "unlist": ("owner-7", [self.listing]),
            "bid": ("user-1", ["north", "", 1000, FAR, FAR + HOUR, 700_000, False, FAR + HOUR, False, False]),
            "cancel": ("user-2", [self.bid]),
            "sign": ("user-1", [c["proposed"]]),
            "cancel-contract": ("owner-2", [c["signed"]]),
            "proofs": ("operator", [[proof]]),
            "confirm": ("user-4", [c["measured"], self.digest("measured")]),
            "object": ("user-4", [c["measured"], "energy", 5000, "it was more"]),
            "answer": ("owner-5", [c["disputed"], self.stop(c["disputed"], "user-5")]),
            "rule": ("auditor", [c["disputed"], 3000, "pile"]),
            "register-candidate": ("arbiter", [consensus("arbiter"), key("arbiter/attest").public, 100, 1_000_000]),
            "delegate": ("user-1", ["grid", 1_000_000]),
            "undelegate": ("user-2", ["grid", 400_000]),
            "set-commission": ("grid", [200]),
            "unjail": ("operator", []),
            "double-attestation": ("user-3", ["auditor", *twice_attested(self.market, "auditor", 2)]),
            "vote-upgrade": ("grid", ["reporter-part", 1000]),
            "buy-notes": ("user-6", [base, [3, 0, 1]]),
            "anonymous-bid": (pseudonym(nobody), [[self.note(1)], nobody, base, *wish]),
            "redeem-notes": (pseudonym(nobody), [[self.note(1)], nobody, "owner-1"]),
        }


def every_phase() -> EveryPhase:
    """Build it. The same every time.

    The accounting node of operator may leave its jail, that of arbiter-2 not yet, and false-node signed twice.
    """
    rules = {
        "reward_permille": 0,
        "double_sign_ppm": 0,
        "downtime_ppm": 0,
        "downtime_window_blocks": 3,
        "jail_ms": HOUR // 2,
    }
    market = Market(
        7,
        6,
        rulings_needed=2,
        sign_window_ms=100 * HOUR,
        cancel_cutoff_ms=100 * HOUR,
        stake=stake_json(dict.fromkeys(NODES, 10_000_000), max_validators=5, **rules),
        upgrades=[{"name": "decided", "height": 1_000_000}],
        notes=NOTES,
        more=[("arbiter-2", "third-party"), ("false-node", "third-party")],
    )
    _buy_notes(market)
    market.absent = {"operator"}
    market.ok()
    market.ok()
    market.absent = {"arbiter-2"}
    for i in range(1, 7):
        market.offer(f"pile-{i}")
    bids = [market.bid(f"user-{i}", pile=f"pile-{i}", explicit=i == 1, start=FAR, end=FAR + HOUR) for i in (1, 2)]
    bids += [market.bid(f"user-{i}", pile=f"pile-{i}") for i in (3, 4, 5, 6)]
    market.ok()
    found = {market.state.terms_of(c).order: c.id for c in market.state.each(Contract)}
    contracts = {phase: found[bid] for phase, bid in zip(PHASES, bids, strict=True)}
    _sessions(market, contracts)
    _admin(market)
    _stake(market)
    resting = market.bid("user-2", limit=1, start=FAR, end=FAR + HOUR)
    listing = market.offer("pile-7", ask=1_000_000, end=FAR)
    withdrawal = market.send("user-1", Withdraw(1_000_000, "bank"))
    market.ok(time_ms=AT)
    every = EveryPhase(market, contracts, resting, listing, withdrawal)
    _spend_note(every)
    phases = {phase: market.state.find(Contract, contracts[phase]) for phase in PHASES}
    assert {phase: c.phase for phase, c in phases.items() if c} == {phase: phase for phase in PHASES[:-1]}
    assert phases["closed"] is None
    assert market.state.find(Bid, resting)
    assert market.state.find(Listing, listing)
    return every


def _sessions(market: Market, contracts: dict[str, bytes]) -> None:
    """From the third on they begin; from the fourth on they end, stopped by the user after 3 of 5 kWh."""
    proofs = [market.prove("pile-7", HEARTBEAT, [(START, 4)])]
    for number, phase in enumerate(PHASES[2:], 3):
        pile = f"pile-{number}"
        proofs.append(market.begin(pile=pile, contract=contracts[phase]))
        if phase != "active":
            proofs.append(market.end(AT - 10_000, 103_000, 1, pile=pile, contract=contracts[phase]))
    market.submit(*proofs, time_ms=AT - 10_000)
    market.send("user-5", Object(contracts["disputed"], GROUND_CAUSE, 5000, "the pile stopped"))
    digest = decode_statement(market.state.get(Contract, contracts["closed"]).statement).digest()
    for party in ("user-6", "owner-6"):
        market.send(party, Confirm(contracts["closed"], digest))
    market.ok()


def _admin(market: Market) -> None:
    """A second zone and arbiter, a party of every role whose key is revoked, one word to restore one, an announced tariff."""
    market.send("operator", market.pile("pile-8", "owner-7", zone="south"))
    market.send("operator", RegisterParty("arbiter", "third-party", key("arbiter").public))
    for role in ROLES:
        name = "gone-" + {"pile-owner": "owner", "ev-owner": "user", "third-party": "auditor"}.get(role, role)
        market.send("operator", RegisterParty(name, role, key(name).public))
        market.send("grid", Deposit(name, 1_000_000, name))
        market.send("operator", RevokeKey(name))
    market.send("grid", RestoreKey("gone-user", key("gone-user, later").public))
    market.send("grid", SetTariff(NOW + 30 * HOUR, 0, [[0, "flat", 700_000, 300_000]]))
    market.send("grid", CollectFees("grid", 1))
    market.send("grid", Deposit("auditor", 5, "auditor"))
    market.ok()
    market.send("auditor", Withdraw(5, "bank"))
    market.ok()


def _stake(market: Market) -> None:
    """One node signs twice, and user-2 backs `grid` from the next epoch edge on."""
    market.absent = set()
    market.misbehaviour = (Misbehaviour(address_of(consensus("false-node")), 1),)
    market.send("user-2", Delegate("grid", 500_000))
    market.send("grid", Deposit("arbiter", 5_000_000, "arbiter"))
    market.send("arbiter", Delegate("grid", 1))
    market.ok()
    jailed = {c.party: c.jailed_until_ms for c in market.state.each(Candidate) if c.jailed_until_ms}
    assert jailed["operator"] <= AT < jailed["arbiter-2"]
    assert [c.party for c in market.state.each(Candidate) if c.tombstoned] == ["false-node"]
    voted = market.state.set_at(market.height + 2)
    assert voted is not None
    assert [member[0] for member in voted.members] == ["auditor", "grid"]


def _buy_notes(market: Market) -> None:
    """A bin that is full, and one that is not."""
    market.send("user-6", BuyNotes(base_public(BASE), [0] * 7 + [16]))
    market.send("user-6", BuyNotes(base_public(BASE), [1]))
    market.ok()


def _spend_note(every: EveryPhase) -> None:
    """The first of the bin."""
    public = key("spent").public
    body = RedeemNotes([every.note(0)], public, "user-6")
    until = every.market.height + 9
    tx = ring_sign_transaction(lambda m: [every.ring(m, 0)], every.market.chain_id, pseudonym(public), 1, until, body)
    every.market.ok(tx, time_ms=AT)


def twice_attested(market: Market, node: str, height: int, **over: object) -> list[bytes]:
    """Two headers of one height, each with a node's attestation."""
    signer, parts = key(str(over.get("signer", node + "/attest"))), []
    for number in (0, 1):
        header = Header(
            chain_id=str(over.get("chain_id", market.chain_id)),
            height=height + number * int(over.get("apart", 0)),  # type: ignore[call-overload]
            time_ms=NOW + number,
            proposer=node,
            tx_count=0,
            result_count=0,
            **dict.fromkeys(("previous", "tx_root", "result_root", "state_root"), bytes(32)),
            **dict.fromkeys(("validators_hash", "next_validators_hash"), bytes(32)),
        ).encoded()
        parts += [header, attest(header, signer, market.chain_id)]
    return parts


# --- no trace ------------------------------------------------------------------------------------------------------------


def indexes(state: State) -> dict[str, object]:
    """All that a state keeps besides its records, in a form that does not depend on its history.

    Left out are sums of 0, empty indexes, and deadlines that are void because their record moved on or left.
    """
    live = set()
    for kind in (Contract, Bid, Listing, Zone):
        for record in state.each(kind):
            if kind is not Zone or record.paused_until_ms:  # type: ignore[attr-defined]
                live.add((_deadline_ms(record), record.TABLE, record.key))
    waiting = set(state._deadlines)
    assert state._scheduled == waiting, "a deadline stands in the heap if and only if it is noted as scheduled"
    assert len(waiting) == len(state._deadlines), "and once"
    assert live <= waiting, "every deadline is waited for"
    return {
        "live": live,
        **{name: _keys(getattr(state, name)) for name in ("_by_pile", "_listings_by_owner", "_listings_by_zone")},
        "_bids_by_user": _keys(state._bids_by_user),
        "_bids_by_limit": {zone: list(rows) for zone, rows in state._bids_by_limit.items() if rows},
        "_listed": {
            owner: {z: n for z, n in zones.items() if n}
            for owner, zones in state._listed.items()
            if any(zones.values())
        },
        "_stakes_by_candidate": _keys(state._stakes_by_candidate),  # type: ignore[arg-type]
        "_set_heights": list(state._set_heights),
        "_ended": list(state._ended),
        "_terms": {contract: terms.encoded() for contract, terms in state._terms.items()},
        "totals": _sums(state.totals),
        "owed": _sums(state.owed),
        "open_wh": _sums(state.open_wh),
        "covered": {zone: dict(rows) for zone, rows in state.covered.items() if rows},
    }


def _keys(index: dict[str, dict[bytes, None]]) -> dict[str, set[bytes]]:
    return {name: set(keys) for name, keys in index.items()}


def _sums(sums: dict[str, int]) -> dict[str, int]:
    return {name: total for name, total in sums.items() if total}


def same_indexes(state: State, other: State) -> None:
    """Both hold the same records and would find, sum and wake the same: whatever way each came about."""
    assert state._tables == other._tables
    mine, theirs = indexes(state), indexes(other)
    for name, index in mine.items():
        assert index == theirs[name], name


class Traceless:
    """Applies single transactions to a market and takes each back, and fails if that leaves anything behind."""

    def __init__(self, market: Market) -> None:
        self.market = market
        same_indexes(market.state, State.load(market.rows.items()))
        self._before = indexes(market.state)
        self._tables = {kind: dict(table) for kind, table in market.state._tables.items()}

    def result(self, data: bytes) -> TxResult:
        """What the next block would make of `data`. A rejection must itself have left no trace, of an accepted one it is
        the roll-back that must leave none."""
        state, journal = self.market.state, Journal()
        mark = state.mark()
        result = apply_tx(state, self.market.env(), journal, data)
        if result.code != "ok":
            assert state.mark() == mark
            assert journal == Journal()
            assert result.message
            assert result.details == ()
            assert state._tables == self._tables
            assert indexes(state) == self._before
        state.roll_back(mark)
        assert indexes(state) == self._before
        assert self.market.seal() == self.market.root
        return result

    def code(self, data: bytes) -> str:
        return self.result(data).code
