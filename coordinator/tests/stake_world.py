"""A chain of four founding nodes and a fifth party that may stand, for tests of stake; everybody has 50 of the currency."""

from world import HOUR, Market, consensus, key, stake_json

from pile_coordinator.chain.election import LEAF_PUNISHED, LEAF_REWARD, LEAF_SET
from pile_coordinator.chain.env import Journal, Misbehaviour
from pile_coordinator.chain.records import Candidate, Stake, Staking
from pile_coordinator.chain.stake import address_of
from pile_coordinator.chain.transactions import Body, Deposit, RegisterCandidate
from pile_coordinator.chain.transition import Outcome, apply_tx
from pile_shared.codec import decode

FOUNDERS = {"auditor": 10_000_000, "grid": 10_000_000, "node-1": 10_000_000, "operator": 10_000_000}
MONEY = 50_000_000
EPOCH_MS = 6 * HOUR
RULES: dict[str, object] = {"evidence_age_blocks": 5, "evidence_age_ms": 10 * HOUR}


class StakeWorld(Market):
    """Blocks are a second apart unless a test says otherwise. `third` is a third party that does not stand yet."""

    def __init__(self, founders: dict[str, int] | None = None, piles: int = 1, **over: object) -> None:
        rules = {name: over.pop(name) for name in list(over) if name in stake_json({})["rules"]}  # type: ignore[operator]
        commissions = over.pop("commissions", {})
        founding = stake_json(founders or FOUNDERS, commissions, **(RULES | rules))  # type: ignore[arg-type]
        others = sorted({"node-1", "third", *(founders or {})} - {"auditor", "grid", "operator"})
        params = {"stake": founding, "more": [(name, "third-party") for name in others], "epoch_ms": EPOCH_MS} | over
        super().__init__(piles, 2, **params)  # type: ignore[arg-type]
        for name in ("grid", "operator", "auditor", *others):
            self.send("grid", Deposit(name, MONEY, f"stake of {name}"))
        self.ok()

    def refused(self, sender: str, body: Body, **over: object) -> str:
        """The code of a transaction that is refused without a trace; no block is made, for each one changes what nodes earned."""
        state, journal = self.state, Journal()
        mark = state.mark()
        code = apply_tx(state, self.env(), journal, self.tx(sender, body, **over)).code
        assert (state.mark(), journal) == (mark, Journal()), code
        return code

    def accepts(self, sender: str, body: Body) -> bool:
        """Whether the next block would take a transaction; it does not happen."""
        mark = self.state.mark()
        code = apply_tx(self.state, self.env(), Journal(), self.tx(sender, body)).code
        self.state.roll_back(mark)
        return code == "ok"

    def edge(self) -> Outcome:
        """The first block of the next epoch."""
        length_ms = self.state.params.epoch_ms
        passed = (self.time_ms - self.genesis.time_ms) // length_ms
        return self.ok(time_ms=self.genesis.time_ms + (passed + 1) * length_ms)

    def stand(self, party: str, micro: int, commission: int = 0) -> None:
        """Queue a candidacy."""
        body = RegisterCandidate(consensus(party), key(party + "/attest").public, commission, micro)
        self.send(party, body)

    def catch(self, party: str, height: int) -> None:
        """The engine has evidence against a node, for the next block."""
        self.misbehaviour += (Misbehaviour(address_of(consensus(party)), height),)

    def candidate(self, party: str) -> Candidate:
        return self.state.get(Candidate, party)

    def powers(self, height: int | None = None) -> dict[str, int]:
        """By party, of a block; of the newest set that is decided if none is given."""
        found = self.state.validator_sets()[-1] if height is None else self.state.set_at(height)
        assert found is not None
        return {str(member[0]): int(member[3]) for member in found.members}

    def held(self, party: str, candidate: str) -> dict[str, int]:
        """A party's stake for a candidate by phase."""
        rows = [s for s in self.state.each(Stake) if (s.delegator, s.candidate) == (party, candidate)]
        return {row.phase: sum(s.amount_micro for s in rows if s.phase == row.phase) for row in rows}

    def record(self, party: str, candidate: str, phase: str) -> Stake:
        (found,) = [
            s for s in self.state.each(Stake) if (s.delegator, s.candidate, s.phase) == (party, candidate, phase)
        ]
        return found

    def staking(self) -> Staking:
        return self.state.get(Staking, "staking")


def punished(outcome: Outcome) -> list[list]:
    """What the block's punishment leaves say, without their kind."""
    return _leaves(outcome, LEAF_PUNISHED)


def rewarded(outcome: Outcome) -> list[list]:
    return _leaves(outcome, LEAF_REWARD)


def elected(outcome: Outcome) -> list[list]:
    return _leaves(outcome, LEAF_SET)


def _leaves(outcome: Outcome, kind: int) -> list[list]:
    rows = [decode(leaf, 1 << 17) for leaf in outcome.leaves]
    return [row[1:] for row in rows if isinstance(row, list) and row[0] == kind]
