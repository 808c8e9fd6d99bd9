"""Genesis: one document, one hash, one chain id; anything odd is refused with a message that names it."""

import copy
import json
from typing import Any

import pytest
from world import FLAT, NOW, World, genesis, key

from pile_coordinator.chain.genesis import genesis_from_json
from pile_coordinator.chain.records import Epoch, Party, PartyKey, Tally, Tariff
from pile_shared import cose
from pile_shared.errors import ConfigError


def document() -> dict[str, Any]:
    return json.loads(json.dumps(genesis().to_json()))


def test_a_genesis_survives_its_json() -> None:
    again = genesis_from_json(document())
    assert again.encoded() == genesis().encoded()
    assert (again.hash(), again.chain_id) == (genesis().hash(), f"test-{genesis().hash()[:4].hex()}")


@pytest.mark.parametrize("name", sorted(document()["params"]))
def test_every_parameter_is_part_of_the_hash_and_must_be_there(name: str) -> None:
    changed = document()
    value = changed["params"][name]
    other = {"currency": "EUR", "treasury": "operator", "grid": "second", "breaker_permille": 1, "rulings_needed": 2}
    changed["params"][name] = other.get(name, value if isinstance(value, str) else value - 1)
    if name == "grid":
        changed["parties"].append({"id": "second", "role": "grid", "public": key("second").public.hex()})
    assert genesis_from_json(changed).hash() != genesis().hash()
    del changed["params"][name]
    with pytest.raises(ConfigError, match=name):
        genesis_from_json(changed)


@pytest.mark.parametrize("name", sorted(n for n, v in document()["params"].items() if isinstance(v, int)))
@pytest.mark.parametrize("value", [-1, 10**19, 1.5, True, None, "5"])
def test_a_parameter_out_of_range_is_named(name: str, value: object) -> None:
    changed = document()
    changed["params"][name] = value
    with pytest.raises(ConfigError, match=name):
        genesis_from_json(changed)


def period(genesis_document: dict[str, Any]) -> dict[str, Any]:
    return genesis_document["tariff"]["periods"][0]


def edits() -> dict[str, Any]:
    """Each is (how to spoil a document, what the message must name)."""
    return {
        "no object": (lambda d: d.clear(), "lacks the key"),
        "an unknown key": (lambda d: d.update(extra=1), "extra"),
        "an unknown parameter": (lambda d: d["params"].update(extra=1), "extra"),
        "a long name": (lambda d: d.update(name="x" * 21), "name"),
        "a bad name": (lambda d: d.update(name="No Spaces"), "name"),
        "a bad time": (lambda d: d.update(time_ms=-1), "time_ms"),
        "no validators": (lambda d: d.update(validators=[]), "validators"),
        "a validator twice": (lambda d: d.update(validators=d["validators"] * 2), "validators"),
        "parties as text": (lambda d: d.update(parties="abc"), "genesis"),
        "params as list": (lambda d: d.update(params=[1]), "genesis"),
        "an unknown role": (lambda d: d["parties"][0].update(role="king"), "role of grid"),
        "a short key": (lambda d: d["parties"][0].update(public="04"), "public key of grid"),
        "no hex": (lambda d: d["parties"][0].update(public="zz"), "hex"),
        "a party twice": (lambda d: d["parties"].append(d["parties"][0]), "distinct"),
        "a key twice": (lambda d: d["parties"].append({**d["parties"][0], "id": "other"}), "distinct"),
        "no such grid": (lambda d: d["params"].update(grid="operator"), "params.grid"),
        "no such treasury": (lambda d: d["params"].update(treasury="nobody"), "params.treasury"),
        "a treasury that cannot deposit": (lambda d: d["params"].update(treasury="auditor"), "params.treasury"),
        "a CRR above one": (lambda d: d["params"].update(crr_numerator=6), "CRR"),
        "a grid that buys dear": (lambda d: period(d).update(buy_micro_per_kwh=650_001), "buying price"),
        "a grid that gives away": (lambda d: period(d).update(sell_micro_per_kwh=0), "selling price"),
        "no periods": (lambda d: d["tariff"].update(periods=[]), "periods"),
        "too many periods": (
            lambda d: d["tariff"].update(periods=[period(d) | {"from_minute": i} for i in range(25)]),
            "24",
        ),
        "a day without a beginning": (lambda d: period(d).update(from_minute=1), "from minute"),
        "periods out of order": (lambda d: d["tariff"].update(periods=[period(d), period(d)]), "from minute"),
        "a period without a name": (lambda d: period(d).update(name=""), "name of the period"),
        "a period without a price": (lambda d: period(d).pop("sell_micro_per_kwh"), "each period"),
        "a period with an extra": (lambda d: period(d).update(extra=1), "each period"),
        "an offset of a day": (lambda d: d["tariff"].update(utc_offset_minutes=1440), "utc_offset_minutes"),
        "a tariff with an extra": (lambda d: d["tariff"].update(from_ms=1), "tariff"),
        "no tariff": (lambda d: d.pop("tariff"), "tariff"),
    }


@pytest.mark.parametrize("what", edits())
def test_a_spoilt_genesis_is_refused_by_name(what: str) -> None:
    spoil, named = edits()[what]
    changed = copy.deepcopy(document())
    spoil(changed)
    with pytest.raises(ConfigError, match=named):
        genesis_from_json(changed)


@pytest.mark.parametrize("junk", [None, [], "x", 5])
def test_something_else_than_an_object_is_refused(junk: object) -> None:
    with pytest.raises(ConfigError, match="object"):
        genesis_from_json(junk)


@pytest.mark.parametrize(
    "change",
    [
        {"utc_offset_minutes": 1},
        {"periods": [FLAT | {"name": "other"}]},
        {"periods": [FLAT | {"sell_micro_per_kwh": 650_001}]},
        {"periods": [FLAT | {"buy_micro_per_kwh": 400_001}]},
        {"periods": [FLAT, FLAT | {"from_minute": 1}]},
    ],
)
def test_the_tariff_is_part_of_the_hash(change: dict[str, Any]) -> None:
    changed = document()
    changed["tariff"].update(change)
    assert genesis_from_json(changed).hash() != genesis().hash()


def test_the_first_state_is_parameters_parties_tariff_epoch_and_an_empty_tally() -> None:
    world = World()
    assert [party.id for party in world.state.each(Party)] == ["auditor", "grid", "operator"]
    assert world.state.params.bond_permille == document()["params"]["bond_permille"]
    assert world.state.each(Tariff) == [Tariff("now", NOW, 0, [[0, "flat", 650_000, 400_000]])]
    assert world.state.get(Epoch, "epoch").next_edge_ms == NOW + document()["params"]["epoch_ms"]
    assert world.state.each(Tally) == [Tally("tally", 0, 0, 0, 0, 0, 0)]
    assert {k.party: k.kid for k in world.state.each(PartyKey)} == {
        party: cose.key_id(key(party).public) for party in ("auditor", "grid", "operator")
    }
    assert World().root == world.root != World(fee_micro=1).root


# --- notes ---------------------------------------------------------------------------------------------------------------

NOTES = {"unit_micro": 100_000, "denominations": 10, "bin_age_ms": 3_600_000}


def with_notes(**over: object) -> dict[str, Any]:
    return document() | {"notes": NOTES | over}


def test_notes_are_part_of_the_hash_and_a_chain_without_them_has_the_hash_it_had() -> None:
    """The first two were computed by the release before there were notes."""
    assert genesis().hash().hex() == "f7eef31e88fc8edba16342c205133737797470f7094cfb932b9d1a739a343501"
    assert (
        genesis(upgrades=[{"name": "a", "height": 9}]).hash().hex()
        == "211516480c368467be33254aaafafa278549f6cbbedcbcf8d4d5ad5b6ee5d648"
    )
    found = genesis_from_json(with_notes())
    assert genesis_from_json(json.loads(json.dumps(found.to_json()))).encoded() == found.encoded()
    assert found.to_json()["notes"] == NOTES
    changed = [with_notes(**{name: value - 1}) for name, value in NOTES.items()]
    assert len({genesis_from_json(each).hash() for each in [document(), with_notes(), *changed]}) == 5


@pytest.mark.parametrize("name", NOTES)
@pytest.mark.parametrize("value", [-1, 10**19, 1.5, True, None, "5"])
def test_a_rule_of_notes_out_of_range_is_named(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"notes.{name}"):
        genesis_from_json(with_notes(**{name: value}))


@pytest.mark.parametrize("notes", [None, [], {}, "x", 1, {"unit_micro": 1}, NOTES | {"more": 1}])
def test_notes_are_their_three_rules(notes: object) -> None:
    with pytest.raises(ConfigError, match="notes has the keys"):
        genesis_from_json(document() | {"notes": notes})


def test_the_bounds_of_notes() -> None:
    free = document() | {"params": document()["params"] | {"objection_bond_micro": 0}}
    for over in ({"unit_micro": 1}, {"denominations": 1}, {"bin_age_ms": 0}):
        genesis_from_json(free | {"notes": NOTES | over})
    genesis_from_json(with_notes(unit_micro=7_000_000, denominations=32))
    for over in ({"unit_micro": 0}, {"denominations": 0}, {"denominations": 33}, {"unit_micro": 1_000_000_001}):
        with pytest.raises(ConfigError, match="notes"):
            genesis_from_json(with_notes(**over))
    with pytest.raises(ConfigError, match="more than a chain may hold"):
        genesis_from_json(with_notes(unit_micro=8_000_000, denominations=32))


def test_a_bond_that_is_won_comes_in_no_more_notes_than_one_can_buy() -> None:
    bond = 64 * (100_000 << 9)
    for micro, is_refused in ((bond, False), (bond + 1, True)):
        changed = with_notes()
        changed["params"]["objection_bond_micro"] = micro
        if is_refused:
            with pytest.raises(ConfigError, match="objection_bond_micro"):
                genesis_from_json(changed)
        else:
            genesis_from_json(changed)
        del changed["notes"]
        genesis_from_json(changed)


def test_on_a_chain_with_notes_no_founder_is_called_like_nobody() -> None:
    named = document()
    named["parties"].append({"id": "anon-1", "role": "grid", "public": key("anon-1").public.hex()})
    genesis_from_json(named)
    with pytest.raises(ConfigError, match="anonymous orders"):
        genesis_from_json(named | {"notes": NOTES})
