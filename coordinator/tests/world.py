"""A small chain for tests: named parties with real keys, and short ways to say what they do."""

from collections.abc import Callable

from hypothesis import HealthCheck, settings

from pile_coordinator.chain import accounts, election
from pile_coordinator.chain.env import Env, Misbehaviour
from pile_coordinator.chain.founding import founding_from_json
from pile_coordinator.chain.genesis import Genesis, genesis_from_json
from pile_coordinator.chain.invariants import check_in_full
from pile_coordinator.chain.records import MEASURED, Account, Contract, Party, Pile
from pile_coordinator.chain.settlement import Statement, decode_statement
from pile_coordinator.chain.transactions import (
    AT_MARKET,
    Body,
    Confirm,
    Deposit,
    List,
    PlaceBid,
    RegisterParty,
    RegisterPile,
    SubmitProofs,
    sign_transaction,
)
from pile_coordinator.chain.transition import Outcome, apply_block
from pile_coordinator.engines.engine import CachingVerifier
from pile_hil.site import PARAMS as SITE_PARAMS
from pile_shared import cose
from pile_shared.codec import decode, encode
from pile_shared.platform import es256_verify, sha256
from pile_shared.proof import BEGIN, NO_PREVIOUS, PERIODIC, REASON_ENERGY_REACHED, Origin, Proof, proof_hash
from pile_shared.proof import END as END_EVENT
from pile_shared.reading import Reading
from pile_shared.terms import LEAF_CLOSED, LEAF_SETTLEMENT, Terms

NOW = 1_700_000_000_000
HOUR = 3_600_000
START, END = NOW + HOUR // 2, NOW + 2 * HOUR

PARAMS = SITE_PARAMS | {
    "begin_grace_ms": HOUR,
    "evidence_window_ms": HOUR,
    "confirm_window_ms": HOUR,
    "breaker_permille": 0,  # its own tests switch it on
}


VERIFY = CachingVerifier(es256_verify)
_KEYS: dict[str, cose.SoftwareSigner] = {}


def bounded(examples: int) -> Callable[..., object]:
    """Hypothesis with a fixed number of examples, the same on every run and machine."""
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def key(name: str) -> cose.SoftwareSigner:
    """The same key for the same name, always."""
    if name not in _KEYS:
        _KEYS[name] = cose.SoftwareSigner(sha256(name.encode()))
    return _KEYS[name]


FLAT = {"from_minute": 0, "name": "flat", "sell_micro_per_kwh": 650_000, "buy_micro_per_kwh": 400_000}


STAKE_RULES: dict[str, object] = {
    "max_validators": 4,
    "min_self_bond_micro": 1_000_000,
    "reward_permille": 500,
    "evidence_age_blocks": 100_000,
    "evidence_age_ms": 48 * HOUR,
    "double_sign_ppm": 50_000,
    "downtime_ppm": 100,
    "downtime_window_blocks": 4,
    "jail_ms": 1000,
}


def consensus(name: str) -> bytes:
    """The 32 bytes that stand for the ed25519 key of a node; nothing in the chain verifies with it."""
    return sha256(f"{name}/consensus".encode())


def stake_json(
    founders: dict[str, int], commissions: dict[str, int] | None = None, **rules: object
) -> dict[str, object]:
    """The `stake` of a genesis file: candidates by party and bond in micro, and rules that differ from STAKE_RULES."""
    rows = [
        {
            "party": party,
            "consensus": consensus(party).hex(),
            "attestation": key(party + "/attest").public.hex(),
            "commission_permille": (commissions or {}).get(party, 0),
            "bond_micro": bond,
        }
        for party, bond in sorted(founders.items())
    ]
    return {"rules": STAKE_RULES | rules, "candidates": rows}


def elected(stake: dict[str, object], parties: list[tuple[str, str]]) -> dict[str, int]:
    """The powers that the chain itself gives founders; tests of elections say what they should be."""
    founding = founding_from_json(stake, tuple((party, role, key(party).public) for party, role in parties))
    return {validator.party: validator.power for validator in founding.validators()}


def genesis(
    *,
    tariff: dict[str, object] | None = None,
    stake: dict[str, object] | None = None,
    upgrades: list[dict[str, object]] | None = None,
    notes: dict[str, int] | None = None,
    powers: dict[str, int] | None = None,
    more: list[tuple[str, str]] | None = None,
    **params: object,
) -> Genesis:
    """Three founders and the site's parameters. A flat tariff, unless `tariff` is given; catalog_* change its prices.

    `stake` makes it elect: its founders, or `powers`, are the validators. `more` are founding parties by id and role.
    """
    flat = dict(FLAT)
    for name in ("sell_micro_per_kwh", "buy_micro_per_kwh"):
        flat[name] = params.pop(f"catalog_{name}", flat[name])
    founders = [("grid", "grid"), ("operator", "operator"), ("auditor", "third-party"), *(more or [])]
    attesting = powers or (elected(stake, founders) if stake else {p: 1 for p, _ in founders})
    optional = {
        name: given for name, given in (("stake", stake), ("upgrades", upgrades), ("notes", notes)) if given is not None
    }
    return genesis_from_json(
        {
            "name": "test",
            "time_ms": NOW,
            "params": PARAMS | params,
            "tariff": tariff or {"utc_offset_minutes": 0, "periods": [flat]},
            "parties": [{"id": p, "role": r, "public": key(p).public.hex()} for p, r in founders],
            "validators": [
                {"party": p, "public": key(p + "/attest").public.hex(), "power": power}
                for p, power in sorted(attesting.items())
            ],
        }
        | optional
    )


class World:
    """A chain at rest between blocks; `block` applies one and checks every invariant in full."""

    def __init__(self, **params: object) -> None:
        self.genesis = genesis(**params)  # type: ignore[arg-type]
        self.chain_id = self.genesis.chain_id
        self.state = self.genesis.state()
        self.rows: dict[bytes, bytes] = {}
        self.root = self.seal()
        self.height = 0
        self.time_ms = NOW
        self.queue: list[bytes] = []
        self.salt = b""  # another one is another history, so other seeds
        self.sequences: dict[str, int] = {}
        self.proofs: dict[str, tuple[int, bytes]] = {}
        self.absent: set[str] = set()  # accounting nodes that do not sign
        self.misbehaviour: tuple[Misbehaviour, ...] = ()  # what the engine finds in the next block

    def env(self, time_ms: int | None = None) -> Env:
        height = self.height + 1
        seed = sha256(self.salt + str(height).encode())
        return Env(self.chain_id, height, time_ms or self.time_ms, seed, VERIFY, self.reported(), self.misbehaviour)

    def reported(self) -> tuple[bytes, ...] | None:
        """Who signed the last block, as an engine reports it; None before there is one, and where nobody is elected."""
        voted = self.state.set_at(self.height)
        if voted is None or self.height == 0:
            return None
        present = [str(member[0]) for member in voted.members if member[0] not in self.absent]
        return election.addresses_at(self.state, self.height, set(present))

    def seal(self) -> bytes:
        """End a block; `rows` is then what a store would hold."""
        root, changes = self.state.seal()
        for row_key, value in changes:
            if value is None:
                self.rows.pop(row_key, None)
            else:
                self.rows[row_key] = value
        return root

    def raw(self, sender: str, kind: object, values: object, **over: object) -> bytes:
        """A transaction with any content whatever, well signed by the sender or `signer`."""
        row = [
            over.get("chain_id", self.chain_id),
            kind,
            sender,
            over.get("sequence", self.sequences.get(sender, 0) + 1),
            over.get("valid_until_height", self.height + 100),
            values,
        ]
        return cose.sign1(
            encode(row), key(str(over.get("signer", sender))), cose.purpose(cose.TRANSACTION, self.chain_id)
        )

    def tx(self, sender: str, body: Body, **over: object) -> bytes:
        sequence = over.get("sequence", self.sequences.get(sender, 0) + 1)
        signer = key(str(over.get("signer", sender)))
        chain_id = str(over.get("chain_id", self.chain_id))
        until = int(over.get("valid_until_height", self.height + 100))
        return sign_transaction(signer, chain_id, sender, sequence, until, body)

    def send(self, sender: str, body: Body) -> bytes:
        """Queue a transaction for the next block; its id."""
        data = self.tx(sender, body)
        self.sequences[sender] = self.sequences.get(sender, 0) + 1
        self.queue.append(data)
        return sha256(data)

    def block(self, *extra: bytes, time_ms: int | None = None) -> Outcome:
        self.time_ms = max(self.time_ms, time_ms or self.time_ms + 1000)
        outcome = apply_block(self.state, self.env(), self.queue + list(extra))
        for party in self.state.each(Party):
            self.sequences[party.id] = party.sequence
        self.queue.clear()
        self.misbehaviour = ()
        self.root = self.seal()
        self.height += 1
        check_in_full(self.state)
        return outcome

    def ok(self, *extra: bytes, time_ms: int | None = None) -> Outcome:
        outcome = self.block(*extra, time_ms=time_ms)
        assert [r.code for r in outcome.results] == ["ok"] * len(outcome.results), outcome.results
        return outcome

    def refused(self, sender: str, body: Body, **over: object) -> str:
        """The code of a transaction that is rejected without a trace, in a block of its own at the same time."""
        root = self.root
        (result,) = self.block(self.tx(sender, body, **over), time_ms=self.time_ms).results
        assert self.root == root
        return result.code

    def money(self, party: str) -> int:
        return self.state.balance_micro(f"P:{party}")

    def contract(self) -> Contract:
        (contract,) = self.state.each(Contract)
        return contract

    def prove(
        self,
        pile: str,
        event: int,
        points: list[tuple[int, int]],
        *,
        contract: bytes | None = None,
        reason: int = 0,
        **over: object,
    ) -> bytes:
        """The pile's next proof; points are (time_ms, energy_wh)."""
        sequence, previous = self.proofs.get(pile, (0, NO_PREVIOUS))
        registered = self.state.find(Pile, pile)
        serial = str(over.get("serial", registered.meter_serial if registered else "?"))
        proof = Proof(
            int(over.get("sequence", sequence + 1)),
            over.get("previous", previous),
            contract,
            event,
            [Reading(t, 2, e.to_bytes(8, "big"), e, 7000, 1) for t, e in points],
            reason,
            Origin("SDM630", serial, "eastron-sdm630", b"\x01" * 8) if event == BEGIN else None,
        )
        message = proof.sign(key(str(over.get("signer", pile))), self.chain_id)
        self.proofs[pile] = (proof.sequence, proof_hash(message))
        return message


class Market(World):
    """A world with piles of 7 kW in zone north, their owners (pile-1 is owner-1's) and users, all with money."""

    def __init__(
        self,
        piles: int = 1,
        users: int = 1,
        *,
        owner_micro: int = 100_000_000,
        user_micro: int = 1_000_000_000,
        **params: object,
    ) -> None:
        super().__init__(**params)
        for i in range(1, piles + 1):
            self.send("operator", RegisterParty(f"owner-{i}", "pile-owner", key(f"owner-{i}").public))
            self.send("operator", self.pile(f"pile-{i}", f"owner-{i}"))
        for i in range(1, users + 1):
            self.send("operator", RegisterParty(f"user-{i}", "ev-owner", key(f"user-{i}").public))
        for i in range(1, piles + 1):
            if owner_micro:
                self.send("grid", Deposit(f"owner-{i}", owner_micro, f"o{i}"))
        for i in range(1, users + 1):
            self.send("grid", Deposit(f"user-{i}", user_micro, f"u{i}"))
        self.ok()

    def pile(self, name: str, owner: str, zone: str = "north", power: int = 7000) -> RegisterPile:
        return RegisterPile(name, owner, key(name).public, "SDM630", f"meter of {name}", zone, power)

    def offer(
        self,
        pile: str = "pile-1",
        *,
        energy: int = 20_000,
        ask: int = AT_MARKET,
        start: int = NOW,
        end: int = NOW + 10 * HOUR,
        explicit: bool = False,
    ) -> bytes:
        owner = self.state.get(Pile, pile).owner
        return self.send(owner, List(pile, start, end, energy, ask, explicit))

    def bid(
        self,
        user: str = "user-1",
        *,
        energy: int = 5000,
        limit: int = 900_000,
        market: bool = False,
        pile: str = "",
        zone: str = "north",
        start: int = START,
        end: int = END,
        expires: int | None = None,
        divisible: bool = False,
        explicit: bool = False,
    ) -> bytes:
        last = 0 if market else end if expires is None else expires
        return self.send(user, PlaceBid(zone, pile, energy, start, end, limit, market, last, divisible, explicit))

    def signed(self, **bid: object) -> Contract:
        """The contract of a bid and an offer that meet in one block."""
        self.offer()
        self.bid(**bid)  # type: ignore[arg-type]
        self.ok()
        return self.contract()

    def terms(self) -> Terms:
        return self.state.terms_of(self.contract())

    def batch(self, *messages: bytes) -> SubmitProofs:
        return SubmitProofs(list(messages))

    def submit(self, *messages: bytes, time_ms: int | None = None) -> list[object]:
        """What became of each proof, handed in as one transaction in one block."""
        self.send("operator", self.batch(*messages))
        return list(self.ok(time_ms=time_ms).results[-1].details)

    def begin(
        self, *, time_ms: int = START + 1000, energy: int = 100_000, pile: str = "pile-1", **over: object
    ) -> bytes:
        contract = over.pop("contract", None) or self.contract().id
        return self.prove(pile, BEGIN, [(time_ms, energy)], contract=contract, **over)

    def periodic(self, time_ms: int, energy: int, *, pile: str = "pile-1", **over: object) -> bytes:
        contract = over.pop("contract", None) or self.contract().id
        return self.prove(pile, PERIODIC, [(time_ms, energy)], contract=contract, **over)

    def end(self, time_ms: int, energy: int, reason: int, *, pile: str = "pile-1", **over: object) -> bytes:
        contract = over.pop("contract", None) or self.contract().id
        return self.prove(pile, END_EVENT, [(time_ms, energy)], contract=contract, reason=reason, **over)

    def confirm(self, *parties: str) -> None:
        """Queue confirmations of the one contract's settlement."""
        contract = self.contract()
        digest = decode_statement(contract.statement).digest()
        for party in parties:
            self.send(party, Confirm(contract.id, digest))

    def measured(self, *, energy: int = 5000, reason: int = REASON_ENERGY_REACHED) -> Contract:
        """Take the one signed contract through a session that starts and ends in its window."""
        terms = self.terms()
        begin_ms, end_ms = terms.window_start_ms + 1000, terms.window_end_ms - 1000
        first = self.begin(time_ms=begin_ms)
        self.submit(first, self.end(end_ms, 100_000 + energy, reason), time_ms=end_ms + 500)
        assert self.contract().phase == MEASURED
        return self.contract()

    def stop(self, contract: bytes, signer: str = "user-1", action: int = 2) -> bytes:
        """A session command as the user signs it; 2 is the stop."""
        payload = encode([contract, action, b"\x01" * 8, NOW])
        return cose.sign1(payload, key(signer), cose.purpose(cose.SESSION, self.chain_id))

    def purses(self) -> tuple[int, int, int, int]:
        """The money of user-1, owner-1 and the grid, and the fees: U, H, G and F of the guide's table."""
        return self.money("user-1"), self.money("owner-1"), self.money("grid"), self.state.balance_micro("F")

    def gains(self, before: tuple[int, int, int, int]) -> tuple[int, ...]:
        """What those four have gained since then."""
        return tuple(now - then for now, then in zip(self.purses(), before, strict=True))

    def holds(self) -> dict[str, int]:
        """Escrows, bonds, objection bonds and withdrawals that are not empty."""
        names = [a.name for a in self.state.each(Account)]
        return {n: self.state.balance_micro(n) for n in names if accounts.kind_of(n) in "EBDW"}


def closings(outcome: Outcome) -> list[str]:
    """How the orders and contracts that a block closed ended."""
    return [leaf[2] for leaf in map(leaf_of, outcome.leaves) if leaf[0] == LEAF_CLOSED]


def statements(outcome: Outcome) -> list[Statement]:
    """The settlements a block wrote down."""
    return [decode_statement(leaf[1]) for leaf in map(leaf_of, outcome.leaves) if leaf[0] == LEAF_SETTLEMENT]


def leaf_of(leaf: bytes) -> list:  # type: ignore[type-arg]
    return decode(leaf, 1 << 20)  # type: ignore[return-value]
