"""A block as a whole: results in order, nothing swallowed, purity, and long runs in which every invariant holds."""

import ast
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded_run import run
from world import HOUR, NOW, Market, World, bounded, closings, leaf_of, statements

import pile_coordinator.chain
from pile_coordinator.chain import transition
from pile_coordinator.chain.env import Journal
from pile_coordinator.chain.records import Bid, Contract, Party
from pile_coordinator.chain.rejections import Rejection
from pile_coordinator.chain.settlement import CAUSES
from pile_coordinator.chain.transactions import AT_MARKET, Deposit
from pile_coordinator.chain.transition import apply_block
from pile_shared.platform import sha256
from pile_shared.terms import LEAF_CLEARING, LEAF_CLOSED, LEAF_CONTRACT, LEAF_RESULT


def test_one_result_per_transaction_in_order_and_as_the_first_leaves() -> None:
    market = Market()
    txs = [market.tx("grid", Deposit("user-1", 5, "a")), b"junk", market.tx("nobody", Deposit("user-1", 5, "b"))]
    outcome = market.block(*txs)
    assert [r.code for r in outcome.results] == ["ok", "malformed", "unknown_sender"]
    expected = [sha256(txs[0]), b"", sha256(txs[2])]
    assert [r.tx_id for r in outcome.results] == expected
    heads = [leaf_of(leaf) for leaf in outcome.leaves[:3]]
    assert heads == [[LEAF_RESULT, i, expected[i], outcome.results[i].code] for i in range(3)]


def test_anything_but_a_rejection_stops_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    market = Market()

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setitem(transition._CARRY_OUT, Deposit, broken)
    with pytest.raises(ZeroDivisionError):
        apply_block(market.state, market.env(), [market.tx("grid", Deposit("user-1", 5, "a"))])


def test_a_rejection_takes_back_all_that_its_transaction_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an accepted transaction of the same block noted before it stays."""
    market = Market()
    kept: list[Journal] = []

    def leaky(state: object, env: object, journal: Journal, tx: object, body: Deposit) -> None:
        journal.leaves.append(body.reference.encode())
        journal.receipts[f"pile-{body.reference}"] = None
        journal.closed.append(body.reference.encode())
        journal.metered.append((b"", 0, 0, 0, 0))
        kept.append(journal)
        if body.reference == "2":
            raise Rejection("funds", "after the fact")

    monkeypatch.setitem(transition._CARRY_OUT, Deposit, leaky)
    journal, at = Journal(), market.sequences["grid"]
    for number in (1, 2):
        data = market.tx("grid", Deposit("user-1", 5, str(number)), sequence=at + number)
        transition.apply_tx(market.state, market.env(), journal, data)
    assert (len(kept), journal) == (2, Journal([b"1"], {"pile-1": None}, [b"1"], [(b"", 0, 0, 0, 0)]))


def test_a_rejection_midway_takes_back_what_its_transaction_did_but_not_its_neighbours() -> None:
    market = Market(user_micro=1_100_000)
    market.bid(energy=1000)
    market.bid(energy=9000)  # counted as an order, then the money is missing
    market.queue.append(market.tx("grid", Deposit("user-1", 5, "a")))
    outcome = market.block()
    assert [r.code for r in outcome.results] == ["ok", "funds", "ok"]
    assert market.state.get(Party, "user-1").open_orders == 1
    assert len(market.state.each(Bid)) == 1


def test_deadlines_come_before_transactions_and_those_before_clearing() -> None:
    market = Market()
    market.bid(energy=1000, expires=NOW + HOUR // 4)
    market.ok()
    market.offer()
    outcome = market.ok(time_ms=NOW + HOUR // 4)
    assert closings(outcome) == ["expired"], "an offer at the moment of expiry comes too late"
    market.bid(energy=1000)
    kinds = [leaf_of(leaf)[0] for leaf in market.ok().leaves]
    assert kinds == [LEAF_RESULT, LEAF_CONTRACT, LEAF_CLEARING]
    assert LEAF_CLOSED not in kinds


def test_an_order_fills_in_the_block_it_arrives_in() -> None:
    market = Market()
    market.offer()
    bid = market.bid(market=True)
    market.ok()
    assert market.terms().order == bid


def test_an_empty_block_changes_nothing() -> None:
    market = Market()
    market.offer()
    market.bid()
    market.ok()
    root = market.root
    assert market.ok().leaves == []
    assert market.root == root


def test_the_long_run_takes_every_way_an_order_can_end() -> None:
    """The run that the state and hash-seed tests replay is worth replaying."""
    seen: Counter[str] = Counter()
    causes: Counter[str] = Counter()

    def counting(world: World, *extra: bytes, time_ms: int | None = None) -> object:
        outcome = World.block(world, *extra, time_ms=time_ms)
        seen.update(closings(outcome))
        causes.update(statement.cause for statement in statements(outcome))
        return outcome

    list(run(counting))
    began = {"confirmed", "settled", "resolved"}
    assert set(seen) == began | {"expired", "cancelled", "unfilled", "unsigned", "defaulted", "no-show"}
    assert set(causes) == set(CAUSES)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["bid", "list", "prove", "confirm", "time", "none"]),
            st.integers(1, 3),
            st.integers(0, 255),
            st.booleans(),
        ),
        min_size=5,
        max_size=40,
    )
)
@bounded(60)
def test_every_invariant_holds_after_every_block_of_any_run(steps: list) -> None:
    """World.block counts everything again after each block; this makes up the blocks."""
    market = Market(3, 3, owner_micro=3_000_000, user_micro=30_000_000)
    start_micro = sum(market.money(party.id) for party in market.state.each(Party))
    for action, who, amount, flag in steps:
        if action == "list":
            market.offer(f"pile-{who}", energy=100 * (amount + 1), ask=AT_MARKET if flag else 2500 * (amount + 1))
        if action == "bid":
            begin = market.time_ms + (amount % 4) * HOUR // 4
            end = begin + HOUR
            market.bid(f"user-{who}", energy=100 * (amount % 70 + 1), limit=900_000, market=flag, start=begin, end=end)
        if action == "prove":
            _prove(market, f"pile-{who}", amount, flag)
        if action == "confirm":
            _confirm(market, flag)
        market.block(time_ms=market.time_ms + (HOUR // 2 if action == "time" else 1000))
    held = sum(market.holds().values()) + market.state.balance_micro("F")
    assert sum(market.money(party.id) for party in market.state.each(Party)) + held == start_micro


def _prove(market: Market, pile: str, amount: int, flag: bool) -> None:
    from pile_coordinator.chain.records import Pile
    from pile_shared.proof import BEGIN, HEARTBEAT

    energy = market.state.get(Pile, pile).last_energy_wh + 10 * amount - (500 if amount == 255 else 0)
    mine = market.state.contracts_on(pile)
    if not mine:
        message = market.prove(pile, HEARTBEAT, [(market.time_ms, max(0, energy))])
    elif mine[0].phase == "signed":
        message = market.prove(pile, BEGIN, [(market.time_ms, max(0, energy))], contract=mine[0].id)
    elif flag:
        message = market.end(market.time_ms, max(0, energy), 1 + amount % 8, pile=pile, contract=mine[0].id)
    else:
        message = market.periodic(market.time_ms, max(0, energy), pile=pile, contract=mine[0].id)
    market.send("operator", market.batch(message))


def _confirm(market: Market, user_only: bool) -> None:
    from pile_coordinator.chain.settlement import decode_statement
    from pile_coordinator.chain.transactions import Confirm

    for contract in market.state.each(Contract):
        if contract.phase == "measured":
            terms, digest = market.state.terms_of(contract), decode_statement(contract.statement).digest()
            for party in (terms.user,) if user_only else (terms.user, terms.owner):
                market.send(party, Confirm(contract.id, digest))


IMPURE = {
    "time",
    "datetime",
    "random",
    "secrets",
    "os",
    "socket",
    "logging",
    "threading",
    "asyncio",
    "sqlite3",
    "pathlib",
    "io",
    "sys",
}
IMPURE_CALLS = {"open", "print", "input", "hash", "id", "float", "round", "set_trace"}
CHAIN = sorted(Path(pile_coordinator.chain.__file__).parent.glob("*.py"))


@pytest.mark.parametrize("path", CHAIN, ids=lambda path: path.name)
def test_the_chain_is_pure(path: Path) -> None:
    """No clock, file, socket, randomness, logging or float reaches the law (architecture rule of the chain folder)."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            assert not {alias.name.split(".")[0] for alias in node.names} & IMPURE
        if isinstance(node, ast.ImportFrom):
            assert (node.module or "").split(".")[0] not in IMPURE
            assert not (node.module or "").startswith(
                ("pile_coordinator.engines", "pile_coordinator.ingest", "pile_edge")
            )
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in IMPURE_CALLS, (path.name, node.lineno)
        if isinstance(node, ast.BinOp | ast.AugAssign):
            assert not isinstance(node.op, ast.Div), (path.name, node.lineno)
        if isinstance(node, ast.Constant):
            assert not isinstance(node.value, float), (path.name, node.lineno)


def test_functions_of_the_chain_stay_short() -> None:
    for path in CHAIN:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno <= 70, (path.name, node.name)
