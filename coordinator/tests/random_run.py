"""A long random run of a whole site, every transaction type in it and every way things go wrong, recorded as a ledger file.

`record(path)` plays it: the same every time. `replay_ledger.py` computes it again.
"""

import json
import random
from collections import Counter
from pathlib import Path

from every_phase import twice_attested
from note_world import Note, NoteHolders
from world import consensus, key, stake_json

from pile_coordinator.chain.env import Env, Misbehaviour
from pile_coordinator.chain.invariants import check_in_full
from pile_coordinator.chain.records import (
    Bid,
    Candidate,
    Contract,
    Dispute,
    Listing,
    NoteBin,
    Party,
    Pile,
    Stake,
    Withdrawal,
    Zone,
)
from pile_coordinator.chain.settlement import CAUSE_PILE, CAUSE_USER, decode_statement
from pile_coordinator.chain.stake import address_of
from pile_coordinator.chain.transactions import (
    AT_MARKET,
    Answer,
    Body,
    BuyNotes,
    CancelBid,
    CancelContract,
    CollectFees,
    Confirm,
    Delegate,
    Deposit,
    DoubleAttestation,
    List,
    Object,
    PayOut,
    PlaceBid,
    RedeemNotes,
    RefuseWithdrawal,
    RegisterCandidate,
    RegisterParty,
    RegisterPile,
    RestoreKey,
    RetirePile,
    RevokeKey,
    RotateKey,
    Rule,
    SetCommission,
    SetTariff,
    Sign,
    SubmitProofs,
    Undelegate,
    Unjail,
    Unlist,
    VoteUpgrade,
    Withdraw,
    pseudonym,
)
from pile_coordinator.chain.transition import Outcome, apply_block
from pile_coordinator.engines.engine import Block, handover_after, set_hashes, validators_at
from pile_coordinator.engines.store import Store
from pile_coordinator.replay import NO_PREVIOUS
from pile_shared import cose, merkle
from pile_shared.certificate import Certificate, Header, attest
from pile_shared.codec import encode
from pile_shared.proof import ALARM, BEGIN, END, HEARTBEAT, PERIODIC

MINUTE = 60_000
STEP = 10 * MINUTE
BLOCKS = 320
SEED = 20261123
PARAMS: dict[str, object] = {
    "begin_grace_ms": 20 * MINUTE,
    "evidence_window_ms": 30 * MINUTE,
    "confirm_window_ms": 90 * MINUTE,
    "dispute_window_ms": 3 * 60 * MINUTE,
    "sign_window_ms": 30 * MINUTE,
    "cancel_cutoff_ms": 20 * MINUTE,
    "epoch_ms": 6 * 60 * MINUTE,
    "breaker_permille": 15,
    "breaker_pause_ms": 40 * MINUTE,
    "objection_bond_micro": 300_000,
    "rulings_needed": 2,
    "stake": stake_json(
        {"grid": 9_000_000, "operator": 8_000_000, "auditor": 7_500_000, "node-1": 30_000_000, "node-2": 3_000_000},
        {"node-1": 100},
        max_validators=5,
        evidence_age_blocks=60,
        evidence_age_ms=12 * 60 * MINUTE,
        downtime_window_blocks=8,
        jail_ms=2 * 60 * MINUTE,
    ),
    "more": [("node-1", "third-party"), ("node-2", "third-party")],
    "tariff": {
        "utc_offset_minutes": 480,
        "periods": [
            {"from_minute": 0, "name": "valley", "sell_micro_per_kwh": 400_000, "buy_micro_per_kwh": 200_000},
            {"from_minute": 480, "name": "peak", "sell_micro_per_kwh": 900_000, "buy_micro_per_kwh": 400_000},
            {"from_minute": 1320, "name": "flat", "sell_micro_per_kwh": 650_000, "buy_micro_per_kwh": 300_000},
        ],
    },
}


class RecordedMarket(NoteHolders):
    """A market whose blocks are written into a ledger file, as the solo engine writes them."""

    def __init__(self, path: Path, *, piles: int, users: int, **params: object) -> None:
        self.path = path
        self.previous = NO_PREVIOUS
        self.changes: list[tuple[bytes, bytes | None]] = []
        self.store: Store | None = None
        self.seen: Counter[str] = (
            Counter()
        )  # in how many blocks a contract was in a phase, a zone paused, a pile in doubt
        super().__init__(piles, users, **params)  # type: ignore[arg-type]

    def env(self, time_ms: int | None = None) -> Env:
        env = super().env(time_ms)
        return Env(env.chain_id, env.height, env.time_ms, self.previous, env.verify, env.signed, env.misbehaviour)

    def seal(self) -> bytes:
        root, changes = self.state.seal()
        self.changes.extend(changes)
        for row_key, value in changes:
            if value is None:
                self.rows.pop(row_key, None)
            else:
                self.rows[row_key] = value
        return root

    def block(self, *extra: bytes, time_ms: int | None = None) -> Outcome:
        self.time_ms = max(self.time_ms, time_ms or self.time_ms + 1000)
        env, txs = self.env(), [*self.queue, *extra]
        outcome = apply_block(self.state, env, txs)
        for party in self.state.each(Party):
            self.sequences[party.id] = party.sequence
        self.queue.clear()
        self.misbehaviour = ()
        self.root = self.seal()
        self.height += 1
        check_in_full(self.state)
        self._write(env, txs, outcome)
        self.seen.update({contract.phase for contract in self.state.each(Contract)})
        self.seen.update({"paused" for zone in self.state.each(Zone) if zone.paused_until_ms})
        self.seen.update({pile.anomaly for pile in self.state.each(Pile) if pile.anomaly})
        return outcome

    def _write(self, env: Env, txs: list[bytes], outcome: Outcome) -> None:
        validators = validators_at(self.genesis, self.state, env.height)
        now, following = set_hashes(self.genesis, self.state, env.height)
        header = Header(
            chain_id=self.chain_id,
            height=env.height,
            time_ms=env.time_ms,
            proposer=validators[0].party,
            tx_count=len(txs),
            result_count=len(outcome.leaves),
            previous=self.previous,
            tx_root=merkle.root(txs),
            result_root=merkle.root(outcome.leaves),
            state_root=self.root,
            validators_hash=now,
            next_validators_hash=following,
        )
        data = header.encoded()
        signed: list[list[object]] = [
            [i, attest(data, key(v.party + "/attest"), self.chain_id)] for i, v in enumerate(validators)
        ]
        if self.store is None:
            self.store = Store(self.path, self.genesis.hash())
        block = Block(Certificate(data, signed), txs, outcome.results, outcome.leaves)
        self.store.commit(block, self.changes)
        self.store.hand_over(handover_after(self.genesis, self.state, block), header)
        self.changes = []
        self.previous = header.hash()


class RandomRun:
    """Decides at random, but the same every time, what everybody at the site does in each block."""

    def __init__(self, market: RecordedMarket, seed: int = SEED) -> None:
        self.market = market
        self.rng = random.Random(seed)
        self.keys = {key(party.id).public: party.id for party in market.state.each(Party)}  # public -> name of key
        self.rotated: dict[str, str] = {}  # in this block: party -> name of its new key
        self.meters: dict[str, int] = {}
        self.counter = 0
        self.spent: list[Note] = []  # or tried to
        self.late: list[bytes] = []  # transactions kept back, to be sent again when it is too late
        self.acts = [
            (6, self.offer), (16, self.bid), (1, self.unlist), (3, self.cancel), (6, self.sign), (3, self.call_off),
            (2, self.withdraw), (2, self.pay), (3, self.deposit), (1, self.collect), (1, self.set_tariff),
            (1, self.register), (1, self.rotate), (1, self.revoke), (2, self.restore), (1, self.retire), (2, self.nonsense),
            (2, self.delegate), (2, self.undelegate), (1, self.commission), (1, self.vote),
            (3, self.buy_notes), (4, self.bid_as_nobody), (1, self.redeem),
        ]  # fmt: skip

    # --- how it runs ---

    def step(self, number: int) -> None:
        """One block: what meters and contracts call for, then a few random acts."""
        market, rng = self.market, self.rng
        for pile in market.state.each(Pile):
            market.proofs[pile.id] = (pile.last_sequence, pile.last_hash)
        self.rotated.clear()
        step_ms = 4 * 60 * MINUTE if number % 60 == 59 else STEP  # now and then nothing is heard for hours
        market.time_ms += step_ms
        self.hand_in_proofs()
        for contract in market.state.each(Contract):
            {"measured": self.settle, "disputed": self.argue}.get(contract.phase, lambda _: None)(contract)
        self.nodes_act(number)
        for _ in range(rng.randint(4, 12)):
            rng.choices([act for _, act in self.acts], [weight for weight, _ in self.acts])[0]()
        extra = [self.late.pop()] if self.late and rng.random() < 0.1 else []
        market.block(*extra, time_ms=market.time_ms)

    def send(self, sender: str, body: Body) -> None:
        market = self.market
        if sender in market.orders and self.rng.random() < 0.95:
            data = market.act(sender, body)
        else:
            data = market.tx(sender, body, signer=self.signer_of(sender))
        market.sequences[sender] = market.sequences.get(sender, 0) + 1
        market.queue.append(data)
        if self.rng.random() < 0.02:
            self.late.append(data)

    def signer_of(self, sender: str) -> str:
        party = self.market.state.find(Party, sender)
        return self.rotated.get(sender) or (self.keys[party.public] if party and party.public else sender)

    def any_party(self, *roles: str) -> str:
        parties = [party.id for party in self.market.state.each(Party) if party.role in roles]
        return self.rng.choice(parties)

    def fresh(self, name: str) -> str:
        self.counter += 1
        return f"{name}-{100 + self.counter}"

    def new_key(self, name: str) -> bytes:
        name = self.fresh(name)
        self.keys[key(name).public] = name
        return key(name).public

    # --- orders ---

    def offer(self) -> None:
        piles = [pile for pile in self.market.state.each(Pile) if not pile.retired or self.rng.random() < 0.1]
        pile, at, rng = self.rng.choice(piles), self.market.time_ms, self.rng
        ask = AT_MARKET if rng.random() < 0.6 else rng.choice([50] * 30 + [*range(350, 800)]) * 1000
        start = at + rng.randint(-1, 3) * STEP
        body = List(
            pile.id,
            start,
            start + rng.randint(2, 18) * 60 * MINUTE,
            rng.randint(10, 400) * 100,
            ask,
            rng.random() < 0.15,
        )
        self.send(pile.owner, body)

    def bid(self) -> None:
        rng, at = self.rng, self.market.time_ms
        divisible = rng.random() < 0.2
        start = at + rng.randint(0, 5) * STEP + rng.randint(0, 1)
        end = start + rng.randint(2, 8) * STEP
        market = rng.random() < 0.3
        body = PlaceBid(
            zone=rng.choice(["north"] * 5 + ["south", "east"]),
            pile=rng.choice([""] * 6 + ["pile-1", "pile-2"]),
            energy_wh=100 * rng.randint(3, 250 if divisible else 50) + (rng.random() < 0.02),
            window_start_ms=start,
            window_end_ms=end,
            limit_micro_per_kwh=rng.randint(380, 1300) * 1000,
            market=market,
            expires_ms=0 if market else at + rng.randint(1, 6) * STEP,
            divisible=divisible,
            explicit=rng.random() < 0.15,
        )
        self.send(self.any_party("ev-owner"), body)

    def unlist(self) -> None:
        listings = self.market.state.each(Listing)
        if listings:
            listing = self.rng.choice(listings)
            self.send(listing.owner, Unlist(listing.id))

    def cancel(self) -> None:
        bids = self.market.state.each(Bid)
        if bids:
            bid = self.rng.choice(bids)
            self.send(bid.user if self.rng.random() < 0.9 else "user-1", CancelBid(bid.id))

    def of_phase(self, *phases: str) -> list[Contract]:
        return [contract for contract in self.market.state.each(Contract) if contract.phase in phases]

    def sign(self) -> None:
        for contract in self.of_phase("proposed"):
            terms = self.market.state.terms_of(contract)
            for party, signed in ((terms.user, contract.user_signed), (terms.owner, contract.owner_signed)):
                if not signed and self.rng.random() < 0.6:
                    self.send(party, Sign(contract.id))

    def call_off(self) -> None:
        contracts = self.of_phase("proposed", "signed", "signed", "active")
        if contracts:
            contract = self.rng.choice(contracts)
            terms = self.market.state.terms_of(contract)
            self.send(self.rng.choice([terms.user, terms.owner]), CancelContract(contract.id))

    # --- sessions ---

    def hand_in_proofs(self) -> None:
        batch = [proof for pile in self.market.state.each(Pile) for proof in self.proofs_of(pile)]
        if batch:
            self.send("operator", SubmitProofs(batch))

    def proofs_of(self, pile: Pile) -> list[bytes]:
        """What a pile says about the last minutes: the truth nearly always."""
        rng, market, at = self.rng, self.market, self.market.time_ms
        if rng.random() < (0.95 if pile.retired else 0.15) or at <= pile.last_time_ms:
            return []
        contracts = market.state.contracts_on(pile.id)
        active = [contract for contract in contracts if contract.phase == "active"]
        before = max(self.meters.get(pile.id, 100_000), pile.last_energy_wh)  # a leap that was believed stays
        energy = before + (rng.randint(300, 1100) if active else 0)
        if pile.last_time_ms and active:  # not more than its rated power gives
            most = pile.rated_power_w * (at - pile.last_time_ms) // 3_600_000
            energy = min(energy, before + most)
        self.meters[pile.id] = energy
        proof = self.proof_of(pile, active, [c for c in contracts if c.phase == "signed"], energy)
        return [proof] if rng.random() < 0.96 else self.spoilt(pile, proof, energy)

    def proof_of(self, pile: Pile, active: list[Contract], signed: list[Contract], energy: int) -> bytes:
        rng, market, at = self.rng, self.market, self.market.time_ms
        points = (
            [(at - 1, energy), (at, energy)] if rng.random() < 0.3 and at - 1 > pile.last_time_ms else [(at, energy)]
        )
        if active:
            contract = active[0]
            terms = market.state.terms_of(contract)
            got_wh = energy - contract.begin_energy_wh
            limit_wh = terms.energy_wh + (terms.overuse_wh if rng.random() < 0.2 else 0)
            if got_wh >= limit_wh or at >= terms.window_end_ms or rng.random() < 0.12:
                return market.prove(pile.id, END, points, contract=contract.id, reason=rng.randint(1, 8))
            return market.prove(pile.id, PERIODIC, points, contract=contract.id)
        for contract in signed:
            terms = market.state.terms_of(contract)
            is_time = terms.window_start_ms <= at <= terms.window_start_ms + 20 * MINUTE
            if (is_time and rng.random() < 0.75) or rng.random() < 0.01:
                return market.prove(pile.id, BEGIN, points, contract=contract.id)
        if rng.random() < 0.05:
            return market.prove(pile.id, ALARM, [], reason=rng.randint(5, 8))
        return market.prove(pile.id, HEARTBEAT, points)

    def spoilt(self, pile: Pile, proof: bytes, energy: int) -> list[bytes]:
        """A proof that is late, torn, forged, forked, or says what cannot be."""
        market, at, rng = self.market, self.market.time_ms, self.rng
        sequence, made = pile.last_sequence + 1, market.proofs[pile.id]
        lies = {
            "gap": {"sequence": sequence + 2},
            "unchained": {"previous": b"\x01" * 32},
            "fork": {"sequence": max(1, sequence - 1)},
        }
        kind = rng.choice(["twice", "torn", "forged", "stranger", "falls", "leaps", "ahead", *lies, "fork"])
        if kind in lies:
            extra = market.prove(pile.id, HEARTBEAT, [(at, energy)], **lies[kind])
        elif kind in {"falls", "leaps", "ahead"}:
            time_ms = at + 3_600_000 if kind == "ahead" else at
            market.proofs[pile.id] = (pile.last_sequence, pile.last_hash)
            return [
                market.prove(
                    pile.id, HEARTBEAT, [(time_ms, max(0, energy + {"falls": -500, "leaps": 9_000_000}.get(kind, 0)))]
                )
            ]
        else:
            forged = bytearray(proof)
            forged[-40] ^= 1
            stranger = market.prove("stranger", HEARTBEAT, [(at, energy)])
            extra = {"twice": proof, "torn": proof[:-1], "forged": bytes(forged), "stranger": stranger}[kind]
        market.proofs[pile.id] = made
        return [extra, proof] if kind in {"forged", "torn", "fork"} else [proof, extra]

    # --- settlement ---

    def settle(self, contract: Contract) -> None:
        rng, market = self.rng, self.market
        terms, statement = market.state.terms_of(contract), decode_statement(contract.statement)
        for party, signed in ((terms.user, contract.user_signed), (terms.owner, contract.owner_signed)):
            chance = rng.random()
            if not signed and chance < 0.3:
                self.send(party, Confirm(contract.id, statement.digest() if rng.random() < 0.95 else bytes(32)))
            elif chance > 0.9:
                claim = rng.choice([statement.measured_wh, terms.energy_wh])
                self.send(party, Object(contract.id, rng.choice(["energy", "cause"]), claim, "not so"))

    def argue(self, contract: Contract) -> None:
        rng, market = self.rng, self.market
        terms, dispute = market.state.terms_of(contract), market.state.get(Dispute, contract.id)
        measured = decode_statement(contract.statement).measured_wh
        if rng.random() < 0.3 and dispute.ground == "cause":
            self.send(terms.owner, Answer(contract.id, self.stop(contract, terms.user_public)))
        for arbiter in ("auditor", "arbiter-1", "arbiter-2"):
            if rng.random() < 0.15:
                energy = rng.choice([measured, measured, dispute.claimed_wh])
                self.send(arbiter, Rule(contract.id, energy, rng.choice([CAUSE_USER, CAUSE_PILE])))

    def stop(self, contract: Contract, public: bytes) -> bytes:
        payload = encode([contract.id, 2, b"\x01" * 8, self.market.time_ms // 1000])
        signer = key(self.keys[public] if self.rng.random() < 0.8 else "eve")
        return cose.sign1(payload, signer, cose.purpose(cose.SESSION, self.market.chain_id))

    # --- notes ---

    def buy_notes(self) -> None:
        user = self.any_party("ev-owner")
        self.send("grid", Deposit(user, 8_000_000, self.fresh("for notes")))
        self.send(user, BuyNotes(self.market.base(user), [0, 0, 0, 2, 0, 2]))

    def some_notes(self) -> list[Note]:
        """One or two that can be spent, or very nearly; now and then one that was, if its bin is still there."""
        if self.spent and self.rng.random() < 0.2:
            return [note for note in [self.rng.choice(self.spent)] if self.market.state.find(NoteBin, note.bin)]
        found = self.market.notes_of()
        chosen = self.rng.sample(found, min(len(found), self.rng.randint(1, 2)))
        self.spent += chosen
        return chosen

    def bid_as_nobody(self) -> None:
        rng, spent, at = self.rng, self.some_notes(), self.market.time_ms
        if spent:
            name, start = self.fresh("nobody"), at + rng.randint(1, 4) * STEP
            self.keys[key(name).public] = name
            _, data = self.market.pay(
                spent, name, energy=100 * rng.randint(3, 25), limit=rng.randint(600, 1300) * 1000,
                market=rng.random() < 0.3, start=start, end=start + rng.randint(2, 6) * STEP,
                expires=at + rng.randint(1, 6) * STEP,
            )  # fmt: skip
            self.market.queue.append(data)

    def redeem(self) -> None:
        spent = self.some_notes()
        if spent:
            public, rows = key(self.fresh("redeemer")).public, self.market.spent_rows(spent)
            if self.rng.random() < 0.2:
                rows[0][0] = rows[0][0][:1] + bytes([255]) * 8  # a bin that is not there
            body = RedeemNotes(rows, public, self.any_party("ev-owner", "pile-owner"))
            self.market.queue.append(self.market.nobody(body, spent, pseudonym(public)))

    # --- money, tariff, parties ---

    def withdraw(self) -> None:
        self.send(self.any_party("pile-owner", "ev-owner", "grid"), Withdraw(self.rng.randint(1, 3_000_000), "bank"))

    def pay(self) -> None:
        for withdrawal in self.market.state.each(Withdrawal)[:2]:
            body = (
                PayOut(withdrawal.id, self.fresh("paid"))
                if self.rng.random() < 0.7
                else RefuseWithdrawal(withdrawal.id, "no")
            )
            self.send("grid" if self.rng.random() < 0.95 else "operator", body)

    def deposit(self) -> None:
        reference = self.fresh("in") if self.rng.random() < 0.95 else "u1"
        self.send("grid", Deposit(self.any_party("pile-owner", "ev-owner"), self.rng.randint(1, 20_000_000), reference))

    def collect(self) -> None:
        self.send("grid", CollectFees(self.rng.choice(["operator", "grid", "user-1"]), self.rng.randint(1, 150_000)))

    def set_tariff(self) -> None:
        rng = self.rng
        minutes = [0, *sorted(rng.sample(range(1, 1440), rng.randint(0, 4)))]
        periods: list[list[int | str]] = [
            [m, f"p{m}", rng.randint(350, 950) * 1000, rng.randint(100, 350) * 1000] for m in minutes
        ]
        body = SetTariff(self.market.time_ms + rng.randint(-1, 30) * STEP, rng.choice([480, 0, -300]), periods)
        self.send("grid" if rng.random() < 0.95 else "user-1", body)

    def register(self) -> None:
        name, rng = self.fresh("new"), self.rng
        role = rng.choice(["ev-owner", "pile-owner"])
        self.keys[key(name).public] = name
        self.send("operator", RegisterParty(name, role, key(name).public))
        self.send("grid", Deposit(name, 5_000_000, name))
        if role == "pile-owner":
            pile, zone = self.fresh("pile"), rng.choice(["north", "south"])
            self.send(
                "operator", RegisterPile(pile, name, key(pile).public, "SDM630", pile, zone, rng.choice([3500, 7000]))
            )

    def rotate(self) -> None:
        party = self.any_party("pile-owner", "ev-owner", "third-party")
        public = self.new_key(party)
        self.send(party, RotateKey(public))
        self.rotated[party] = self.keys[public]

    def revoke(self) -> None:
        party = self.any_party("pile-owner", "ev-owner")
        self.send(self.rng.choice([party, "operator"]), RevokeKey(party))

    def restore(self) -> None:
        for party in self.market.state.each(Party):
            if not party.public and self.rng.random() < 0.5:
                public = self.new_key(party.id)
                for admitting in ("grid", "operator"):
                    self.send(admitting, RestoreKey(party.id, public))

    def retire(self) -> None:
        piles = [pile for pile in self.market.state.each(Pile) if pile.id not in {"pile-1", "pile-2", "pile-3"}]
        if piles and self.rng.random() < 0.3:
            pile = self.rng.choice(piles)
            self.send(self.rng.choice([pile.owner, "operator"]), RetirePile(pile.id))

    # --- accounting nodes ---

    def nodes_act(self, number: int) -> None:
        """Now and then a node is away for a while, signs twice, or attests twice; new ones stand, and old ones come back."""
        market, rng = self.market, self.rng
        candidates = market.state.each(Candidate)
        if number % 12 == 0:
            market.absent = {rng.choice(candidates).party} if rng.random() < 0.6 else set()
        if number % 40 == 20:
            self.stand()
        for candidate in candidates:
            if candidate.jailed_until_ms and rng.random() < 0.3:
                self.send(candidate.party, Unjail())
        voted = market.state.set_at(market.height)
        assert voted is not None
        nodes = [str(member[0]) for member in voted.members if str(member[0]).startswith("node")]
        if number % 70 == 45 and nodes:
            self.send(
                "user-2", DoubleAttestation(nodes[0], *twice_attested(market, nodes[0], market.height, signer="eve"))
            )
            self.send("user-1", DoubleAttestation(nodes[0], *twice_attested(market, nodes[0], market.height)))
        if number % 90 == 80 and nodes:
            liar = address_of(market.state.get(Candidate, nodes[-1]).consensus)
            market.misbehaviour = (Misbehaviour(liar, market.height - rng.randint(0, 20)),)
        if number == 100:
            for member in voted.members:
                self.send(str(member[0]), VoteUpgrade("reporter-part", market.height + 110))

    def stand(self) -> None:
        name, rng = self.fresh("node"), self.rng
        self.keys[key(name).public] = name
        self.send("operator", RegisterParty(name, "third-party", key(name).public))
        self.send("grid", Deposit(name, 40_000_000, name))
        body = RegisterCandidate(
            consensus(name), key(name + "/attest").public, rng.randint(0, 300), rng.randint(5, 35) * 1_000_000
        )
        self.send(name, body)

    def delegate(self) -> None:
        names = [candidate.party for candidate in self.market.state.each(Candidate)]
        party = self.any_party("pile-owner", "ev-owner", "operator", "third-party")
        chosen = self.rng.choice([*names, *names, "nobody"])
        self.send(party, Delegate(chosen, self.rng.randint(1, 3_000_000)))

    def undelegate(self) -> None:
        stakes = self.market.state.each(Stake)
        stake = self.rng.choice(stakes)
        amount = stake.amount_micro if self.rng.random() < 0.3 else self.rng.randint(1, 2_000_000)
        self.send(stake.delegator, Undelegate(stake.candidate, amount))

    def commission(self) -> None:
        self.send(self.any_party("operator", "third-party"), SetCommission(self.rng.randint(0, 500)))

    def vote(self) -> None:
        name = self.rng.choice(["reporter-part", "other-rule"])
        self.send(
            self.any_party("operator", "third-party"), VoteUpgrade(name, self.market.height + self.rng.randint(90, 500))
        )

    def nonsense(self) -> None:
        """What comes from outside and is refused at once."""
        rng, market = self.rng, self.market
        good = market.tx("grid", Deposit("user-1", 1, self.fresh("odd")))
        forged = bytearray(good)
        forged[-40] ^= 1
        odd = [
            b"",
            good[:-1],
            bytes(70_000),
            market.raw("grid", "no-type", []),
            market.raw("grid", "deposit", ["user-1", -1, "x"]),
            market.tx("nobody", Withdraw(1, "bank")),
            market.tx("grid", Withdraw(1, "bank"), chain_id="other"),
            market.tx("grid", Withdraw(1, "bank"), valid_until_height=1),
            market.tx("grid", Withdraw(1, "bank"), valid_until_height=10**9),
            market.tx("grid", Withdraw(1, "bank"), sequence=1 << 40),
            market.tx("user-2", Deposit("user-1", 1, "x"), signer=self.signer_of("user-2")),
        ]
        market.queue.append(bytes(forged) if rng.random() < 0.05 else rng.choice(odd))


def record(path: Path, blocks: int = BLOCKS) -> tuple[RecordedMarket, list[bytes]]:
    """Play the run into a new ledger file; the market at its end, and the state root after each block."""
    market = RecordedMarket(path, piles=6, users=8, owner_micro=30_000_000, user_micro=40_000_000, **PARAMS)
    roots = [market.root]
    for number in (1, 2):
        market.send("operator", RegisterParty(f"arbiter-{number}", "third-party", key(f"arbiter-{number}").public))
    market.send("operator", market.pile("pile-7", "owner-1", zone="south", power=22_000))
    run = RandomRun(market)
    market.ok()
    roots.append(market.root)
    for party in market.state.each(Party):
        run.keys[party.public] = party.id
    for number in range(blocks - 2):
        run.step(number)
        roots.append(market.root)
    assert market.store is not None
    market.store.close()
    path.with_name("genesis.json").write_text(json.dumps(market.genesis.to_json()))
    return market, roots
