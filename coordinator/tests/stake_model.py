"""The stake of docs/stake.md written a second time, slow and obvious, from the guide alone.

Nothing here is imported from the chain. Keys are party names, money lies in one dict, and every set and block time is kept for
ever: whether something can still be punished is asked of them.
"""

from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil, floor

UNIT_MICRO = 1_000_000
MOST_MICRO = 10**16
NODE_ROLES = ("grid", "operator", "third-party")
NOTICE_BLOCKS = 100
MOST_RECORDS_OF_PARTY = 32
ALWAYS = 1

Heights = tuple[int, int]  # the first block whose set it backs, the first one that it backs no more; 0: not yet known
Record = tuple[str, str, str, Heights]  # candidate, backer, phase, heights


@dataclass
class Node:
    """A candidate."""

    name: str
    address: bytes
    commission: int
    next_commission: int
    later_commission: int
    jailed_until_ms: int = 0
    tombstoned: bool = False
    missed: list[int] = field(default_factory=list)  # heights, since it was last punished
    weight: int = 0


@dataclass
class Elected:
    """The set from a height on: power and stake by node."""

    first: int
    powers: dict[str, int]
    stakes: dict[str, int]


@dataclass
class Rules:
    """As genesis has them."""

    max_validators: int
    min_self_bond_micro: int
    reward_permille: int
    evidence_age_blocks: int
    evidence_age_ms: int
    double_sign_ppm: int
    downtime_ppm: int
    downtime_window_blocks: int
    jail_ms: int


def cut(powers: list[int]) -> list[int]:
    """The largest height h with 4 h at most the sum of what is left when every power above h becomes h."""
    if len(powers) < 4:
        return [min(powers) for _ in powers]
    low, high = 0, max(powers)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if 4 * middle <= sum(min(p, middle) for p in powers) else (low, middle - 1)
    return [min(power, low) for power in powers]


@dataclass
class StakeModel:
    """All candidates, stake and money. `block` is one block; its answers are codes."""

    rules: Rules
    epoch_ms: int
    genesis_ms: int
    roles: dict[str, str]
    money: dict[str, int] = field(default_factory=dict)
    nodes: dict[str, Node] = field(default_factory=dict)
    records: dict[Record, int] = field(default_factory=dict)
    sets: list[Elected] = field(default_factory=list)  # all there ever were, oldest first
    kept: int = 0  # the first of them that is still kept
    times_ms: list[int] = field(default_factory=list)  # of every block; the first is genesis
    pot: int = 0
    collectable: int = 0
    votes: dict[str, tuple[str, int]] = field(default_factory=dict)
    decided: dict[str, int] = field(default_factory=dict)
    places: int = 128

    def found(self, name: str, address: bytes, commission: int, bond: int) -> None:
        self.nodes[name] = Node(name, address, commission, commission, commission)
        self.move("X", f"S:{name}", bond)
        self.records[name, name, "bonded", (ALWAYS, 0)] = bond

    def begin(self) -> None:
        self.times_ms = [self.genesis_ms]
        self.sets = [Elected(1, *self.elect())]

    def move(self, debit: str, credit: str, micro: int) -> None:
        assert micro >= 0
        self.money[debit] = self.money.get(debit, 0) - micro
        self.money[credit] = self.money.get(credit, 0) + micro

    def has(self, account: str) -> int:
        return self.money.get(account, 0)

    def set_of(self, height: int) -> Elected:
        return [elected for elected in self.sets if elected.first <= height][-1]

    @property
    def height(self) -> int:
        return len(self.times_ms) - 1

    # A block

    def block(self, now_ms: int, absent: set[str], caught: list[tuple[str, int]], actions: list[tuple]) -> list[str]:
        last_ms = self.times_ms[-1]
        self.times_ms.append(now_ms)
        if self.height > 1:
            self.count(absent)
        for name, height in caught:
            self.catch(name, height)
        self.drop_old_sets()
        if (now_ms - self.genesis_ms) // self.epoch_ms > (last_ms - self.genesis_ms) // self.epoch_ms:
            self.turn()
        codes: list[str] = []
        refused: set[str] = set()
        for sender, method, *arguments in actions:
            codes.append("sequence_gap" if sender in refused else getattr(self, method)(sender, *arguments))
            if codes[-1] != "ok":
                refused.add(sender)
        return codes

    def drop_old_sets(self) -> None:
        while self.kept + 1 < len(self.sets) and self.sets[self.kept + 1].first <= self.height:
            after = self.sets[self.kept + 1].first
            by_blocks = self.height - (after - 1) > self.rules.evidence_age_blocks
            by_time = self.times_ms[-1] - self.times_ms[after] > self.rules.evidence_age_ms
            if not (by_blocks and by_time):
                break
            self.kept += 1
            for (candidate, backer, phase, (since, until)), micro in list(self.records.items()):
                if phase == "unbonding" and until <= after:
                    self.move(f"S:{candidate}", f"P:{backer}", micro)
                    del self.records[candidate, backer, phase, (since, until)]

    def turn(self) -> None:
        self.reward()
        for node in self.nodes.values():
            node.commission, node.next_commission = node.next_commission, node.later_commission
        first = self.height + 2
        old, self.records = self.records, {}
        for (candidate, backer, phase, heights), micro in old.items():
            self.add((candidate, backer, *self.after_edge(phase, heights, first)), micro)
        powers, stakes = self.elect()
        last = self.sets[-1]
        self.decide(powers or last.powers, stakes or last.stakes)

    def after_edge(self, phase: str, heights: Heights, first: int) -> tuple[str, Heights]:
        since, until = heights
        if phase == "entering":
            return "bonded", (first, 0)
        if phase == "leaving":
            return "unbonding", (since, first)
        if phase == "bonded" and since <= self.sets[self.kept].first:
            return phase, (ALWAYS, until)
        return phase, heights

    def add(self, record: Record, micro: int) -> None:
        if micro:
            self.records[record] = self.records.get(record, 0) + micro

    def decide(self, powers: dict[str, int], stakes: dict[str, int]) -> None:
        first = self.height + 2
        self.sets = [elected for elected in self.sets if elected.first != first]
        self.sets.append(Elected(first, dict(powers), dict(stakes)))

    def bonded(self, candidate: str, backer: str | None = None) -> int:
        return sum(
            micro
            for (of, by, phase, _), micro in self.records.items()
            if of == candidate and phase == "bonded" and backer in {None, by}
        )

    def elect(self) -> tuple[dict[str, int], dict[str, int]]:
        may = [
            node
            for node in self.nodes.values()
            if self.bonded(node.name, node.name) >= self.rules.min_self_bond_micro
            and not node.jailed_until_ms
            and not node.tombstoned
        ]
        may.sort(key=lambda node: node.address)
        may.sort(key=lambda node: self.bonded(node.name), reverse=True)
        stakes = {node.name: self.bonded(node.name) for node in may[: self.rules.max_validators]}
        return self.powers(stakes), stakes

    def powers(self, stakes: dict[str, int]) -> dict[str, int]:
        return dict(zip(stakes, cut([micro // UNIT_MICRO for micro in stakes.values()]), strict=True)) if stakes else {}

    # Fees and rewards

    def divide(self) -> None:
        fresh = self.has("F") - self.pot - self.collectable
        nodes = floor(Fraction(fresh * self.rules.reward_permille, 1000))
        self.pot += nodes
        self.collectable += fresh - nodes

    def reward(self) -> None:
        self.divide()
        whole, pot = sum(node.weight for node in self.nodes.values()), self.pot
        for node in self.nodes.values():
            if node.weight:
                self.pay(node, floor(Fraction(pot * node.weight, whole)))
            node.weight = 0

    def pay(self, node: Node, share: int) -> None:
        commission = floor(Fraction(share * node.commission, 1000))
        backing: dict[str, int] = {}
        for (candidate, backer, phase, _), micro in self.records.items():
            if candidate == node.name and phase in {"bonded", "leaving"}:
                backing[backer] = backing.get(backer, 0) + micro
        whole = sum(backing.values())
        parts = {name: floor(Fraction((share - commission) * micro, whole)) for name, micro in backing.items()}
        for name, part in [*parts.items(), (node.name, commission)]:
            self.move("F", f"P:{name}", part)
            self.pot -= part

    # Conduct

    def count(self, absent: set[str]) -> None:
        last = self.height - 1
        for name, power in sorted(self.set_of(last).powers.items()):
            node = self.nodes[name]
            if node.tombstoned:
                continue
            if name not in absent:
                node.weight += power
            elif not node.jailed_until_ms:
                node.missed.append(last)
                if Fraction(sum(self.missed_lately(node)), self.rules.downtime_window_blocks) > Fraction(1, 2):
                    node.missed = []
                    node.jailed_until_ms = self.times_ms[-1] + self.rules.jail_ms
                    self.slash(name, last, self.rules.downtime_ppm)
                    self.leave(name)

    def missed_lately(self, node: Node) -> tuple[int, int]:
        """Blocks, in the half of a window before the present one, and in the present one."""
        window, last = self.rules.downtime_window_blocks, self.height - 1
        halves = [height for height in range(max(0, last - window), last + 1) if height % window in {0, window // 2}]
        now = sum(height >= halves[-1] for height in node.missed) if halves else 0
        return (sum(height >= halves[-2] for height in node.missed) - now if halves[1:] else 0), now

    def can_be_punished(self, height: int) -> bool:
        return height >= self.sets[self.kept].first

    def catch(self, name: str, height: int) -> bool:
        if name not in self.nodes or self.nodes[name].tombstoned:
            return False
        if not self.can_be_punished(height) or name not in self.set_of(height).powers:
            return False
        node = self.nodes[name]
        node.tombstoned, node.weight, node.missed = True, 0, []
        self.slash(name, height, self.rules.double_sign_ppm)
        self.leave(name)
        return True

    def slash(self, name: str, height: int, ppm: int) -> None:
        for record, micro in list(self.records.items()):
            candidate, _, phase, (since, until) = record
            if candidate != name or phase == "entering" or since > height or (until and height >= until):
                continue
            part = ceil(Fraction(micro * ppm, 1_000_000))
            self.records[record] -= part
            if not self.records[record]:
                del self.records[record]
            self.move(f"S:{name}", "F", part)
            self.collectable += part

    def leave(self, name: str) -> None:
        last = self.sets[-1]
        stakes = {other: micro for other, micro in last.stakes.items() if other != name}
        if stakes and name in last.stakes:
            self.decide(self.powers(stakes), stakes)

    # What parties do

    def register(self, sender: str, address: bytes, commission: int, micro: int, key_is_taken: bool) -> str:
        if self.roles[sender] not in NODE_ROLES:
            return "wrong_role"
        if sender in self.nodes or key_is_taken:
            return "exists"
        if micro < self.rules.min_self_bond_micro:
            return "limit"
        goes = self.weakest() if len(self.nodes) >= self.places else None
        if len(self.nodes) >= self.places and goes is None:
            return "limit"
        if self.has(f"P:{sender}") < micro:
            return "funds"
        if goes is not None:
            self.strike(goes)
        self.nodes[sender] = Node(sender, address, commission, commission, commission)
        self.put_up(sender, sender, micro)
        return "ok"

    def weakest(self) -> str | None:
        """Who loses its place to a newcomer."""
        kept = {name for elected in self.sets[self.kept :] for name in elected.powers}
        least = self.rules.min_self_bond_micro
        may = [
            n for n, node in self.nodes.items() if n not in kept and not node.tombstoned and self.has(f"S:{n}") < least
        ]
        return min(may, key=lambda name: (self.has(f"S:{name}"), name), default=None)

    def strike(self, name: str) -> None:
        for record, micro in list(self.records.items()):
            if record[0] == name:
                self.move(f"S:{name}", f"P:{record[1]}", micro)
                del self.records[record]
        del self.nodes[name]

    def put_up(self, sender: str, candidate: str, micro: int) -> None:
        self.move(f"P:{sender}", f"S:{candidate}", micro)
        self.add((candidate, sender, "entering", (0, 0)), micro)

    def delegate(self, sender: str, candidate: str, micro: int) -> str:
        if candidate not in self.nodes:
            return "unknown_candidate"
        own = [record for record in self.records if record[:2] == (candidate, sender)]
        if self.has(f"S:{candidate}") + micro > MOST_MICRO:
            return "limit"
        if len(own) >= MOST_RECORDS_OF_PARTY and "entering" not in [record[2] for record in own]:
            return "limit"
        if self.nodes[candidate].tombstoned:
            return "phase"
        if self.has(f"P:{sender}") < micro:
            return "funds"
        self.put_up(sender, candidate, micro)
        return "ok"

    def undelegate(self, sender: str, candidate: str, micro: int) -> str:
        if candidate not in self.nodes:
            return "unknown_candidate"
        own = {record: held for record, held in self.records.items() if record[:2] == (candidate, sender)}
        free = [record for record in own if record[2] in {"entering", "bonded"}]
        if sum(own[record] for record in free) < micro:
            return "funds"
        free.sort(key=lambda record: record[3][0] or 10**18, reverse=True)  # what enters is newest
        plan: list[tuple[Record, int]] = []
        for record in free:
            part = min(micro, own[record])
            micro -= part
            if part:
                plan.append((record, part))
        if len(own) >= MOST_RECORDS_OF_PARTY and any(part < own[r] for r, part in plan if r[2] == "bonded"):
            return "limit"
        for record, part in plan:
            self.records[record] -= part
            if not self.records[record]:
                del self.records[record]
            if record[2] == "entering":
                self.move(f"S:{candidate}", f"P:{sender}", part)
            else:
                self.add((candidate, sender, "leaving", record[3]), part)
        return "ok"

    def commission(self, sender: str, permille: int) -> str:
        if self.roles[sender] not in NODE_ROLES:
            return "wrong_role"
        if sender not in self.nodes:
            return "unknown_candidate"
        self.nodes[sender].later_commission = permille
        return "ok"

    def unjail(self, sender: str) -> str:
        if self.roles[sender] not in NODE_ROLES:
            return "wrong_role"
        if sender not in self.nodes:
            return "unknown_candidate"
        node = self.nodes[sender]
        if node.tombstoned or not node.jailed_until_ms or self.times_ms[-1] < node.jailed_until_ms:
            return "phase"
        node.jailed_until_ms = 0
        return "ok"

    def accuse(self, sender: str, candidate: str, height: int) -> str:
        """With two headers of one height that are really attested."""
        if candidate not in self.nodes:
            return "unknown_candidate"
        if self.nodes[candidate].tombstoned:
            return "phase"
        if not self.can_be_punished(height):
            return "late"
        before = self.has("F")
        if height > self.height or not self.catch(candidate, height):
            return "evidence"
        if "reporter-part" in self.decided and self.decided["reporter-part"] <= self.height:
            part = floor(Fraction(self.has("F") - before, 10))
            self.collectable -= part
            self.move("F", f"P:{sender}", part)
        return "ok"

    def vote(self, sender: str, name: str, height: int) -> str:
        if self.roles[sender] not in NODE_ROLES:
            return "wrong_role"
        powers = self.set_of(self.height).powers
        if sender not in powers:
            return "not_yours"
        if name in self.decided and (self.decided[name] <= self.height or self.decided[name] == height):
            return "exists"
        if height == 0 and name not in self.decided:
            return "phase"
        if 0 < height < self.height + NOTICE_BLOCKS:
            return "late"
        self.votes[sender] = (name, height)
        power = sum(powers.get(voter, 0) for voter, said in self.votes.items() if said == (name, height))
        if Fraction(power, sum(powers.values())) > Fraction(2, 3):
            self.decided[name] = height
            if height == 0:
                del self.decided[name]
            self.votes = {voter: said for voter, said in self.votes.items() if said[0] != name}
        return "ok"

    def collect(self, sender: str, micro: int) -> str:
        """By the treasury, for itself."""
        if self.has("F") < micro:
            return "funds"
        divided = self.pot, self.collectable
        self.divide()
        if self.collectable < micro:
            self.pot, self.collectable = divided
            return "funds"
        self.collectable -= micro
        self.move("F", f"P:{sender}", micro)
        return "ok"
