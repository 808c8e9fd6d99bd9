"""What a node tells CometBFT that it need not keep: nothing that evidence, snapshots or nodes that were away need."""

import pytest
from comet_app import App
from world import HOUR, NOW

from pile_coordinator.engines.comet import retention

KEEP = 5  # heights, here; evidence can be shown for two heights and two hours


@pytest.fixture
def app(tmp_path, monkeypatch):
    monkeypatch.setattr(retention, "MARK_EVERY", 1)
    monkeypatch.setattr(retention, "EVIDENCE_BLOCKS", 2)
    monkeypatch.setattr(retention, "EVIDENCE_HOURS", 2)
    opened = App(tmp_path, retain=KEEP)
    opened.init_chain()
    yield opened
    opened.close()


def retained(app: App, count: int, *, step_ms: int = HOUR) -> list[int]:
    """What CometBFT hears after each of so many idle blocks."""
    found = []
    for height in range(app.ledger.comet_height + 1, app.ledger.comet_height + count + 1):
        app.finalize(height, NOW + height * step_ms, [])
        found.append(app.ask("commit").retain_height)
    return found


def test_the_last_blocks_are_kept(app):
    assert retained(app, 9) == [0, 0, 0, 0, 0, 1, 2, 3, 4]


def test_evidence_is_kept_by_time_too(app):
    assert retained(app, 15, step_ms=HOUR // 4) == [0] * 9 + [1, 2, 3, 4, 5, 6]  # more than two hours


def test_evidence_is_kept_by_height_too(app, monkeypatch):
    monkeypatch.setattr(retention, "EVIDENCE_BLOCKS", 7)
    assert retained(app, 9) == [0] * 7 + [1, 2]


def test_all_is_kept_if_that_is_wanted(tmp_path, app):
    everything = App(tmp_path / "other")
    assert retained(everything, 9) == [0] * 9
    everything.close()


def test_marks_survive_a_restart_and_are_few(tmp_path, app):
    assert retained(app, 9)[-1] == 4
    app.close()
    app = App(tmp_path, retain=KEEP)
    assert retained(app, 3) == [5, 6, 7]
    assert [height for height, _ in retention._read(app.ledger.store.note(retention.MARKS))] == list(range(7, 13))
    app.close()


def test_who_begins_with_a_snapshot_finds_the_blocks_after_it(tmp_path, app):
    other = App(tmp_path / "other", retain=KEEP, interval=100)
    assert retained(other, 9) == [0] * 9  # there is no snapshot yet
    other.close()
    (tmp_path / "other" / "snapshots" / "3").mkdir()
    other = App(tmp_path / "other", retain=KEEP, interval=100)
    assert retained(other, 4) == [3, 3, 3, 3]
    other.close()


def test_heights_that_run_back_begin_anew(app):
    retained(app, 9)
    app.ledger.comet_height = 3  # a snapshot was taken over
    assert retained(app, 6) == [0, 0, 0, 0, 0, 4]


def test_only_now_and_then_is_anything_dropped(app, monkeypatch):
    monkeypatch.setattr(retention, "MARK_EVERY", 4)
    assert retained(app, 20) == [0] * 11 + [4, 0, 0, 0, 8, 0, 0, 0, 12]
