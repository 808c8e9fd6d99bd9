"""The evidence of orders that notes paid for: it adds up, it is rebuilt byte for byte, and every question knows who is nobody."""

import csv
import json
import re

import pytest
import sqlalchemy as sa
from evidence_rows import content
from exported import operator
from note_chain import DRIVER, NoteChain, live
from world import key

from pile_coordinator.chain.records import Account, Denomination, Funding, NoteBin
from pile_coordinator.chain.settlement import BASES
from pile_coordinator.chain.transactions import PSEUDONYM, decode_transaction
from pile_coordinator.cli import main
from pile_coordinator.disclosure import disclose
from pile_coordinator.evidence import schema
from pile_coordinator.evidence.calendar import Period
from pile_coordinator.evidence.contracts import contracts
from pile_coordinator.evidence.exporter import Exporter
from pile_coordinator.evidence.scopes import ALL, EVERYTHING, NONE, OWN, View
from pile_coordinator.evidence.statistics import ranking
from pile_coordinator.evidence.tallies import ANONYMOUS_USERS, tallied
from pile_coordinator.evidence.timeline import timeline
from pile_coordinator.evidence.trace import BY_NOTES, BY_RING, BY_SENDER, UnknownIdError, trace
from pile_coordinator.exports.ocpi import cdrs
from pile_coordinator.exports.order import read_order
from pile_coordinator.exports.tables import order_row
from pile_coordinator.verify import verify_order
from pile_shared.platform import sha256
from pile_shared.units import check_id


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    chain = NoteChain(tmp_path_factory.mktemp("notes"), each=20, rulings_needed=2)
    chain.admit()
    chain.lives = live(chain)
    yield chain
    chain.close()


def rows(chain: NoteChain, query: str) -> list[tuple[object, ...]]:
    return [tuple(row) for row in chain.evidence.db.exec_driver_sql(query).fetchall()]


# --- it adds up ----------------------------------------------------------------------------------------------------------


def test_all_money_is_recounted(chain):
    """As in test_evidence.py, with the notes; a resting bid's hold is not in the view, but counts for its party."""
    balances: dict[str, int] = {}
    for debit, credit, amount in rows(chain, "SELECT debit, credit, amount_micro FROM movement"):
        for account, change in ((debit, -amount), (credit, amount)):
            name = f"P:{chain.genesis.params.grid}" if account == "G" else account
            balances[name] = balances.get(name, 0) + change
    state = {account.name: account.balance_micro for account in chain.state.each(Account)}
    (waiting,) = rows(chain, "SELECT id, party FROM orders WHERE kind = 'limited bid' AND ended_height IS NULL")
    held = f"E:{waiting[0].hex()}"
    state[f"P:{waiting[1]}"] = state.get(f"P:{waiting[1]}", 0) + state.pop(held)
    assert {name: amount for name, amount in balances.items() if amount} == {n: b for n, b in state.items() if b}
    assert sum(balances.values()) == 0
    assert balances["N"] > 0


def test_every_note_is_recounted(chain):
    bought = dict(rows(chain, "SELECT denomination, sum(notes) FROM note_purchase GROUP BY denomination"))
    spent = dict(rows(chain, "SELECT denomination, count(*) FROM note_spend GROUP BY denomination"))
    back = rows(chain, "SELECT sum(amount_micro) FROM movement WHERE debit LIKE 'P:anon-%' AND credit = 'N'")[0][0]
    kinds = {kind.id[0]: kind for kind in chain.state.each(Denomination)}
    assert {k: kind.spent for k, kind in kinds.items() if kind.spent} == spent
    refunded = {k: kind.issued - bought.get(k, 0) for k, kind in kinds.items()}
    assert sum(count * kinds[k].value_micro for k, count in refunded.items()) == back > 0
    sealed = rows(chain, "SELECT denomination, number FROM note_bin ORDER BY denomination, number")
    assert sealed == [(k, number) for k, kind in sorted(kinds.items()) for number in range(kind.open_bin)]


def test_a_bin_points_to_its_keys(chain):
    for denomination, number, height, leaf in rows(chain, "SELECT denomination, number, height, leaf FROM note_bin"):
        found = chain.state.find(NoteBin, bytes([denomination]) + number.to_bytes(8, "big"))
        block = chain.engine.block(height)
        assert found is None or b"".join(note[0] for note in found.notes) in block.leaves[leaf]
        assert found is None or found.sealed_ms == block.header.time_ms
    images = [row.image for row in chain.evidence.db.execute(sa.select(schema.note_spend))]
    assert len(set(images)) == len(images)
    kept = {image for one in chain.state.each(NoteBin) for image in one.images}
    assert kept <= set(images)


def test_who_is_nobody_comes_and_goes(chain):
    """Every party is gone but those whose order is open; none is in the list of parties."""
    there = {funding.party for funding in chain.state.each(Funding)}
    found = rows(chain, "SELECT id, height, gone_height FROM pseudonym")
    assert {name for name, _, gone in found if gone is None} == there
    assert len(there) == 2
    assert all(gone is None or height <= gone for _, height, gone in found)
    assert [height == gone for name, height, gone in found].count(True) == 2  # redeemed, and unfilled at once
    assert rows(chain, "SELECT count(*) FROM party WHERE role = 'anonymous' OR id LIKE 'anon-%'") == [(0,)]
    bids = dict(rows(chain, "SELECT outcome, count(*) FROM orders WHERE party LIKE 'anon-%' GROUP BY outcome"))
    assert bids == {"filled": 12, "unfilled": 1, "expired": 1, "cancelled": 1, "open": 1}
    ((redeemed,),) = rows(chain, "SELECT source FROM pseudonym WHERE source NOT IN (SELECT id FROM orders)")
    assert rows(chain, f"SELECT type FROM tx WHERE id = x'{redeemed.hex()}'") == [("redeem-notes",)]


# --- it is made again ----------------------------------------------------------------------------------------------------


def test_a_lost_database_is_made_again_from_the_chain(chain, tmp_path):
    rebuilt = Exporter(tmp_path / "again.sqlite")
    rebuilt.catch_up(chain.engine)
    assert content(rebuilt.db) == content(chain.evidence.db)
    rebuilt.close()


def test_its_certificates_hold_and_bases_are_all_there(chain):
    bases = set()
    for certificate, who in chain.lives.values():
        assert (
            chain.certificate(verify_order(certificate.encoded(), chain.genesis).order).encoded()
            == certificate.encoded()
        )
        result = verify_order(certificate.encoded(), chain.genesis)
        assert result.terms.user == who
        bases.add(result.statement.verdict.basis if result.statement.verdict else "")
    assert bases < {"", *BASES}


# --- questions -----------------------------------------------------------------------------------------------------------


def test_statistics_count_all_of_them_as_one(chain):
    db = chain.evidence.db
    names = list(db.execute(sa.select(tallied.c.name).where(tallied.c.dimension == "user")).scalars())
    assert sorted(names) == [ANONYMOUS_USERS, "dan"]
    whole = Period("ever", 0, 1 << 50)
    counted = {row.name: row.sums["contracts"] for row in ranking(db, "user", whole).rows}
    assert counted == {ANONYMOUS_USERS: 11, "dan": 1}  # one was never signed
    assert check_id("name", ANONYMOUS_USERS).startswith(PSEUDONYM)


def test_a_trace_says_who_is_nobody(chain):
    certificate, who = chain.lives["ruled"]
    contract = verify_order(certificate.encoded(), chain.genesis).terms.contract_id().hex()
    db = chain.evidence.db
    (story,) = trace(db, contract).stories
    assert (story.anonymous, story.user) == (True, who)
    checked = {step.kind: step.checked for step in story.steps if step.kind in {"note", "dispute", "ruling"}}
    assert checked == {"note": BY_NOTES, "dispute": BY_RING, "ruling": BY_SENDER}
    orders = {step.what.split(" of ")[1].split(":")[0]: step.checked for step in story.steps if step.kind == "order"}
    assert orders == {who: BY_RING, "olga": BY_SENDER}
    notes = [step for step in story.steps if step.kind == "note"]
    assert [step.id for step in notes] == [image.hex() for _, image in spends(certificate)]
    found = trace(db, who)
    assert (found.found.kind, [s.contract for s in found.stories]) == ("party", [contract])
    assert {step.checked for step in found.steps} == {BY_RING}
    assert DRIVER not in json.dumps([trace(db, name).fields() for name in (who, contract, story.order)])
    (plain,) = trace(db, "dan").stories
    assert not plain.anonymous


def spends(certificate):
    return decode_transaction(certificate.order).body.notes


@pytest.mark.parametrize(
    ("view", "seen"),
    [
        (EVERYTHING, True),
        (View("grid", ALL, ALL, ALL, ALL, senders=False), True),
        (View("olga", OWN, OWN, OWN, OWN, senders=False), True),
        (View("dan", OWN, OWN, OWN, OWN, senders=False), False),
        (View("dan", NONE, NONE, NONE, NONE, senders=False), False),
    ],
)
def test_a_pseudonym_is_seen_by_who_sees_its_contract(chain, view, seen):
    _, who = chain.lives["confirmed"]
    if seen:
        assert trace(chain.evidence.db, who, view=view).stories[0].user == who
    else:
        with pytest.raises(UnknownIdError):
            trace(chain.evidence.db, who, view=view)


def test_lists_and_timelines_are_labelled(chain):
    db = chain.evidence.db
    found, _ = contracts(db, EVERYTHING)
    assert {row["user"]: row["anonymous"] for row in found if not row["user"].startswith("anon-")} == {"dan": 0}
    assert {row["anonymous"] for row in found if row["user"].startswith("anon-")} == {1}
    certificate, who = chain.lives["confirmed"]
    contract = verify_order(certificate.encoded(), chain.genesis).terms.contract_id()
    told = timeline(db, EVERYTHING, contract, chain_id=chain.chain_id)
    bid = next(step for step in told["steps"] if step["kind"] == "bid")
    assert (told["anonymous"], bid["ring"], bid["party"]) == (True, True, who)
    assert bid["notes"] == [[name[0], int.from_bytes(name[1:], "big"), i.hex()] for name, i in spends(certificate)]
    confirmations = {step["party"]: step.get("ring", False) for step in told["steps"] if step["kind"] == "confirmation"}
    assert confirmations == {who: True, "olga": False}


# --- what leaves the house -----------------------------------------------------------------------------------------------


def test_exports_are_labelled(chain, tmp_path):
    for name, funding, size, kind in (("confirmed", "anonymous", 16, "AD_HOC_USER"), ("", "named", 1, "APP_USER")):
        if name:
            certificate = chain.lives[name][0]
        else:
            ((contract,),) = rows(chain, "SELECT id FROM contract WHERE user = 'dan'")
            certificate = chain.certificate(contract)
        order = read_order(certificate.encoded(), chain.genesis)
        row = order_row(order)
        assert (row["funding"], row["set_size"]) == (funding, size)
        (cdr,) = cdrs(order, operator(tmp_path), [])
        assert (cdr["cdr_token"]["type"], cdr["cdr_token"]["uid"]) == (kind, order.terms.user)
        assert len(cdr["cdr_token"]["uid"]) <= 36
        assert cdr["home_charging_compensation"] is (not name)
        assert ("not anonymous" if size == 1 else "anonymously by one of 16") in cdr["remark"]
        assert len(cdr["remark"]) <= 255


def test_the_command_line_says_who_paid(chain, tmp_path, capsys):
    (tmp_path / "genesis.json").write_text(json.dumps(chain.genesis.to_json()))
    for name, (certificate, _) in chain.lives.items():
        (tmp_path / f"{name}.cbor").write_bytes(certificate.encoded())
    files = sorted(map(str, tmp_path.glob("*.cbor")))
    assert main(["verify", *files]) == 0
    told = capsys.readouterr().out
    paid = re.findall(r"paid anonymously by one of 16 owners \(notes of ((?:[36]\.[24]00000(?:, )?){2,3}) CNY\)", told)
    assert len(paid) == 10
    assert DRIVER not in told
    assert main(["verify", files[0], "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["anonymous"], said["set_size"]) == (True, 16)
    assert sum(note["value_micro"] for note in said["notes"]) >= 9_600_000
    assert main(["export", str(tmp_path), "--out", str(tmp_path / "out"), "--formats", "csv,parquet"]) == 0
    with (tmp_path / "out" / "orders.csv").open() as file:
        assert {(row["funding"], row["set_size"]) for row in csv.DictReader(file)} == {("anonymous", "16")}
    ((contract,),) = rows(chain, "SELECT id FROM contract WHERE user = 'dan'")
    plain = tmp_path / "plain.cbor"
    plain.write_bytes(chain.certificate(contract).encoded())
    assert main(["verify", str(plain)]) == 0
    assert "not anonymous: paid by dan" in capsys.readouterr().out


def test_a_disclosure_is_held_against_the_certificate(chain, tmp_path, capsys):
    """Its payer says who they are; nobody else can, nor of another order, and it is nothing beside a named one."""
    genesis = tmp_path / "genesis.json"
    genesis.write_text(json.dumps(chain.genesis.to_json()))
    certificate, who = chain.lives["confirmed"]
    lead = chain.orders[who]
    shown, other = tmp_path / "order.cbor", tmp_path / "other.cbor"
    shown.write_bytes(certificate.encoded())
    other.write_bytes(chain.lives["settled"][0].encoded())

    def made(secret: bytes, name: str = DRIVER) -> str:
        order = decode_transaction(certificate.order).id
        data = disclose(key(name), chain.chain_id, order, name, secret, lead.bin, lead.place, "the [red]tax office")
        (tmp_path / "said.cbor").write_bytes(data)
        return str(tmp_path / "said.cbor")

    call = ["verify", str(shown), "--disclosure", made(lead.secret)]
    assert main(call) == 0
    told = capsys.readouterr().out
    assert f"disclosed by its payer, {DRIVER}, whose key" in told
    assert "For: the [red]tax office" in told
    assert main([*call, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)["disclosure"]
    assert said == {"party": DRIVER, "fingerprint": sha256(key(DRIVER).public).hex(), "text": "the [red]tax office"}
    assert main(["verify", str(other), "--disclosure", call[-1]]) == 1
    assert "REJECTED" in (told := capsys.readouterr().out)
    assert "disclosure: it is about order" in told
    neighbour = next(n for n in chain.notes_of("neighbour-9"))
    assert main(["verify", str(shown), "--disclosure", made(neighbour.secret, "neighbour-9"), "--json"]) == 1
    refused = json.loads(capsys.readouterr().out)
    assert (refused["valid"], refused["link"]) == (False, "disclosure")
    ((contract,),) = rows(chain, "SELECT id FROM contract WHERE user = 'dan'")
    shown.write_bytes(chain.certificate(contract).encoded())
    assert main(["verify", str(shown), "--disclosure", made(lead.secret)]) == 1
    assert "was not paid anonymously" in capsys.readouterr().out
    assert main(["verify", str(shown), "--disclosure", str(tmp_path / "nothing")]) == 2


def test_a_data_folder_is_exported_traced_and_replayed(chain, tmp_path, capsys):
    """While it is in use."""
    (chain.folder / "genesis.json").write_text(json.dumps(chain.genesis.to_json()))
    assert main(["export", str(chain.folder), "--out", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["exported"] == 11
    with (tmp_path / "orders.csv").open() as file:
        assert sorted(row["funding"] for row in csv.DictReader(file)) == ["anonymous"] * 10 + ["named"]
    _, who = chain.lives["cancelled"]
    assert main(["evidence", "trace", who, "--evidence", str(chain.folder / "evidence.sqlite")]) == 0
    told = capsys.readouterr().out
    assert f"{who} (anonymous, one of 16) on pile-1" in told
    assert BY_RING in told
    call = ["evidence", "stats", "user", ANONYMOUS_USERS, "--per", "year"]
    assert main([*call, "--evidence", str(chain.folder / "evidence.sqlite"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["contracts"] == 11
    for trusting in ([], ["--trust-signatures"]):
        assert main(["replay", str(chain.folder / "ledger.sqlite"), "--json", *trusting]) == 0
        assert json.loads(capsys.readouterr().out)["height"] == chain.engine.height
