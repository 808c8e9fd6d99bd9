"""The files that hold tables of the accounting nodes' keys: what is kept, found, thrown away, and never trusted."""

import pytest

from pile_edge import key_tables
from pile_edge.key_tables import MAX_TABLES, SUFFIX
from pile_edge.ports.micropython_storage import Storage
from pile_shared import openssl, p256
from pile_shared.certificate import Validator
from pile_shared.cose import key_id

SECRETS = [(1000 + number).to_bytes(32, "big") for number in range(MAX_TABLES + 2)]
VALIDATORS = [Validator(f"node-{number:02}", openssl.public_key(secret), 1) for number, secret in enumerate(SECRETS)]
PUBLIC = VALIDATORS[0].public
SIGNATURE = openssl.sign(SECRETS[0], b"m")


@pytest.fixture
def storage(tmp_path):
    storage = Storage(str(tmp_path / "journal"))
    key_tables.keep_in(storage)
    yield storage
    p256.use_key_tables(None)


def name_of(validator):
    return key_id(validator.public).hex() + SUFFIX


def keep_all(validators):
    """As the agent's idle turns do; the number of turns until nothing was done."""
    for turn in range(100):
        before = sorted(key_tables._state[0].names())
        key_tables.keep(validators)
        if sorted(key_tables._state[0].names()) == before:
            return turn
    return pytest.fail("never done")


@pytest.fixture
def general(monkeypatch):
    """How often the path without a table was taken."""
    taken = []
    real = p256._multiply_unknown
    monkeypatch.setattr(p256, "_multiply_unknown", lambda *args: taken.append(args) or real(*args))
    return taken


def verified():
    assert not p256.verify(PUBLIC, b"x", SIGNATURE)
    return p256.verify(PUBLIC, b"m", SIGNATURE)


def test_one_turn_makes_one_table_and_a_kept_one_verifies(storage, general):
    three = VALIDATORS[:3]
    assert verified()
    assert len(general) == 2
    key_tables.keep(three)
    assert storage.names() == [name_of(three[0])]
    assert verified()
    assert len(general) == 2
    assert keep_all(three) == 2
    assert sorted(storage.names()) == sorted(map(name_of, three))


def test_when_all_are_there_a_turn_costs_nothing(storage, monkeypatch):
    three = VALIDATORS[:3]
    keep_all(three)
    monkeypatch.setattr(storage, "names", lambda: pytest.fail("looked"))
    key_tables.keep(three)


def test_no_more_than_so_many(storage):
    keep_all(VALIDATORS)
    assert sorted(storage.names()) == sorted(map(name_of, VALIDATORS[:MAX_TABLES]))


def test_another_set_drops_what_it_does_not_need_and_nothing_else(storage):
    storage.append("0000000000000001.j1", b"a segment")
    keep_all(VALIDATORS[:3])
    keep_all(VALIDATORS[2:4])
    assert sorted(storage.names()) == sorted(["0000000000000001.j1", *map(name_of, VALIDATORS[2:4])])


def damaged(data):
    yield from (data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :] for at in (0, 63, 64, 1000, 2047, 2048, 2051))
    yield from (b"", data[:64], data[:-1], data + b"\x00", bytes(len(data)))


def test_a_damaged_table_is_removed_not_used_and_made_anew_after_a_restart(storage, general):
    keep_all(VALIDATORS[:1])
    name = name_of(VALIDATORS[0])
    with storage.open(name) as file:
        good = file.read(4096)
    assert len(good) == p256.KEY_TABLE_BYTES + 4
    for count, data in enumerate(damaged(good)):
        storage.replace(name, data)
        assert verified()
        assert len(general) == 2 * count + 2
        assert storage.names() == []
    key_tables.keep_in(storage)
    keep_all(VALIDATORS[:1])
    with storage.open(name) as file:
        assert file.read(4096) == good


def test_the_table_of_another_key_is_not_used(storage, general):
    """Whole, and under this key's name: the CRC is over the key too."""
    keep_all(VALIDATORS[1:2])
    with storage.open(name_of(VALIDATORS[1])) as file:
        storage.replace(name_of(VALIDATORS[0]), file.read(4096))
    assert verified()
    assert len(general) == 2


def test_a_power_cut_while_writing_leaves_the_general_path(storage, general, tmp_path):
    storage._write(name_of(VALIDATORS[0]) + ".tmp", "wb", b"half a table")
    assert verified()
    assert len(general) == 2
    rebooted = Storage(str(tmp_path / "journal"))
    assert rebooted.names() == []


@pytest.mark.parametrize("error", [OSError(28), MemoryError()])
def test_without_flash_or_heap_it_goes_on_without(storage, general, monkeypatch, error):
    tries = []

    def refuse(name, _data):
        tries.append(name)
        raise error

    monkeypatch.setattr(storage, "replace", refuse)
    three = VALIDATORS[:3]
    for _ in range(3):
        key_tables.keep(three)
    assert tries == [name_of(three[0])]
    assert verified()
    assert len(general) == 2
    key_tables.keep(VALIDATORS[1:3])
    assert tries == [name_of(three[0]), name_of(three[1])]
