"""Genesis: the parameters, parties and accounting nodes a chain starts from; its hash names the chain.

Everyone who verifies anything pins this document. It is JSON for people (keys in hex); its identity is the SHA-256 of its
deterministic CBOR, whose first bytes are part of the chain id, so that two chains of one name cannot be confused.
"""

from dataclasses import dataclass, fields
from typing import cast

from pile_coordinator.chain import founding
from pile_coordinator.chain.curve import MAX_CRR_TERM
from pile_coordinator.chain.founding import Founding
from pile_coordinator.chain.notes import value_micro
from pile_coordinator.chain.records import (
    GRID,
    ROLES,
    Denomination,
    Epoch,
    NoteRules,
    Params,
    Party,
    PartyKey,
    Tally,
    Tariff,
    Upgrade,
)
from pile_coordinator.chain.settlement import MAX_ARBITERS
from pile_coordinator.chain.state import State
from pile_coordinator.chain.transactions import MAX_BOUGHT_NOTES, MAX_DENOMINATIONS, PSEUDONYM, Deposit, SetTariff
from pile_shared import cose
from pile_shared.certificate import Validator, validators_from
from pile_shared.codec import encode
from pile_shared.errors import ConfigError, PilechainError
from pile_shared.platform import sha256
from pile_shared.units import MAX_AMOUNT_MICRO, MAX_TIME_MS, check_bytes, check_id, check_int, check_text

MAX_NAME_LENGTH = 20
_KEYS = {"name", "time_ms", "params", "tariff", "parties", "validators"}
_OPTIONAL_KEYS = {"stake", "upgrades", "notes"}
_PERIOD_KEYS = ("from_minute", "name", "sell_micro_per_kwh", "buy_micro_per_kwh")
_PERMILLE = 1000
_WEEK_MS = 7 * 24 * 3600 * 1000

# Name of a parameter, lowest and highest value.
_RANGES = {
    "crr_numerator": (1, MAX_CRR_TERM),
    "crr_denominator": (1, MAX_CRR_TERM),
    "capacity_hours": (1, 8760),
    "tolerance_permille": (0, _PERMILLE),
    "tolerance_min_wh": (0, 10_000),
    "overuse_permille": (0, _PERMILLE),
    "fee_micro": (0, 1_000_000_000),
    "bond_permille": (0, 10 * _PERMILLE),
    "penalty_permille": (0, _PERMILLE),
    "no_show_permille": (0, _PERMILLE),
    "begin_grace_ms": (0, _WEEK_MS),
    "evidence_window_ms": (0, 8 * _WEEK_MS),
    "confirm_window_ms": (0, 8 * _WEEK_MS),
    "epoch_ms": (60_000, 53 * _WEEK_MS),
    "band_permille": (_PERMILLE, 100 * _PERMILLE),
    "breaker_permille": (0, 100 * _PERMILLE),
    "breaker_pause_ms": (0, _WEEK_MS),
    "sign_window_ms": (1, _WEEK_MS),
    "cancel_cutoff_ms": (0, _WEEK_MS),
    "dispute_window_ms": (0, 16 * _WEEK_MS),
    "objection_bond_micro": (0, 1_000_000_000_000),
    "rulings_needed": (1, MAX_ARBITERS),
}


@dataclass(frozen=True, slots=True)
class Genesis:
    """A chain's beginning. `parties` are (id, role, public key).

    `stake` is None where nobody is elected and `validators` stay for ever; otherwise they are the set that it elects.
    `upgrades` are changes of rules by (name, height), in order of name. `notes` is None where nobody pays anonymously.
    """

    name: str
    time_ms: int
    params: Params
    tariff: Tariff
    parties: tuple[tuple[str, str, bytes], ...]
    validators: tuple[Validator, ...]
    stake: Founding | None = None
    upgrades: tuple[tuple[str, int], ...] = ()
    notes: NoteRules | None = None

    def encoded(self) -> bytes:
        """Deterministic CBOR: what the genesis hash covers. Without stake, upgrades and notes they are left out."""
        params = {field.name: getattr(self.params, field.name) for field in fields(self.params)}
        rows = [list(party) for party in self.parties]
        tariff = [self.tariff.utc_offset_minutes, self.tariff.periods]
        whole: list[object] = [self.name, self.time_ms, params, tariff, rows, [v.fields() for v in self.validators]]
        if self.stake is not None or self.upgrades or self.notes is not None:
            elected = self.stake.fields() if self.stake else None
            whole += [elected, [list(upgrade) for upgrade in self.upgrades]]
        if self.notes is not None:
            whole.append(_note_fields(self.notes))
        return encode(whole)

    def hash(self) -> bytes:
        """SHA-256 of the encoding: what a person compares."""
        return sha256(self.encoded())

    @property
    def chain_id(self) -> str:
        """Name and the first 4 bytes of the hash."""
        return f"{self.name}-{self.hash()[:4].hex()}"

    def state(self) -> State:
        """The state before block 1. The caller seals it."""
        state = State()
        state.put(self.params)
        state.put(self.tariff)
        state.put(Epoch("epoch", self.time_ms + self.params.epoch_ms))
        state.put(Tally("tally", 0, 0, 0, 0, 0, 0))
        for party, role, public in self.parties:
            state.put(Party(party, role, public, 0, 0))
            state.put(PartyKey(cose.key_id(public), party))
        for name, height in self.upgrades:
            state.put(Upgrade(name, height))
        if self.stake is not None:
            self.stake.put(state)
        if self.notes is not None:
            state.put(self.notes)
            for k in range(self.notes.denominations):
                state.put(Denomination(bytes((k,)), value_micro(self.notes, k), 0, 0, 0))
        return state

    def to_json(self) -> dict[str, object]:
        """For people and files."""
        params = {field.name: getattr(self.params, field.name) for field in fields(self.params)}
        del params["name"]
        more: dict[str, object] = {}
        if self.stake is not None:
            more["stake"] = self.stake.to_json()
        if self.upgrades:
            more["upgrades"] = [{"name": name, "height": height} for name, height in self.upgrades]
        if self.notes is not None:
            more["notes"] = _note_fields(self.notes)
        return more | {
            "name": self.name,
            "time_ms": self.time_ms,
            "params": params,
            "tariff": {
                "utc_offset_minutes": self.tariff.utc_offset_minutes,
                "periods": [dict(zip(_PERIOD_KEYS, period, strict=True)) for period in self.tariff.periods],
            },
            "parties": [{"id": p, "role": r, "public": k.hex()} for p, r, k in self.parties],
            "validators": [{"party": v.party, "public": v.public.hex(), "power": v.power} for v in self.validators],
        }


def genesis_from_json(document: object) -> Genesis:
    """A genesis from its JSON form; ConfigError naming the key and the expected form."""
    if not isinstance(document, dict):
        raise ConfigError("genesis must be a JSON object")
    try:
        params = _params(cast("dict[str, object]", document["params"]))
        parties = tuple(
            (check_id("parties.id", p["id"]), str(p["role"]), bytes.fromhex(p["public"])) for p in document["parties"]
        )
        validators = tuple(
            validators_from([[v["party"], bytes.fromhex(v["public"]), v["power"]] for v in document["validators"]])
        )
        name = check_id("name", document["name"])
        time_ms = check_int("time_ms", document["time_ms"], 0, MAX_TIME_MS)
        tariff = tariff_from_json(document["tariff"], time_ms)
        _check_parties(params, parties)
        founded = founding.founding_from_json(document["stake"], parties) if "stake" in document else None
        upgrades = _upgrades(document.get("upgrades", []))
        note_rules = _notes(document["notes"]) if "notes" in document else None
    except KeyError as error:
        raise ConfigError(f"genesis lacks the key {error}") from error
    except (TypeError, ValueError) as error:
        raise ConfigError(f"genesis: keys are hex text and lists hold objects ({error})") from error
    except ConfigError:
        raise
    except PilechainError as error:
        raise ConfigError(f"genesis: {error}") from error
    if set(document) - _OPTIONAL_KEYS != _KEYS:
        unknown = set(document) - _KEYS - _OPTIONAL_KEYS
        raise ConfigError(f"genesis: unknown keys {', '.join(sorted(map(str, unknown)))}")
    if len(name) > MAX_NAME_LENGTH:
        raise ConfigError(f"genesis: name must be at most {MAX_NAME_LENGTH} characters")
    genesis = Genesis(name, time_ms, params, tariff, parties, validators, founded, upgrades, note_rules)
    if note_rules is not None:
        _check_refunds(note_rules, params)
    if note_rules is not None and any(party.startswith(PSEUDONYM) for party, _, _ in parties):
        raise ConfigError(f"genesis: ids that begin with {PSEUDONYM} are those of anonymous orders")
    if founded is not None:
        founding.check_validators(founded, list(validators))
    return genesis


def tariff_from_json(document: object, from_ms: int) -> Tariff:
    """A tariff from its JSON form, {"utc_offset_minutes": ..., "periods": [{"from_minute": ..., ...}]}; typed errors."""
    if not isinstance(document, dict) or set(document) != {"utc_offset_minutes", "periods"}:
        raise ConfigError("a tariff has the keys utc_offset_minutes and periods")
    periods = document["periods"]
    if not isinstance(periods, list) or not all(isinstance(p, dict) and set(p) == set(_PERIOD_KEYS) for p in periods):
        raise ConfigError(f"each period of a tariff has the keys {', '.join(_PERIOD_KEYS)}")
    rows = [[period[key] for key in _PERIOD_KEYS] for period in periods]
    body = SetTariff(from_ms, document["utc_offset_minutes"], rows)
    body.check()
    return Tariff("now", body.from_ms, body.utc_offset_minutes, body.periods)


def _upgrades(rows: list[dict[str, object]]) -> tuple[tuple[str, int], ...]:
    found = sorted(
        (check_id("upgrades.name", r["name"]), check_int("upgrades.height", r["height"], 1, 1 << 53)) for r in rows
    )
    if len({name for name, _ in found}) != len(found) or any(set(row) != {"name", "height"} for row in rows):
        raise ConfigError("genesis: upgrades are objects with the keys name and height, each name once")
    return tuple(found)


_NOTE_RANGES = {
    "unit_micro": (1, 1_000_000_000),
    "denominations": (1, MAX_DENOMINATIONS),
    "bin_age_ms": (0, 53 * _WEEK_MS),
}


def _notes(given: dict[str, object]) -> NoteRules:
    if not isinstance(given, dict) or set(given) != set(_NOTE_RANGES):
        raise ConfigError(f"genesis: notes has the keys {', '.join(_NOTE_RANGES)}")
    for key, (low, high) in _NOTE_RANGES.items():
        check_int(f"notes.{key}", given[key], low, high)
    rules = NoteRules("note-rules", **given)  # type: ignore[arg-type]
    if value_micro(rules, rules.denominations - 1) > MAX_AMOUNT_MICRO // MAX_BOUGHT_NOTES:
        raise ConfigError("genesis: the largest of so many denominations is worth more than a chain may hold")
    return rules


def _check_refunds(rules: NoteRules, params: Params) -> None:
    """Whoever wins a dispute gets a bond in notes. With notes too small for it that would be thousands."""
    most = MAX_BOUGHT_NOTES * value_micro(rules, rules.denominations - 1)
    if params.objection_bond_micro > most:
        raise ConfigError(
            f"genesis: objection_bond_micro is worth more than {MAX_BOUGHT_NOTES} of the largest notes, {most} micro;"
            " have more notes.denominations or a larger notes.unit_micro"
        )


def _note_fields(rules: NoteRules) -> dict[str, object]:
    """For the genesis hash, and for people."""
    return {name: getattr(rules, name) for name in _NOTE_RANGES}


def _params(given: dict[str, object]) -> Params:
    names = {field.name for field in fields(Params)} - {"name"}
    if set(given) != names:
        odd = ", ".join(sorted(set(given) ^ names))
        raise ConfigError(f"genesis: params must have exactly the documented keys; see {odd}")
    for key, (low, high) in _RANGES.items():
        check_int(f"params.{key}", given[key], low, high)
    check_text("params.currency", given["currency"], 8)
    check_id("params.treasury", given["treasury"])
    check_id("params.grid", given["grid"])
    params = Params(name="params", **given)  # type: ignore[arg-type]
    if params.crr_numerator > params.crr_denominator:
        raise ConfigError("genesis: CRR = crr_numerator / crr_denominator must not exceed 1")
    return params


def _check_parties(params: Params, parties: tuple[tuple[str, str, bytes], ...]) -> None:
    roles = {party: role for party, role, _ in parties}
    for party, role, public in parties:
        check_bytes(f"public key of {party}", public, 65, 65)
        if role not in ROLES:
            raise ConfigError(f"genesis: role of {party} must be one of {', '.join(ROLES)}")
    if len(roles) != len(parties) or len({public for _, _, public in parties}) != len(parties):
        raise ConfigError("genesis: parties must have distinct ids and keys")
    if roles.get(params.grid) != GRID:
        raise ConfigError("genesis: params.grid must name a party of role grid")
    if roles.get(params.treasury) not in Deposit.ROLES:
        raise ConfigError(f"genesis: params.treasury must name a party of role {' or '.join(Deposit.ROLES)}")
