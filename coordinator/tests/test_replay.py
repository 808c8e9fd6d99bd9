"""Whoever has the blocks computes every balance again: on any machine, from any snapshot, and finds what was tampered with."""

import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from every_phase import same_indexes
from random_run import BLOCKS, RecordedMarket, record
from settled import Chain, deliver
from world import NOW, leaf_of

from pile_coordinator.chain import election, notes, proofs, stake
from pile_coordinator.chain.records import Account, Bid
from pile_coordinator.chain.rejections import CODES
from pile_coordinator.chain.settlement import BASES, CAUSES, decode_statement
from pile_coordinator.chain.state import State
from pile_coordinator.chain.transactions import BODIES, Deposit, decode_transaction
from pile_coordinator.cli import main
from pile_coordinator.engines.engine import Block
from pile_coordinator.engines.store import StoreError
from pile_coordinator.evidence.exporter import Exporter
from pile_coordinator.replay import Audit, Replay, ReplayError, audit, blocks_of, open_ledger
from pile_shared import terms
from pile_shared.codec import decode, encode

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("replay_ledger.py")


class Recorded:
    """The long run: its ledger file, what it was played on, and the state root after each block."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "ledger.sqlite"
        self.market: RecordedMarket
        self.market, self.roots = record(self.path)
        self.genesis = self.market.genesis
        self.blocks = list(blocks_of(open_ledger(self.path, self.genesis)))
        self.lines = [root.hex() for root in self.roots]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    return Recorded(tmp_path_factory.mktemp("run"))


def test_the_run_is_worth_replaying(run: Recorded) -> None:
    """Thousands of transactions of every type, every way a contract ends, every cause, basis, anomaly and kind of event."""
    results, details, leaves, endings = Counter(), Counter(), Counter(), Counter()
    causes, bases = Counter(), Counter()
    for block in run.blocks:
        for data, result in zip(block.txs, block.results, strict=True):
            results[result.code] += 1
            if result.code == "ok":
                results[decode_transaction(data).body.TYPE] += 1
                details.update(result.details)
        for leaf in map(leaf_of, block.leaves):
            leaves[leaf[0]] += 1
            if leaf[0] == terms.LEAF_CLOSED:
                endings[leaf[2]] += 1
            if leaf[0] == terms.LEAF_SETTLEMENT:
                statement = decode_statement(leaf[1])
                causes[statement.cause] += 1
                bases[statement.verdict.basis if statement.verdict else "none"] += 1
    assert len(run.blocks) == BLOCKS == 320
    assert sum(len(block.txs) for block in run.blocks) >= 3000
    assert {kind for kind in BODIES if results[kind] < 3} == set()
    assert {code for code in CODES if not results[code]} == {"limit"}, "a thousand orders of one party would be dull"
    assert set(endings) == {
        "expired", "cancelled", "unfilled", "spent", "unsigned", "defaulted", "no-show", "confirmed", "settled", "resolved",
    }  # fmt: skip
    assert set(causes) == set(CAUSES)
    assert set(bases) == {"none", *BASES}
    assert set(details) >= {
        proofs.ADMITTED,
        proofs.FORK,
        proofs.GAP,
        proofs.DUPLICATE,
        proofs.BAD_SIGNATURE,
        proofs.UNCHAINED,
    }
    assert set(leaves) == {
        value
        for module in (terms, election, stake, notes)
        for name, value in vars(module).items()
        if name.startswith("LEAF_")
    }
    assert run.market.seen.keys() >= {
        "proposed",
        "signed",
        "active",
        "measured",
        "disputed",
        "paused",
        "fork",
        "register fell",
    }
    assert leaves[terms.LEAF_TARIFF] >= 3, "announced tariffs came into force, so epochs passed"


def test_the_evidence_of_the_run_accounts_for_every_micro(run: Recorded, tmp_path: Path) -> None:
    """Deposits, contracts, fees, stake, slashes and rewards; what a resting bid holds is not in the view, so it is added."""
    evidence = Exporter(tmp_path / "evidence.sqlite")
    for block in run.blocks:
        evidence.write(block)
    balances: Counter[str] = Counter()
    for bid in run.market.state.each(Bid):
        balances[f"P:{bid.user}"] -= bid.hold_micro
        balances[f"E:{bid.id.hex()}"] += bid.hold_micro
    for debit, credit, amount in evidence.db.exec_driver_sql("SELECT debit, credit, amount_micro FROM movement"):
        balances["P:grid" if debit == "G" else debit] -= amount
        balances["P:grid" if credit == "G" else credit] += amount
    state = {account.name: account.balance_micro for account in run.market.state.each(Account)}
    assert {name: micro for name, micro in balances.items() if micro} == {n: m for n, m in state.items() if m}
    counted = {
        table: evidence.db.exec_driver_sql(f"SELECT count(*) FROM {table}").fetchone()[0]
        for table in ("accounting_node", "punishment", "stake_posting", "repeated")
    }
    assert all(count >= 5 for count in counted.values()), counted
    reasons = {reason for (reason,) in evidence.db.exec_driver_sql("SELECT DISTINCT reason FROM punishment")}
    assert reasons == {"double-sign", "double-attestation", "downtime"}
    evidence.close()


# --- the same everywhere ----------------------------------------------------------------------------------------------------


def test_signatures_and_all_the_blocks_hold(run: Recorded) -> None:
    seen: list[int] = []
    store = open_ledger(run.path, run.genesis)
    found = audit(store, run.genesis, on_block=lambda block: seen.append(block.header.height))
    store.close()
    accepted = sum(result.code == "ok" for block in run.blocks for result in block.results)
    assert found == Audit(BLOCKS, sum(len(block.txs) for block in run.blocks), accepted, run.roots[-1])
    assert seen == list(range(1, BLOCKS + 1))


def printed(command: list[str], run: Recorded, timeout_s: int = 100, **environment: str) -> list[str]:
    text = subprocess.check_output(
        [*command, str(run.path)], env={**os.environ, **environment}, text=True, timeout=timeout_s
    )
    return text.splitlines()


@pytest.mark.parametrize("seed", ["0", "1", "4242", "random"])
def test_roots_do_not_depend_on_the_hash_seed(seed: str, run: Recorded) -> None:
    assert printed([sys.executable, str(SCRIPT)], run, PYTHONHASHSEED=seed)[1:] == run.lines


@pytest.mark.parametrize("seed", ["1", "random"])
def test_nor_does_the_recording(seed: str, run: Recorded, tmp_path: Path) -> None:
    """What a coordinator decides, and not only what it repeats."""
    script = "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
    script += "from random_run import record; print(record(Path(sys.argv[2]), 30)[1][-1].hex())"
    command = [sys.executable, "-c", script, str(SCRIPT.parent), str(tmp_path / "ledger.sqlite")]
    environment = {**os.environ, "PYTHONHASHSEED": seed}
    assert subprocess.check_output(command, env=environment, text=True, timeout=100).split() == [run.lines[29]]


def test_neither_openssl_nor_a_compiled_codec_is_needed(run: Recorded) -> None:
    """The board's own CBOR and P-256 give the same bytes for the whole run; without OpenSSL it is slow only to verify."""
    without = f"import sys, runpy; sys.modules['cryptography'] = None; sys.argv = sys.argv[1:]; runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    lines = printed([sys.executable, "-c", without, str(SCRIPT)], run)
    assert lines[0].endswith("SimpleNamespace"), "cbor2 was not loaded"
    assert lines[1:] == run.lines


FOREIGN = sorted(ROOT.glob("build/python-*/python"))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("python", FOREIGN or [None], ids=lambda path: path.parent.name if path else "none here")
def test_roots_do_not_depend_on_the_architecture(python: Path | None, run: Recorded) -> None:
    """Not demanded by PILECHAIN_REQUIRE_ALL: whether a kernel runs another architecture's programs is not ours to install."""
    if python is None:
        pytest.skip(
            "no Python of another architecture; tools/foreign-python i386 fetches one (s390x: the other byte order)"
        )
    lines = printed([str(python), str(SCRIPT)], run, timeout_s=280)
    assert lines[0] != printed([sys.executable, str(SCRIPT)], run)[0]
    assert lines[1:] == run.lines


def test_it_goes_on_from_any_snapshot_whatever_the_order_of_its_rows(run: Recorded) -> None:
    rng = random.Random(3)
    replay, rows = Replay(run.genesis, trust_signatures=True), dict[bytes, bytes]()
    rows.update({key: value for key, value in run.genesis.state().seal()[1] if value is not None})
    restored = 0
    for block, root in zip(run.blocks, run.roots, strict=True):
        for key, value in replay.apply(block):
            rows.pop(key, None) if value is None else rows.update({key: value})
        assert block.header.state_root == root
        if rng.random() < 0.15:
            items = sorted(rows.items(), reverse=rng.random() < 0.3)
            if rng.random() < 0.7:
                rng.shuffle(items)
            state = State.load(items)
            assert state.seal()[0] == root
            same_indexes(replay.state, state)
            replay.state = state
            restored += 1
    assert restored >= 30
    assert rows == run.market.rows
    same_indexes(replay.state, run.market.state)


# --- ledgers of others, and spoilt ones ---------------------------------------------------------------------------------------


def test_a_ledger_of_the_solo_engine_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chain = Chain(tmp_path)
    chain.admit()
    deliver(chain, delivered_wh=3000, reason=1)
    (tmp_path / "genesis.json").write_text(json.dumps(chain.genesis.to_json()))
    store = open_ledger(tmp_path / "ledger.sqlite", chain.genesis)  # while the engine has it open
    assert audit(store, chain.genesis).height == chain.engine.height
    store.close()
    root = chain.engine.block(chain.engine.height).header.state_root
    chain.close()
    assert main(["replay", str(tmp_path / "ledger.sqlite"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["state_root"] == root.hex()
    assert facts["signatures_checked"] is True


def test_a_ledger_to_which_blocks_are_added_meanwhile_holds(tmp_path: Path) -> None:
    """Blocks come while the others are computed: they are computed too, and are no damage of the state kept beside them."""
    chain = Chain(tmp_path)
    chain.admit()
    store = open_ledger(tmp_path / "ledger.sqlite", chain.genesis)

    def add(block: Block) -> None:  # one for each that is looked at, also while the state is compared
        if chain.engine.height < 6:
            number = chain.engine.height
            chain.block(NOW + 2000 + number, ("grid", Deposit("olga", 1, f"more-{number}")))

    found = audit(store, chain.genesis, on_block=add)
    store.close()
    assert found.height >= 2
    assert found.state_root == chain.engine.block(found.height).header.state_root
    chain.close()


def test_an_empty_ledger_holds(tmp_path: Path) -> None:
    chain = Chain(tmp_path)
    store = open_ledger(tmp_path / "ledger.sqlite", chain.genesis)
    assert audit(store, chain.genesis).height == 0
    store.close()
    chain.close()


Tamper = Callable[[sqlite3.Connection, int], None]


def column(name: str, change: Callable[[list], object]) -> Tamper:
    """Change one column of a block."""

    def tamper(db: sqlite3.Connection, height: int) -> None:
        (value,) = db.execute(f"SELECT {name} FROM block WHERE height = ?", (height,)).fetchone()
        row = decode(value, 1 << 28)
        changed = change(row)  # type: ignore[arg-type]
        db.execute(
            f"UPDATE block SET {name} = ? WHERE height = ?", (encode(row if changed is None else changed), height)
        )

    return tamper


def swap(db: sqlite3.Connection, height: int) -> None:
    for old, new in ((height, -1), (height + 1, height), (-1, height + 1)):
        db.execute("UPDATE block SET height = ? WHERE height = ?", (new, old))


def torn(db: sqlite3.Connection, height: int) -> None:
    db.execute("UPDATE block SET txs = substr(txs, 1, 100) WHERE height = ?", (height,))


def gone(db: sqlite3.Connection, height: int) -> None:
    db.execute("DELETE FROM block WHERE height = ?", (height,))


def first_ok(rows: list) -> None:
    row = next(row for row in rows if row[1] == "ok")
    row[1] = "funds"


SPOILT: list[tuple[str, Tamper, str, str]] = [
    # what was done to a block, what is said of it, and what with trusted signatures
    ("a transaction left out", column("txs", lambda txs: txs.pop() and None), "its transactions are not those", ""),
    ("a transaction doubled", column("txs", lambda txs: txs.append(txs[0])), "its transactions are not those", ""),
    ("two exchanged", column("txs", lambda txs: txs.reverse()), "its transactions are not those", ""),
    ("no bytes", column("txs", lambda txs: [1] * len(txs)), "its transactions are not byte strings", ""),
    ("another result", column("results", first_ok), "is ok, the ledger says funds", ""),
    ("a result left out", column("results", lambda rows: rows.pop() and None), "its results and events are not", ""),
    ("an event left out", column("leaves", lambda leaves: leaves.pop() and None), "its results and events are not", ""),
    ("an event added", column("leaves", lambda leaves: leaves.append(b"x")), "its results and events are not", ""),
    ("no quorum", column("attestations", lambda rows: rows[:1]), "not more than two thirds", "holds"),
    ("forged", column("attestations", lambda rows: [[i, bytes(64)] for i, _ in rows]), "does not verify", "holds"),
    (
        "another root",
        column("header", lambda row: [*row[:10], bytes(32), *row[11:]]),
        "does not verify",
        "leads to state root",
    ),
    (
        "another time",
        column("header", lambda row: [*row[:3], row[3] - 10**9, *row[4:]]),
        "does not verify",
        "does not follow",
    ),
    (
        "another parent",
        column("header", lambda row: [*row[:7], bytes(32), *row[8:]]),
        "does not verify",
        "does not follow",
    ),
    ("exchanged with the next", swap, "does not follow the one before", ""),
    ("gone", gone, "is missing", ""),
    ("torn", torn, "is damaged", ""),
    ("no list", column("results", lambda _: {"a": 1}), "is damaged", ""),
    ("no header", column("header", lambda _: 1), "is damaged", ""),
]


@pytest.mark.parametrize(("tamper", "said", "trusted"), [row[1:] for row in SPOILT], ids=[row[0] for row in SPOILT])
def test_the_first_block_that_was_tampered_with_is_named(
    tamper: Tamper, said: str, trusted: str, run: Recorded, tmp_path: Path
) -> None:
    height = next(b.header.height for b in run.blocks[20:] if len(b.txs) > 2 and len(b.leaves) > len(b.txs))
    path = spoilt(run, tmp_path, lambda db: tamper(db, height))
    for trust, message in ((False, said), (True, trusted or said)):
        store = open_ledger(path, run.genesis)
        if message == "holds":
            assert audit(store, run.genesis, trust_signatures=trust).height == BLOCKS
        else:
            with pytest.raises(ReplayError, match=message) as caught:
                audit(store, run.genesis, trust_signatures=trust)
            assert caught.value.height == height
            assert str(caught.value).startswith(f"block {height}: ")
        store.close()


def uncertified(db: sqlite3.Connection, *heights: int) -> None:
    """As a node leaves them that was stopped before it had heard the others."""
    for height in heights:
        db.execute("DELETE FROM certificate WHERE height = ?", (height,))
        db.execute("UPDATE block SET attestations = ? WHERE height = ?", (encode([]), height))


def audited(path: Path, run: Recorded, *, trust: bool) -> tuple[Audit, list[int]]:
    """What an audit finds, and the heights it went through."""
    seen: list[int] = []
    store = open_ledger(path, run.genesis)
    found = audit(store, run.genesis, trust_signatures=trust, on_block=lambda block: seen.append(block.header.height))
    store.close()
    return found, seen


@pytest.mark.parametrize("count", [1, 3])
def test_newest_blocks_without_certificate_are_computed_and_not_counted(
    count: int, run: Recorded, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = spoilt(run, tmp_path, lambda db: uncertified(db, *range(BLOCKS - count + 1, BLOCKS + 1)))
    rest = run.blocks[: BLOCKS - count]
    for trust in (False, True):
        found, seen = audited(path, run, trust=trust)
        assert (found.height, found.uncertified) == (BLOCKS - count, count)
        assert found.state_root == rest[-1].header.state_root
        assert found.transactions == sum(len(block.txs) for block in rest)
        assert found.accepted == sum(result.code == "ok" for block in rest for result in block.results)
        assert seen == list(range(1, BLOCKS + 1))
    assert main(["replay", str(path), "--trust-signatures"]) == 0
    assert f"{count} newer blocks" in capsys.readouterr().out


def test_a_block_without_certificate_below_one_that_has_its_own_does_not_hold(run: Recorded, tmp_path: Path) -> None:
    path = spoilt(run, tmp_path, lambda db: uncertified(db, BLOCKS - 1))
    store = open_ledger(path, run.genesis)
    with pytest.raises(ReplayError, match="not more than two thirds") as caught:
        audit(store, run.genesis)
    assert caught.value.height == BLOCKS - 1
    store.close()


@pytest.mark.parametrize(
    ("tamper", "said"),
    [
        (column("txs", lambda txs: txs.append(b"x")), "its transactions are not those"),
        (column("leaves", lambda leaves: leaves.append(b"x")), "its results and events are not"),
        (column("header", lambda row: [*row[:7], bytes(32), *row[8:]]), "does not follow"),
        (column("header", lambda row: [*row[:10], bytes(32), *row[11:]]), "leads to state root"),
    ],
)
def test_newest_blocks_without_certificate_must_hold_all_the_same(
    tamper: Tamper, said: str, run: Recorded, tmp_path: Path
) -> None:
    def spoil(db: sqlite3.Connection) -> None:
        uncertified(db, BLOCKS)
        tamper(db, BLOCKS)

    store = open_ledger(spoilt(run, tmp_path, spoil), run.genesis)
    with pytest.raises(ReplayError, match=said):
        audit(store, run.genesis)
    store.close()


def spoilt(run: Recorded, folder: Path, tamper: Callable[[sqlite3.Connection], object]) -> Path:
    path = folder / "ledger.sqlite"
    shutil.copy(run.path, path)
    shutil.copy(run.path.with_name("genesis.json"), folder)
    with sqlite3.connect(path) as db:
        tamper(db)
    db.close()
    return path


def test_a_state_that_its_blocks_do_not_lead_to_is_found(run: Recorded, tmp_path: Path) -> None:
    path = spoilt(run, tmp_path, lambda db: db.execute("DELETE FROM state WHERE key = (SELECT min(key) FROM state)"))
    store = open_ledger(path, run.genesis)
    with pytest.raises(StoreError, match=f"not that of block {BLOCKS}"):
        audit(store, run.genesis, trust_signatures=True)
    store.close()


def test_a_law_that_breaks_an_invariant_is_named_too(run: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    from pile_coordinator.chain import settlement

    real = settlement.energy_of
    monkeypatch.setattr(settlement, "energy_of", lambda t, wh: settlement.Energy(real(t, wh).contracted_wh + 1, 0, 0))
    replay = Replay(run.genesis, trust_signatures=True)
    with pytest.raises(ReplayError, match="breaks an invariant: contract "):
        list(map(replay.apply, run.blocks))


# --- the command ------------------------------------------------------------------------------------------------------------


def test_the_command_says_that_a_ledger_holds(run: Recorded, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(run.path), "--trust-signatures"]) == 0
    said = capsys.readouterr().out
    assert "HOLDS" in said
    assert f"{BLOCKS} blocks" in said
    assert "signatures not checked" in said
    assert run.lines[-1] in said
    assert run.genesis.hash().hex() in said


def test_the_command_says_which_block_does_not(
    run: Recorded, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = spoilt(run, tmp_path, lambda db: gone(db, 7))
    assert main(["replay", str(path), "--trust-signatures"]) == 1
    assert "replay: block 7: is missing" in capsys.readouterr().err


def test_the_command_refuses_what_is_no_ledger_and_leaves_it_as_it_was(
    run: Recorded, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    genesis = str(run.path.with_name("genesis.json"))
    assert main(["replay", str(tmp_path / "nothing"), "--genesis", genesis]) == 2
    assert main(["replay", str(tmp_path), "--genesis", genesis]) == 2
    assert main(["replay", str(run.path), "--genesis", str(tmp_path / "nothing")]) == 2
    text, other = tmp_path / "text", tmp_path / "other.sqlite"
    text.write_text("not a ledger")
    with sqlite3.connect(other) as db:
        db.execute("CREATE TABLE mine (x)")
    db.close()
    for path in (text, other):
        before = path.read_bytes()
        assert main(["replay", str(path), "--genesis", genesis]) == 1
        assert path.read_bytes() == before
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["other.sqlite", "text"]
    assert "is not a ledger that can be opened" in capsys.readouterr().err


def test_a_ledger_of_another_genesis_is_refused(run: Recorded, tmp_path: Path) -> None:
    chain = Chain(tmp_path)
    with pytest.raises(StoreError, match="another genesis"):
        open_ledger(run.path, chain.genesis)
    chain.close()
