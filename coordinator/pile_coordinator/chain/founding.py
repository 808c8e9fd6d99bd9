"""The founding set: the stake rules of a chain that elects its accounting nodes, and the first candidates with their bonds.

Bonds are money that lay outside when the chain began, like deposits; the treasury answers for them.
"""

from dataclasses import dataclass, fields
from typing import cast

from pile_coordinator.chain import accounts, election, stake
from pile_coordinator.chain.election import MAX_VALIDATORS, MIN_VALIDATORS
from pile_coordinator.chain.records import BONDED, StakeRules, Staking, ValidatorSet
from pile_coordinator.chain.state import State, set_key
from pile_coordinator.chain.transactions import MAX_STAKE_MICRO, NODE_ROLES, RegisterCandidate
from pile_shared import cose
from pile_shared.certificate import Validator
from pile_shared.errors import ConfigError
from pile_shared.units import check_id, check_int

_WEEK_MS = 7 * 24 * 3600 * 1000
_MILLION = 1_000_000

# Name of a rule, lowest and highest value.
_RANGES = {
    "max_validators": (MIN_VALIDATORS, MAX_VALIDATORS),
    "min_self_bond_micro": (election.POWER_UNIT_MICRO, MAX_STAKE_MICRO),  # so that everybody elected has a vote
    "reward_permille": (0, 1000),
    "evidence_age_blocks": (1, 100_000_000),
    "evidence_age_ms": (1, 53 * _WEEK_MS),
    "double_sign_ppm": (0, _MILLION),
    "downtime_ppm": (0, _MILLION),
    "downtime_window_blocks": (2, 1_000_000),
    "jail_ms": (0, 53 * _WEEK_MS),
}
_CANDIDATE_KEYS = ("party", "consensus", "attestation", "commission_permille", "bond_micro")


@dataclass(frozen=True, slots=True)
class Founder:
    """A candidate of genesis. Keys are an ed25519 key of 32 bytes and a P-256 point of 65."""

    party: str
    consensus: bytes
    attestation: bytes
    commission_permille: int
    bond_micro: int

    def fields(self) -> list[object]:
        """In the order of the genesis hash."""
        return [self.party, self.consensus, self.attestation, self.commission_permille, self.bond_micro]


@dataclass(frozen=True, slots=True)
class Founding:
    """Rules, and who stands from the beginning, in order of party."""

    rules: StakeRules
    candidates: tuple[Founder, ...]

    def fields(self) -> list[object]:
        """What the genesis hash covers."""
        rules = {field.name: getattr(self.rules, field.name) for field in fields(self.rules)}
        return [rules, [candidate.fields() for candidate in self.candidates]]

    def to_json(self) -> dict[str, object]:
        """For people and files."""
        rules = {field.name: getattr(self.rules, field.name) for field in fields(self.rules)}
        del rules["name"]
        rows = [
            dict(zip(_CANDIDATE_KEYS, (c.party, c.consensus.hex(), c.attestation.hex(), *c.fields()[3:]), strict=True))
            for c in self.candidates
        ]
        return {"rules": rules, "candidates": rows}

    def put(self, state: State) -> None:
        """Rules, candidates, bonds and the set of block 1."""
        self._stand(state)
        for one in self.candidates:
            accounts.post(state, accounts.OUTSIDE, accounts.stake_account(one.party), one.bond_micro)

    def validators(self) -> list[Validator]:
        """Whom these bonds elect: what the `validators` of such a genesis must be, for light clients to pin."""
        state = State()
        self._stand(state)
        return election.certified_set(state, 1) or []

    def _stand(self, state: State) -> None:
        state.put(self.rules)
        state.put(Staking(stake.STAKING, 0, 0))
        for one in self.candidates:
            stake.add_candidate(state, one.party, one.consensus, one.attestation, one.commission_permille)
            stake.add_stake(state, one.party, one.party, BONDED, stake.ALWAYS, 0, one.bond_micro)
        state.put(ValidatorSet(set_key(1), election.elect(state, self.rules), 0))


def founding_from_json(document: object, parties: tuple[tuple[str, str, bytes], ...]) -> Founding:
    """Rules and candidates from the `stake` of a genesis file; KeyError, TypeError, ValueError or typed errors otherwise."""
    if not isinstance(document, dict) or set(document) != {"rules", "candidates"}:
        raise ConfigError("genesis: stake has the keys rules and candidates")
    rules = _rules(cast("dict[str, object]", document["rules"]))
    candidates = tuple(sorted((_founder(row) for row in document["candidates"]), key=lambda one: one.party))
    roles = {party: role for party, role, _ in parties}
    for one in candidates:
        if roles.get(one.party) not in NODE_ROLES:
            raise ConfigError(f"genesis: candidate {one.party} must be a party of role {', '.join(NODE_ROLES)}")
        if one.bond_micro < rules.min_self_bond_micro:
            raise ConfigError(f"genesis: the bond of {one.party} is less than min_self_bond_micro")
    keys = {cose.key_id(one.attestation) for one in candidates} | {
        stake.address_of(one.consensus) for one in candidates
    }
    if len({one.party for one in candidates}) != len(candidates) or len(keys) != 2 * len(candidates):
        raise ConfigError("genesis: candidates must be distinct parties with keys of their own")
    if not 1 <= len(candidates) <= stake.MAX_CANDIDATES:
        raise ConfigError(f"genesis: there must be 1 to {stake.MAX_CANDIDATES} candidates")
    return Founding(rules, candidates)


def _rules(given: dict[str, object]) -> StakeRules:
    if set(given) != set(_RANGES):
        odd = ", ".join(sorted(set(given) ^ set(_RANGES)))
        raise ConfigError(f"genesis: stake.rules must have exactly the documented keys; see {odd}")
    for key, (low, high) in _RANGES.items():
        check_int(f"stake.rules.{key}", given[key], low, high)
    return StakeRules(name="stake-rules", **given)  # type: ignore[arg-type]


def _founder(row: dict[str, object]) -> Founder:
    if set(row) != set(_CANDIDATE_KEYS):
        raise ConfigError(f"genesis: a candidate has the keys {', '.join(_CANDIDATE_KEYS)}")
    consensus, attestation = (bytes.fromhex(cast("str", row[name])) for name in ("consensus", "attestation"))
    body = RegisterCandidate(consensus, attestation, row["commission_permille"], row["bond_micro"])  # type: ignore[arg-type]
    body.check()
    party = check_id("candidate", row["party"])
    return Founder(party, consensus, attestation, body.commission_permille, body.amount_micro)


def check_validators(founding: Founding, validators: list[Validator]) -> None:
    """ConfigError unless genesis' validators, which light clients pin, are those that its candidates' bonds elect."""
    elected = founding.validators()
    if [v.fields() for v in validators] != [v.fields() for v in elected]:
        said = ", ".join(f"{v.party} {v.power}" for v in elected)
        raise ConfigError(
            f"genesis: validators must be the elected candidates with their attestation keys and powers: {said}"
        )
