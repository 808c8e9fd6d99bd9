"""Notes behind CometBFT: spent once whoever proposes, and no mempool, proposal or snapshot is spoilt by who pays with them."""

from dataclasses import dataclass

import pytest
from comet_app import App
from note_world import AGE_MS, NoteMarket

from pile_coordinator.chain.records import Bid, Funding, NoteBin
from pile_coordinator.chain.transactions import CancelBid, Deposit
from pile_coordinator.engines import rings
from pile_coordinator.engines.comet import pool
from pile_coordinator.engines.comet.bundle import pack
from pile_coordinator.engines.rings import CachingRings
from pile_coordinator.replay import Replay, ReplayError
from pile_coordinator.ring.signature import verify


class Decided(NoteMarket):
    """A market whose blocks a real application decides too; the market's own state serves to sign by."""

    def __init__(self) -> None:
        self.decided: list[tuple[list[bytes], int]] = []
        super().__init__()

    def block(self, *extra: bytes, time_ms: int | None = None):
        txs = [*self.queue, *extra]
        outcome = super().block(*extra, time_ms=time_ms)
        self.decided.append((txs, self.time_ms))
        return outcome

    def teach(self, app: App) -> None:
        """Have a new application decide it all."""
        for txs, time_ms in self.decided:
            app.decide(app.ledger.comet_height + 1, time_ms, txs)


@dataclass
class Checked:
    """The rings that an application checks, one after the other."""

    count: int = 0

    def __call__(self, *claim: bytes) -> bool:
        self.count += 1
        return verify(*claim)


@pytest.fixture(scope="module")
def known() -> Decided:
    """Only its past is shared."""
    market = Decided()
    market.offer()
    market.ok()
    return market


@pytest.fixture
def chain(known, tmp_path):
    app = App(tmp_path / "app", known.genesis, interval=1)
    app.init_chain()
    app.checked = Checked()
    checker = CachingRings(app.checked)
    app.ledger.verify.rings = app.application._pool._rings = checker
    known.teach(app)
    yield known, app
    app.close()


def bids(market: Decided, count: int, owner: str = "user-1", **over: object) -> list[bytes]:
    """Bids of as many pseudonyms, paid with the same notes."""
    notes = market.enough(owner, 15_000_000)
    return [market.pay(notes, f"{owner}-as-{number}", until=10_000, **over)[1] for number in range(count)]


def forge(tx: bytes) -> bytes:
    return tx[:-1] + bytes([tx[-1] ^ 1])


def test_a_ring_is_checked_once_by_a_node(chain):
    market, app = chain
    (bid,) = bids(market, 1)
    for answer in (app.check(bid).code, app.check(bid, again=True).code):
        assert answer == 0
    assert app.proposal([bid]) == [bid]
    assert app.accepts([bid])
    assert app.decide(app.ledger.comet_height + 1, market.time_ms + 5, [bid]).tx_results[0].code == 0
    assert app.checked.count == len(market.enough("user-1", 15_000_000))


def test_of_two_bids_with_one_note_the_second_waits_nowhere_and_is_spent_in_the_end(chain):
    market, app = chain
    first, second = bids(market, 2)
    assert app.check(first).code == 0
    cost = app.checked.count
    assert app.check(second).codespace == "waits"
    assert app.checked.count == cost  # its rings were not looked at
    assert app.proposal([first, second]) == [first]  # though another node's mempool may hold it
    assert app.proposal(pack([first, second])) == [first]
    assert not app.accepts([first, second])
    done = app.decide(
        app.ledger.comet_height + 1, market.time_ms + 5, [first, second]
    )  # by a proposer and validators of another kind
    assert [result.code for result in done.tx_results] == [0, 1]
    assert [result.code for result in app.ledger.store.block(app.ledger.height).results] == ["ok", "spent"]
    assert len(list(app.ledger.state.each(Funding))) == 1
    assert app.check(second, again=True).codespace == "spent"
    assert app.check(second).codespace == "spent"


def test_what_is_first_after_all_may_wait_again(chain):
    """The one that waited was in no block: after the next block CometBFT asks anew, and the other may come first."""
    market, app = chain
    first, second = bids(market, 2)
    assert app.check(first).code == 0
    app.decide(app.ledger.comet_height + 1, market.time_ms + 5, [market.tx("grid", Deposit("user-1", 1, "one"))])
    assert app.check(second).code == 0
    assert app.check(first, again=True).codespace == "waits"


def test_a_bundle_is_good_for_others_when_a_note_of_it_was_spent_meanwhile(chain):
    """An honest coordinator packed it before it heard; a forged ring spoils it all, as no honest one packs that."""
    market, app = chain
    first, second = bids(market, 2)
    other = market.tx("grid", Deposit("user-2", 1, "two"))
    assert app.check(pack([forge(first), other])[0]).codespace == "bad_signature"
    app.decide(app.ledger.comet_height + 1, market.time_ms + 5, [first])
    assert app.check(pack([second, other])[0]).code == 0
    assert app.proposal(pack([second, other])) == [other]


def test_who_is_gone_when_a_word_of_his_comes_costs_the_others_nothing(chain):
    """The order ended and its party is one no more; it waits alone in a mempool, or late in a bundle of another node."""
    market, app = chain
    (bid,) = bids(market, 1, "user-3", limit=500_000)
    app.decide(app.ledger.comet_height + 1, market.time_ms + 5, [bid])
    (order,) = [found for found in app.ledger.state.each(Bid) if found.user.startswith("anon-")]
    twice = [market.act(order.user, CancelBid(order.id), sequence=number, until=10_000) for number in (2, 3)]
    other = market.tx("grid", Deposit("user-2", 1, "two"))
    assert [app.check(tx).code for tx in twice] == [0, 0]
    app.decide(app.ledger.comet_height + 1, market.time_ms + 6, twice[:1])
    assert app.ledger.state.find(Funding, order.user) is None
    assert app.check(twice[1], again=True).codespace == "unknown_sender"
    assert app.check(pack([twice[1], other])[0]).code == 0
    assert app.proposal(pack([twice[1], other])) == [other]
    assert app.check(pack(twice)[0]).codespace == "unknown_sender"  # nothing new is in it


def test_what_gossip_brings_is_checked_as_far_as_there_is_time(chain, monkeypatch):
    """Forged rings cost as much as good ones: beyond a bound none is looked at before the next block."""
    market, app = chain
    monkeypatch.setattr(pool, "MAX_GOSSIPED_RINGS", 6)
    app.application._pool.clear()
    good = bids(market, 1, "user-4")[0]
    for tx in map(forge, bids(market, 10, "user-5")):
        assert app.check(tx).codespace in {"bad_signature", "crowded"}
    assert app.checked.count <= 6
    assert app.check(good).codespace == "crowded"
    assert app.check(pack([good, market.tx("grid", Deposit("user-2", 1, "two"))])[0]).codespace == "crowded"
    app.application._pool.clear()  # as a block does
    assert app.check(good).code == 0


def test_no_more_rings_wait_than_a_few_blocks_can_take(chain, monkeypatch):
    """Each transaction is looked at again after every block. What waits already is asked about as often as one likes."""
    market, app = chain
    several = [bids(market, 1, f"user-{number}")[0] for number in range(6, 9)]
    each = len(market.enough("user-6", 15_000_000))
    monkeypatch.setattr(pool, "MAX_WAITING_RINGS", 2 * each)
    assert [app.check(tx).codespace for tx in several] == ["", "", "crowded"]
    assert [app.check(tx).codespace for tx in several[:2]] == ["", ""]
    app.decide(app.ledger.comet_height + 1, market.time_ms + 5, several[:1])
    assert app.check(several[1], again=True).code == 0
    assert app.check(several[2]).code == 0


def test_a_proposal_holds_as_many_rings_as_others_have_time_for(chain, monkeypatch):
    market, app = chain
    several = [bids(market, 1, f"user-{number}")[0] for number in range(6, 11)]
    each = len(market.enough("user-6", 15_000_000))
    monkeypatch.setattr(pool, "MAX_BLOCK_RINGS", 2 * each)
    assert app.proposal(several) == several[:2]
    assert app.proposal(pack(several)) == pack(several[:2])
    assert app.accepts(several[:2])
    assert not app.accepts(several[:3])


def test_the_age_of_a_bin_is_asked_of_the_time_that_it_is_now(tmp_path):
    """The last block may be long ago where nothing happens; the next block's own time decides."""
    market = Decided()
    market.offer()
    market.ok()
    app = App(tmp_path / "app", market.genesis)
    app.init_chain()
    ripe_ms = AGE_MS + max(one.sealed_ms for one in market.state.each(NoteBin))
    for txs, time_ms in market.decided:
        if time_ms < ripe_ms:
            app.decide(app.ledger.comet_height + 1, time_ms, txs)
    (bid,) = bids(market, 1)
    assert app.check(bid).code == 0  # by the clock of this node it is years later
    assert app.proposal([bid]) == []
    late = {"seconds": ripe_ms // 1000 + 1}
    assert list(app.ask("prepare_proposal", txs=[bid], max_tx_bytes=1 << 20, time=late).txs) == [bid]
    app.close()


def test_a_chain_with_bins_is_restored_from_a_snapshot_and_goes_on(chain, tmp_path):
    market, app = chain
    app.decide(app.ledger.comet_height + 1, market.time_ms + 5, bids(market, 1, "user-11"))
    app.snapshots.wait()
    snapshot = max(app.ask("list_snapshots").snapshots, key=lambda one: one.height)
    joiner = App(tmp_path / "joiner", market.genesis)
    joiner.ask("offer_snapshot", snapshot=snapshot, app_hash=app.ledger.app_hash)
    for index in range(snapshot.chunks):
        chunk = app.ask("load_snapshot_chunk", height=snapshot.height, format=snapshot.format, chunk=index).chunk
        joiner.ask("apply_snapshot_chunk", index=index, chunk=chunk)
    assert joiner.ledger.app_hash == app.ledger.app_hash
    bins = [[one.id for one in node.ledger.state.each(NoteBin)] for node in (app, joiner)]
    assert bins[0] == bins[1] != []
    again = bids(market, 1, "user-11")[0]
    new = bids(market, 1, "user-12")[0]
    for node in (app, joiner):
        node.decide(snapshot.height + 1, market.time_ms + 9, [again, new])
        codes = [result.code for result in node.ledger.store.block(node.ledger.height).results]
        assert codes == ["spent", "ok"]
    assert joiner.ledger.app_hash == app.ledger.app_hash
    joiner.close()


def test_a_block_caught_up_with_is_shared_with_other_processes(chain, monkeypatch):
    market, app = chain
    shared: list[int] = []
    monkeypatch.setattr(CachingRings, "share", lambda _, claims: shared.append(len(list(claims))))
    several = [bids(market, 1, f"user-{number}")[0] for number in range(6, 9)]
    monkeypatch.setattr(rings, "MAX_BLOCK_RINGS", 1)  # more are in no block
    app.decide(app.ledger.comet_height + 1, market.time_ms + 5, several)
    assert shared == [len(market.enough("user-6", 15_000_000))]


def test_a_replay_checks_rings_unless_it_is_told_that_they_were(chain):
    """A node that took a forged one as good is found out by who computes its ledger again."""
    market, app = chain
    (good,), (bad,) = bids(market, 1), bids(market, 1, "user-2")
    app.decide(app.ledger.comet_height + 1, market.time_ms + 5, [good])
    app.ledger.verify.rings = CachingRings(lambda *_: True)
    app.decide(app.ledger.comet_height + 1, market.time_ms + 6, [forge(bad)])
    *before, last = app.blocks
    for trusts in (False, True):
        replay = Replay(market.genesis, trust_signatures=trusts)
        for block in before:
            replay.apply(block, is_certified=False)
        if trusts:
            replay.apply(last, is_certified=False)
        else:
            with pytest.raises(ReplayError, match="bad_signature"):
                replay.apply(last, is_certified=False)
