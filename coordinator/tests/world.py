"""A small chain for tests: named parties with real keys, and short ways to say what they do."""

from pile_coordinator.chain.env import Env
from pile_coordinator.chain.genesis import Genesis, genesis_from_json
from pile_coordinator.chain.invariants import check_in_full
from pile_coordinator.chain.records import Contract, Party, Pile
from pile_coordinator.chain.state import State
from pile_coordinator.chain.transactions import Body, sign_transaction
from pile_coordinator.chain.transition import Outcome, apply_block
from pile_shared import cose
from pile_shared.platform import es256_verify, sha256
from pile_shared.proof import BEGIN, NO_PREVIOUS, Origin, Proof, proof_hash
from pile_shared.reading import Reading

NOW = 1_700_000_000_000
HOUR = 3_600_000
START, END = NOW + HOUR // 2, NOW + 2 * HOUR

PARAMS = {
    "currency": "CNY",
    "treasury": "grid",
    "grid": "grid",
    "catalog_sell_micro_per_kwh": 650_000,
    "catalog_buy_micro_per_kwh": 400_000,
    "crr_numerator": 4,
    "crr_denominator": 5,
    "capacity_hours": 2,
    "tolerance_permille": 20,
    "tolerance_min_wh": 100,
    "overuse_permille": 100,
    "fee_micro": 50_000,
    "bond_permille": 200,
    "penalty_permille": 500,
    "no_show_permille": 300,
    "begin_grace_ms": HOUR,
    "evidence_window_ms": HOUR,
    "confirm_window_ms": HOUR,
}


def key(name: str) -> cose.SoftwareSigner:
    """The same key for the same name, always."""
    return cose.SoftwareSigner(sha256(name.encode()))


def genesis(**params: object) -> Genesis:
    founders = [("grid", "grid"), ("operator", "operator"), ("auditor", "third-party")]
    return genesis_from_json(
        {
            "name": "test",
            "time_ms": NOW,
            "params": PARAMS | params,
            "parties": [{"id": p, "role": r, "public": key(p).public.hex()} for p, r in founders],
            "validators": [
                {"party": p, "public": key(p + "/attest").public.hex(), "power": 1} for p, _ in sorted(founders)
            ],
        }
    )


class World:
    """A chain at rest between blocks; `block` applies one and checks every invariant in full."""

    def __init__(self, **params: object) -> None:
        self.genesis = genesis(**params)
        self.chain_id = self.genesis.chain_id
        self.state: State = self.genesis.state()
        self.root, _ = self.state.seal()
        self.height = 0
        self.time_ms = NOW
        self.queue: list[bytes] = []
        self.sequences: dict[str, int] = {}
        self.proofs: dict[str, tuple[int, bytes]] = {}

    def env(self, time_ms: int | None = None) -> Env:
        height = self.height + 1
        return Env(self.chain_id, height, time_ms or self.time_ms, sha256(str(height).encode()), es256_verify)

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
        self.root, _ = self.state.seal()
        self.height += 1
        check_in_full(self.state)
        return outcome

    def ok(self, *extra: bytes, time_ms: int | None = None) -> Outcome:
        outcome = self.block(*extra, time_ms=time_ms)
        assert [r.code for r in outcome.results] == ["ok"] * len(outcome.results), outcome.results
        return outcome

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
