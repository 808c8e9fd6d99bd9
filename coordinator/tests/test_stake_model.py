"""The chain beside a second implementation of docs/stake.md (stake_model.py): after every block they must agree.

Hypothesis writes the stories: who stands, who backs whom, who is away, who signs twice, what fees come in, and the time between.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256

import pytest
import stake_model as model
from every_phase import twice_attested
from hypothesis import HealthCheck, Phase, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from world import HOUR, NOW, World, consensus, key, stake_json

from pile_coordinator.chain import accounts, conduct, election, stake, upgrades
from pile_coordinator.chain import transactions as tx
from pile_coordinator.chain.env import Misbehaviour
from pile_coordinator.chain.records import (
    Account,
    Candidate,
    Stake,
    StakeRules,
    Staking,
    Upgrade,
    UpgradeVotes,
)
from pile_coordinator.chain.state import State
from pile_coordinator.chain.transition import Outcome

NODES = ("auditor", "grid", "node-1", "node-2", "operator")
LATER = ("node-3", "node-4")  # may stand later
BACKERS = ("user-1", "user-2")
ROLES = {"grid": "grid", "operator": "operator", "auditor": "third-party"} | dict.fromkeys(
    ("node-1", "node-2", *LATER), "third-party"
)
EPOCH_MS = 6 * HOUR
RULES: dict[str, object] = {
    "max_validators": 4,
    "min_self_bond_micro": 2_000_000,
    "evidence_age_blocks": 6,
    "evidence_age_ms": 8 * HOUR,
    "downtime_window_blocks": 4,
    "jail_ms": 3 * HOUR,
}
BONDS = {"auditor": 5_000_000, "grid": 9_000_000, "node-1": 60_500_000, "node-2": 5_000_000, "operator": 5_000_000}
COMMISSIONS = {"node-1": 100, "operator": 1000}
OPENING = 50_000_000

SEEN: Counter[tuple[str, str]] = Counter()


class DisagreementError(AssertionError):
    """Chain and model say different things of one block."""


def address(name: str) -> bytes:
    """Of a node's key, as CometBFT makes it."""
    return sha256(consensus(name)).digest()[:20]


class Pair:
    """One chain and one model of it, which are told the same. `block` compares them."""

    def __init__(self, **rules: object) -> None:
        founding = stake_json(BONDS, COMMISSIONS, **(RULES | rules))
        more = [(name, "third-party") for name in ("node-1", "node-2", *LATER)]
        upgrades: list[dict[str, object]] = [{"name": "reporter-part", "height": 8}]
        self.world = World(stake=founding, more=more, epoch_ms=EPOCH_MS, upgrades=upgrades)
        written = founding["rules"]
        assert isinstance(written, dict)
        roles = ROLES | dict.fromkeys(BACKERS, "ev-owner")
        self.model = model.StakeModel(model.Rules(**written), EPOCH_MS, NOW, roles)
        for name, bond in BONDS.items():
            self.model.found(name, address(name), COMMISSIONS.get(name, 0), bond)
        self.model.decided["reporter-part"] = 8
        self.model.begin()
        self.actions: list[tuple] = []
        self.model.places = stake.MAX_CANDIDATES
        self.caught: list[tuple[str, int]] = []
        for name in BACKERS:
            self.world.send("operator", tx.RegisterParty(name, "ev-owner", key(name).public))
        for name in (*ROLES, *BACKERS):
            self.world.send("grid", tx.Deposit(name, OPENING, name))
            self.model.move("X", f"P:{name}", OPENING)
        self.extra = len(self.world.queue)
        self.block(1)

    def send(self, sender: str, body: tx.Body, method: str, *arguments: object) -> None:
        self.world.send(sender, body)
        self.actions.append((sender, method, *arguments))

    def fee(self, micro: int) -> None:
        """A settlement has brought a fee; whose does not matter here."""
        accounts.post(self.world.state, "X", "F", micro)
        self.model.move("X", "F", micro)

    def block(self, passed_ms: int) -> Outcome:
        world, now_ms = self.world, self.world.time_ms + passed_ms
        world.misbehaviour = tuple(Misbehaviour(address(n), h) for n, h in self.caught)
        outcome = world.block(time_ms=now_ms)
        codes = [result.code for result in outcome.results[self.extra :]]
        said = self.model.block(now_ms, world.absent, self.caught, self.actions)
        for (_, method, *_), code in zip(self.actions, codes, strict=True):
            SEEN[method, code] += 1
        note(f"{now_ms - NOW} {sorted(world.absent)} {self.caught} {self.actions} {codes}")
        self.actions, self.caught, self.extra = [], [], 0
        self.compare("codes", codes, said)
        self.compare_state()
        self.compare("updates", dict(outcome.updates), self.updates())
        return outcome

    def compare(self, what: str, chain: object, guide: object) -> None:
        if chain != guide:
            raise DisagreementError(f"{what}: the chain says {chain}, the guide {guide}")

    def updates(self) -> dict[bytes, int]:
        """What changes two blocks on, by the model's sets."""
        if self.model.sets[-1].first != self.model.height + 2:
            return {}
        old, new = self.model.set_of(self.model.height + 1).powers, self.model.sets[-1].powers
        return {
            consensus(name): new.get(name, 0)
            for name in old.keys() | new.keys()
            if old.get(name, 0) != new.get(name, 0)
        }

    def compare_state(self) -> None:
        state, guide = self.world.state, self.model
        balances = {a.name: a.balance_micro for a in state.each(Account) if a.balance_micro}
        self.compare("money", balances, {name: micro for name, micro in guide.money.items() if micro})
        records = {
            (s.candidate, s.delegator, s.phase, (s.since_height, s.until_height)): s.amount_micro
            for s in state.each(Stake)
        }
        self.compare("stake", records, guide.records)
        for chain, node in zip(state.each(Candidate), sorted(guide.nodes.values(), key=lambda n: n.name), strict=True):
            mine = (chain.party, chain.commission_permille, chain.jailed_until_ms, chain.tombstoned)
            mine += (chain.missed_before, chain.missed_blocks, chain.weight)
            theirs = (node.name, node.commission, node.jailed_until_ms, node.tombstoned)
            theirs += (*guide.missed_lately(node), node.weight)
            self.compare("candidates", mine, theirs)
        sets = [
            (int.from_bytes(s.from_height, "big"), {m[0]: (m[3], m[4]) for m in s.members})
            for s in state.validator_sets()
        ]
        kept = [(e.first, {n: (e.powers[n], e.stakes[n]) for n in e.powers}) for e in guide.sets[guide.kept :]]
        self.compare("sets", sets, kept)
        staking = state.get(Staking, "staking")
        self.compare("fees", (staking.pot_micro, staking.collectable_micro), (guide.pot, guide.collectable))
        votes = {vote[0]: (row.name, vote[1]) for row in state.each(UpgradeVotes) for vote in row.votes}
        self.compare("votes", votes, guide.votes)
        self.compare("upgrades", {u.name: u.height for u in state.each(Upgrade)}, guide.decided)

    # what parties do

    def register(self, name: str, key_of: str, commission: int, micro: int) -> None:
        keys = consensus(key_of), key(key_of + "/attest").public
        body = tx.RegisterCandidate(*keys, commission, micro)
        self.send(name, body, "register", address(key_of), commission, micro, key_of != name)

    def delegate(self, name: str, candidate: str, micro: int) -> None:
        self.send(name, tx.Delegate(candidate, micro), "delegate", candidate, micro)

    def undelegate(self, name: str, candidate: str, micro: int) -> None:
        self.send(name, tx.Undelegate(candidate, micro), "undelegate", candidate, micro)

    def accuse(self, sender: str, candidate: str, height: int) -> None:
        headers = twice_attested(self.world, candidate, height)  # type: ignore[arg-type]
        self.send(sender, tx.DoubleAttestation(candidate, *headers), "accuse", candidate, height)  # type: ignore[arg-type]


# In units and parts of one: of a range as wide as all of it, Hypothesis takes little else than dust.
micros = st.builds(
    lambda units, rest: units * 1_000_000 + rest, st.integers(0, 60), st.integers(1, 999_999) | st.just(0)
)
micros = micros.filter(bool)
anybody = st.sampled_from((*NODES, *LATER, *BACKERS))
candidates = st.sampled_from((*NODES, *NODES, *LATER))


class Stakes(RuleBasedStateMachine):
    """Stories of stake."""

    @initialize()
    def found(self) -> None:
        self.pair = Pair()

    @rule(name=st.sampled_from(NODES), newcomer=st.sampled_from(LATER))
    def give_way(self, name: str, newcomer: str) -> None:
        """All that is its own goes, and so much time that nothing can be punished any more. Then others stand."""
        own = sum(micro for record, micro in self.pair.model.records.items() if record[:2] == (name, name))
        self.pair.undelegate(name, name, own or 1)
        for _ in range(9):
            self.pair.block(7 * HOUR)
        self.pair.register(newcomer, newcomer, 50, 2_000_000)
        self.pair.block(0)

    @rule(passed=st.sampled_from([0, 1000, HOUR, HOUR, 3 * HOUR, 7 * HOUR, 20 * HOUR]), times=st.integers(1, 3))
    def block(self, passed: int, times: int) -> None:
        for _ in range(times):
            self.pair.block(passed)

    @rule(who=anybody, candidate=candidates, micro=micros)
    def delegate(self, who: str, candidate: str, micro: int) -> None:
        self.pair.delegate(who, candidate, micro)

    @rule(who=anybody, candidate=candidates, micro=micros)
    def undelegate(self, who: str, candidate: str, micro: int) -> None:
        self.pair.undelegate(who, candidate, micro)

    @rule(name=st.sampled_from(NODES), micro=micros)
    def undelegate_own(self, name: str, micro: int) -> None:
        self.pair.undelegate(name, name, micro)

    @rule(
        name=st.sampled_from((*LATER, *LATER, *NODES)),
        same=st.booleans(),
        micro=st.sampled_from([1, 2_000_000, 30_000_000, 90_000_000]),
    )
    def register(self, name: str, same: bool, micro: int) -> None:
        self.pair.register(name, "grid" if same and name in LATER else name, micro % 1000 + 70, micro)

    @rule(name=st.sampled_from((*NODES, *LATER)), permille=st.integers(0, 1000))
    def commission(self, name: str, permille: int) -> None:
        self.pair.send(name, tx.SetCommission(permille), "commission", permille)

    @rule(name=st.sampled_from((*NODES, *LATER)))
    def unjail(self, name: str) -> None:
        self.pair.send(name, tx.Unjail(), "unjail")

    @rule(names=st.sets(st.sampled_from(NODES), max_size=2))
    def absent(self, names: set[str]) -> None:
        self.pair.world.absent = names

    @rule(name=st.sampled_from((*NODES, *LATER)), back=st.integers(0, 12))
    def sign_twice(self, name: str, back: int) -> None:
        self.pair.caught.append((name, max(1, self.pair.world.height - back)))

    @rule(name=st.sampled_from(NODES), micro=st.integers(1, 3_000_000), back=st.integers(1, 4))
    def leave_and_lie(self, name: str, micro: int, back: int) -> None:
        """Stake that is taken back pays for what was done while it stood."""
        self.pair.undelegate(name, name, micro)
        for passed in (0, 7 * HOUR, 0, 0):
            self.pair.block(passed)
        self.pair.caught.append((name, self.pair.world.height - back))
        self.pair.block(1000)

    @rule(name=st.sampled_from(NODES), blocks=st.integers(2, 9))
    def sleep_and_return(self, name: str, blocks: int) -> None:
        """Away for so many blocks, back as soon as jail allows."""
        self.pair.world.absent = {name}
        for _ in range(blocks):
            self.pair.block(0)
        self.pair.world.absent = set()
        self.pair.block(3 * HOUR)
        self.pair.send(name, tx.Unjail(), "unjail")
        self.pair.block(0)

    @rule(who=anybody, name=st.sampled_from((*NODES, *LATER)), back=st.integers(-2, 12))
    def attest_twice(self, who: str, name: str, back: int) -> None:
        self.pair.accuse(who, name, max(1, self.pair.world.height - back))

    @rule(
        who=st.sampled_from(NODES),
        name=st.sampled_from(("reporter-part", "rule-1", "rule-2")),
        height=st.sampled_from([0, 60, 210]),
    )
    def vote(self, who: str, name: str, height: int) -> None:
        self.pair.send(who, tx.VoteUpgrade(name, height), "vote", name, height)

    @rule(names=st.permutations(NODES), height=st.sampled_from([0, 400, 400, 500]))
    def all_vote(self, names: list[str], height: int) -> None:
        for name in names[:4]:
            self.pair.send(name, tx.VoteUpgrade("rule-1", height), "vote", "rule-1", height)

    @rule(micro=st.integers(1, 3_000_000))
    def fee(self, micro: int) -> None:
        self.pair.fee(micro)

    @rule(micro=st.integers(1, 1_500_000))
    def collect(self, micro: int) -> None:
        self.pair.send("grid", tx.CollectFees("grid", micro), "collect", micro)

    @invariant()
    def nothing_is_made(self) -> None:
        if hasattr(self, "pair"):
            assert sum(self.pair.model.money.values()) == 0


def bounds(examples: int, steps: int, **more: object) -> settings:
    return settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
        **more,  # type: ignore[arg-type]
    )


ANSWERS = {
    "register": {"ok", "exists", "limit", "funds"},
    "delegate": {"ok", "unknown_candidate", "phase", "funds"},
    "undelegate": {"ok", "unknown_candidate", "funds"},
    "commission": {"ok", "unknown_candidate"},
    "unjail": {"ok", "unknown_candidate", "phase"},
    "accuse": {"ok", "unknown_candidate", "phase", "late", "evidence"},
    "vote": {"ok", "not_yours", "exists", "phase", "late"},
    "collect": {"ok", "funds"},
}


@pytest.fixture(autouse=True)
def few_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that newcomers need another's."""
    monkeypatch.setattr(stake, "MAX_CANDIDATES", 6)


def test_chain_and_guide_agree() -> None:
    SEEN.clear()
    run_state_machine_as_test(Stakes, settings=bounds(300, 50))
    for method, codes in ANSWERS.items():
        assert {code for what, code in SEEN if what == method} >= codes, method


# Each bug, planted in the chain, must be noticed by the same stories.


def a_later_set(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(election, "ACTS_AFTER_BLOCKS", 3)


def ties_the_other_way(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(election, "sorted", lambda rows, key: sorted(rows, key=lambda row: key(row)[0]), raising=False)


def uncut(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(election, "capped", lambda powers: [min(power, 1000) for power in powers])


def slash_rounded_down(patch: pytest.MonkeyPatch) -> None:
    real = conduct._slash
    patch.setattr(conduct, "_slash", lambda s, party, height, ppm: real(s, party, height, ppm - ppm % 7))


def slash_spares_who_left(patch: pytest.MonkeyPatch) -> None:
    real = stake.backed
    patch.setattr(stake, "backed", lambda one, height: real(one, height) and one.phase != "unbonding")


def slash_takes_from_who_came_later(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(stake, "backed", lambda one, height: (one.until_height or height + 1) > height)


def released_early(patch: pytest.MonkeyPatch) -> None:
    real = stake.release_unbonded
    patch.setattr(stake, "release_unbonded", lambda state, journal, oldest: real(state, journal, oldest + 2))


def commission_without_notice(patch: pytest.MonkeyPatch) -> None:
    def set_commission(state: State, sender: str, body: tx.SetCommission) -> None:
        candidate = stake.find_candidate(state, sender)
        permille = body.commission_permille
        state.put(replace(candidate, next_commission_permille=permille, later_commission_permille=permille))

    patch.setattr(stake, "set_commission", set_commission)


def rewards_to_who_enters(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(election, "LEAVING", "entering")


def half_a_window_is_too_much(patch: pytest.MonkeyPatch) -> None:
    real = conduct._miss

    def miss(state: State, env: object, journal: object, rules: StakeRules, candidate: Candidate) -> None:
        real(state, env, journal, replace(rules, downtime_window_blocks=rules.downtime_window_blocks - 1), candidate)  # type: ignore[arg-type]

    patch.setattr(conduct, "_miss", miss)


def windows_that_do_not_overlap(patch: pytest.MonkeyPatch) -> None:
    real = conduct._begin_half

    def begin(state: State) -> None:
        real(state)
        for candidate in state.each(Candidate):
            state.put(replace(candidate, missed_before=0))

    patch.setattr(conduct, "_begin_half", begin)


def fees_all_for_the_nodes(patch: pytest.MonkeyPatch) -> None:
    real = stake.divide_fees
    patch.setattr(stake, "divide_fees", lambda state, rules: real(state, replace(rules, reward_permille=1000)))


def decided_for_good(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(upgrades, "NEVER", -1)


def jail_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(election, "remove", lambda *_: None)


BUGS: list[Callable[[pytest.MonkeyPatch], None]] = [
    a_later_set,
    ties_the_other_way,
    uncut,
    slash_rounded_down,
    slash_spares_who_left,
    slash_takes_from_who_came_later,
    released_early,
    commission_without_notice,
    rewards_to_who_enters,
    half_a_window_is_too_much,
    windows_that_do_not_overlap,
    fees_all_for_the_nodes,
    decided_for_good,
    jail_forgotten,
]


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
def test_a_planted_bug_is_noticed(bug: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    bug(monkeypatch)
    with pytest.raises(Exception):  # noqa: B017 - an invariant may be the first to notice
        run_state_machine_as_test(Stakes, settings=bounds(250, 50, phases=[Phase.generate], report_multiple_bugs=False))
