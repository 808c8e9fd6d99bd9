"""A mirror has each block before anybody hears of it; an older ledger takes them from there, and no height is signed twice."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from commit_loop import deposit, engine
from world import NOW, genesis

from pile_coordinator.engines.engine import Block
from pile_coordinator.engines.solo import SoloEngine
from pile_coordinator.engines.store import StoreError
from pile_coordinator.keeping import mirror as mirror_module
from pile_coordinator.keeping.mirror import (
    MARK,
    Mirror,
    MirrorAwayError,
    MirrorError,
    MirrorReader,
    begin_mirror,
    prune,
    segments,
)
from pile_coordinator.keeping.mirroring import RETRY_S, Mirroring
from pile_shared.errors import ConfigError, PilechainError

LOOP = Path(__file__).with_name("commit_loop.py")
GENESIS = genesis()
HASH = GENESIS.hash()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "mirror"
    made.mkdir()
    begin_mirror(made, HASH, 0, bytes(32))
    return made


def mirrored(path: Path, folder: Path, **how) -> SoloEngine:
    return engine(path, Mirroring(folder, GENESIS, how.pop("log", print), **how))


def make(solo: SoloEngine, blocks: int) -> list[Block]:
    made = []
    for _ in range(blocks):
        solo.submit(deposit(solo, solo.height))
        made.append(solo.make_block(NOW + solo.height))
    return made


def read(folder: Path, first: int = 1) -> list[Block]:
    return list(MirrorReader(folder, HASH).blocks(first))


def same(left: list[Block], right: list[Block]) -> bool:
    """To the last byte that is kept of them."""
    return [mirror_module._encode(block) for block in left] == [mirror_module._encode(block) for block in right]


def hashes(blocks: list[Block]) -> list[bytes]:
    return [block.header.hash() for block in blocks]


def test_what_is_read_back_is_what_was_made(tmp_path, folder):
    solo = mirrored(tmp_path / "ledger.sqlite", folder)
    made = make(solo, 5)
    solo.close()
    assert same(read(folder), made)
    assert same(read(folder, 4), made[3:])


@pytest.mark.parametrize("statement", [1, 2, 4, 6])
def test_a_process_killed_between_mirror_and_ledger_goes_on_with_the_block_that_was_signed(tmp_path, folder, statement):
    path = tmp_path / "ledger.sqlite"
    done = subprocess.run(
        [sys.executable, LOOP, path, str(statement), folder], capture_output=True, check=False, timeout=60
    )
    assert done.returncode == -signal.SIGKILL
    (third,) = read(folder, 3)  # signed, and told nobody
    bare = engine(path)
    assert bare.height == 2
    bare.close()
    solo = mirrored(path, folder)
    assert (solo.height, solo.previous) == (3, third.header.hash())
    assert solo.find_tx(third.results[0].tx_id) == (3, 0)
    (fourth,) = make(solo, 1)
    solo.close()
    assert fourth.header.previous == third.header.hash()


def test_an_older_ledger_takes_what_was_signed_since_from_the_mirror(tmp_path, folder):
    """Whoever puts an old copy back, by hand or from a backup: no height is signed twice."""
    path = tmp_path / "ledger.sqlite"
    made = []
    for height in (0, 2):
        solo = mirrored(path, folder)
        made += make(solo, 2 + height)
        solo.close()
        if height == 0:
            shutil.copy(path, tmp_path / "old.sqlite")
    for old in (tmp_path / "old.sqlite", tmp_path / "none.sqlite"):
        said: list[str] = []
        solo = mirrored(old, folder, log=said.append)
        assert [solo.block(height).header.hash() for height in range(1, 7)] == hashes(made)
        assert solo.state.balance_micro("P:operator") == 5 * 6
        assert "blocks up to 6 are taken from the mirror" in said[0]
        solo.close()
        again = engine(old)  # by itself it is whole too
        assert again.height == 6
        again.close()


def test_a_mirror_begun_later_or_away_for_a_while_gets_what_it_lacks(tmp_path):
    path, folder = tmp_path / "ledger.sqlite", tmp_path / "mirror"
    solo = engine(path)
    made = make(solo, 3)
    solo.close()
    folder.mkdir()
    begin_mirror(folder, HASH, 2, made[1].header.hash())
    solo = mirrored(path, folder)
    made += make(solo, 1)
    solo.close()
    assert same(read(folder, 3), made[2:])
    with pytest.raises(MirrorError, match="begins at block 3"):
        read(folder, 2)
    with pytest.raises(MirrorError, match="use a newer backup"):
        mirrored(tmp_path / "new.sqlite", folder)


def test_of_a_mirror_that_is_required_nothing_is_acknowledged_without_it(tmp_path, folder):
    path, told = tmp_path / "ledger.sqlite", []
    solo = mirrored(path, folder)
    solo.on_block(lambda block: told.append(block.header.height))
    make(solo, 2)
    os.close(solo._mirror._mirror._file)  # the disk goes away
    with pytest.raises(MirrorAwayError, match="Nothing was acknowledged that is not there"):
        make(solo, 1)
    with pytest.raises(StoreError, match="open the ledger again"):
        make(solo, 1)
    assert told == [1, 2]
    assert solo._store.height() == 2
    solo._mirror._mirror._only_one.close()
    solo._store.close()
    folder.rename(tmp_path / "elsewhere")
    for _ in range(2):
        with pytest.raises(MirrorAwayError, match=r"is the disk mounted\?"):
            mirrored(path, folder)
        folder.mkdir(exist_ok=True)  # an empty place to mount it at is no mirror
    folder.rmdir()
    (tmp_path / "elsewhere").rename(folder)
    solo = mirrored(path, folder)
    make(solo, 1)
    solo.close()
    assert len(read(folder)) == 3


def test_without_one_that_is_not_required_it_goes_on_and_says_so(tmp_path, folder):
    now, said = [0.0], []
    path = tmp_path / "ledger.sqlite"
    solo = mirrored(path, folder, is_required=False, log=said.append, now_s=lambda: now[0])
    make(solo, 1)
    os.close(solo._mirror._mirror._file)
    solo._mirror._mirror._file = os.open("/dev/full", os.O_WRONLY)
    make(solo, 2)
    assert [line[:11] for line in said] == ["MIRROR LOST"]
    assert len(read(folder)) == 1
    now[0] = RETRY_S + 1
    made = make(solo, 1)
    assert "it has all up to 4 now" in said[-1]
    solo.close()
    assert same(read(folder, 4), made)
    reader = MirrorReader(folder, HASH)
    assert len(list(reader.blocks(1))) == 4
    assert not reader.is_whole  # its end proves nothing
    mirrored(path, folder).close()
    reader = MirrorReader(folder, HASH)
    assert len(list(reader.blocks(1))) == 4
    assert reader.is_whole


def test_the_last_record_may_be_torn_anywhere(tmp_path, folder):
    path = tmp_path / "ledger.sqlite"
    solo = mirrored(path, folder)
    make(solo, 2)
    whole = segments(folder, HASH)[-1].path
    before = whole.stat().st_size
    make(solo, 1)
    solo.close()
    data = whole.read_bytes()
    shutil.copy(path, tmp_path / "ledger.copy")
    for size in [*range(before, before + 14), len(data) - 1]:
        for end in (data[:size], data[:size] + bytes(len(data) - size)):  # cut, or not written yet
            whole.write_bytes(end)
            reader = MirrorReader(folder, HASH)
            assert len(list(reader.blocks(1))) == 2 or end == data
            assert reader.end.is_sure or any(end[before : before + 12])
            mirror = Mirror(folder, HASH)
            assert mirror.height == 2 or end == data
            mirror.close()
    whole.write_bytes(data[: before + 5])
    solo = mirrored(path, folder)  # the ledger has the block: the mirror gets it again
    made = make(solo, 1)
    solo.close()
    assert same(read(folder, 4), made)
    assert whole.read_bytes()[: len(data)] == data


def test_any_other_damage_is_found(tmp_path, folder):
    solo = mirrored(tmp_path / "ledger.sqlite", folder)
    made = make(solo, 3)
    solo.close()
    (segment,) = segments(folder, HASH)
    data = segment.path.read_bytes()
    last = len(data) - len(mirror_module._encode(made[2]))
    for place in [*range(0, 120, 3), *range(120, last, 97)]:
        spoilt = bytearray(data)
        spoilt[place] ^= 0x10
        segment.path.write_bytes(spoilt)
        reader, found = None, []
        try:
            reader = MirrorReader(folder, HASH)
            found = list(reader.blocks(1))
        except PilechainError:
            continue
        assert not reader.is_whole
        assert same(found, made[: len(found)])
        assert len(found) < 3


def test_segments_end_and_those_behind_a_backup_are_deleted(tmp_path, folder, monkeypatch):
    monkeypatch.setattr(mirror_module, "SEGMENT_BYTES", 1200)
    path = tmp_path / "ledger.sqlite"
    solo = mirrored(path, folder)
    made = make(solo, 8)
    firsts = [segment.first for segment in segments(folder, HASH)]
    assert len(firsts) >= 3
    assert same(read(folder), made)
    assert prune(folder, HASH, firsts[1] - 2) == []
    assert [gone.name for gone in prune(folder, HASH, firsts[2] - 1)] == [
        f"blocks-{first:012d}" for first in firsts[:2]
    ]
    made += make(solo, 2)  # meanwhile it is written on
    solo.close()
    assert same(read(folder, firsts[2]), made[firsts[2] - 1 :])
    assert len(prune(folder, HASH, 10**6)) >= 1
    assert len(segments(folder, HASH)) == 1
    mirrored(path, folder).close()
    lost = sorted(folder.glob("blocks-*"))
    assert len(lost) == 1


def test_a_missing_segment_is_noticed(tmp_path, folder, monkeypatch):
    monkeypatch.setattr(mirror_module, "SEGMENT_BYTES", 1200)
    solo = mirrored(tmp_path / "ledger.sqlite", folder)
    make(solo, 8)
    solo.close()
    segments(folder, HASH)[1].path.unlink()
    with pytest.raises(MirrorError, match="lacks block"):
        read(folder)


def test_two_histories_do_not_mix(tmp_path, folder):
    solo = mirrored(tmp_path / "ledger.sqlite", folder)
    make(solo, 3)
    solo.close()
    other = engine(tmp_path / "other.sqlite")
    other.submit(deposit(other, 77))
    other.make_block(NOW)
    assert other.height == 1
    for blocks in (0, 2, 3):  # behind the mirror, beside it, ahead of it
        make(other, blocks)
        other.close()
        with pytest.raises(StoreError, match="two histories"):
            mirrored(tmp_path / "other.sqlite", folder)
        other = engine(tmp_path / "other.sqlite")
    other.close()


def test_what_is_no_mirror_of_this_chain_is_refused(tmp_path, folder):
    with pytest.raises(MirrorError, match="another chain"):
        Mirror(folder, bytes(32))
    with pytest.raises(ConfigError, match="give a new mirror an empty folder"):
        begin_mirror(folder, HASH, 0, bytes(32))
    with pytest.raises(MirrorAwayError, match="make the folder"):
        begin_mirror(tmp_path / "nowhere", HASH, 0, bytes(32))
    first = Mirror(folder, HASH)
    with pytest.raises(ConfigError, match="in use by process"):
        Mirror(folder, HASH)
    first.close()
    (folder / MARK).write_text('{"format": 2, "genesis": "00", "whole": true}')
    with pytest.raises(MirrorError, match="use a newer one"):
        Mirror(folder, HASH)
