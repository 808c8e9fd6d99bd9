"""Statistics, traces, exports and boards over HTTP: what they say, to whom, and that nothing leaks."""

import csv
import io
import json
import re
import time
import zipfile
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import sqlalchemy as sa
from anonymous_world import USERS, WAITING, AnonymousWorld
from note_world import NOTES
from web_world import NASTY, ROLES, WebWorld

from pile_coordinator.chain.notes import bin_id
from pile_coordinator.chain.records import Denomination, NoteBin, NoteRules
from pile_coordinator.chain.state import store_key
from pile_coordinator.chain.transactions import BuyNotes
from pile_coordinator.evidence import schema
from pile_coordinator.evidence.note_queries import anonymity
from pile_coordinator.verify import verify_order
from pile_coordinator.web.csvtext import as_text
from pile_coordinator.web.tokens import TokenError

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    world = WebWorld(tmp_path_factory.mktemp("boards"))
    yield world
    world.close()


def status_or_count(answer) -> int:
    return len(answer.json()["items"]) if answer.status_code == 200 else answer.status_code


BOARDS = {
    # path: how many rows by party, in order of ROLES: operator, grid, olga, dan, judge-1, other-owner, other-user
    "/v1/disputes": (1, 1, 1, 1, 1, 0, 0),
    "/v1/disputes?open=true": (1, 1, 1, 1, 1, 0, 0),
    "/v1/deviations": (2, 2, 2, 2, 1, 0, 0),
    "/v1/book": (2, 403, 2, 0, 1, 0, 0),
    "/v1/pile-states": (2, 2, 1, 1, 1, 1, 0),
    "/v1/statistics/all": (1, 1, 403, 403, 403, 403, 403),
    "/v1/statistics/zone": (1, 1, 403, 403, 403, 403, 403),
    "/v1/statistics/operator": (1, 1, 403, 403, 403, 403, 403),
    "/v1/statistics/owner": (1, 403, 1, 1, 403, 1, 1),
    "/v1/statistics/user": (1, 403, 1, 1, 403, 1, 1),
    "/v1/statistics/pile": (1, 403, 1, 0, 403, 1, 0),
    "/v1/statistics/pile?name=pile-1": (1, 403, 1, 404, 403, 404, 404),
    "/v1/statistics/owner?name=olga": (1, 403, 1, 404, 403, 404, 404),
    "/v1/statistics/user?name=dan": (1, 403, 404, 1, 403, 404, 404),
}


@pytest.mark.parametrize("path", BOARDS)
def test_boards_hold_what_the_caller_may_see(world, path):
    assert tuple(status_or_count(world.get(path, party)) for party in ROLES) == BOARDS[path]


def test_a_dispute_and_a_deviation_in_full(world):
    (dispute,) = world.get("/v1/disputes", "judge-1").json()["items"]
    assert (dispute["contract"], dispute["text"], dispute["ground"]) == (world.disputed.hex(), NASTY, "cause")
    assert dispute["deadline_ms"] == dispute["time_ms"] + world.chain.genesis.params.dispute_window_ms
    settled = next(row for row in world.get("/v1/deviations", "grid").json()["items"] if row["state"] == "closed")
    postings = world.get(f"/v1/postings?contract={world.settled.hex()}", "grid").json()["items"]
    gain = sum(row["amount_micro"] * ((row["credit"] == "G") - (row["debit"] == "G")) for row in postings)
    assert (settled["expected_wh"], settled["measured_wh"], settled["off_wh"]) == (5000, 2000, -3000)
    assert settled["grid_micro"] == gain < 0
    first = world.get("/v1/deviations?limit=1").json()
    second = world.get(f"/v1/deviations?limit=1&cursor={first['next']}").json()
    assert first["items"] != second["items"]
    assert second["next"] is None
    assert world.get(f"/v1/disputes?cursor={first['next']}").json()["code"] == "cursor"


def test_piles_network_prices_and_alarms(world):
    states = {row["id"]: row for row in world.get("/v1/pile-states").json()["items"]}
    assert (states["pile-1"]["state"], states["pile-2"]["state"]) == ("disputed", "idle")
    assert states["pile-1"]["contract"] == world.disputed.hex()
    network = world.get("/v1/network", "dan").json()
    height = world.chain.engine.height
    assert (network["elects"], network["height"], network["ledger_height"]) == (False, height, height)
    assert network["blocks"][0]["signed"] == ["auditor", "grid", "operator"]
    assert world.get("/v1/zones/north/depth", "dan").json()["levels"][0]["kind"] == "listing"
    until = world.begin + 10_000_000
    points = world.get(f"/v1/zones/north/prices?since_ms={world.begin - 10_000}&until_ms={until}&points=50").json()[
        "points"
    ]
    assert points[-1]["price_micro_per_kwh"] > 0
    assert len(points) <= 50
    alarms = {row["kind"]: row for row in world.get("/v1/alarms").json()["alarms"]}
    assert alarms["dispute_due"]["subject"] == world.disputed.hex()  # the world's clock is years ago
    assert alarms["chain_still"]["severity"] == "critical"
    assert {row["kind"] for row in world.get("/v1/alarms").json()["not_judged"]} == {"proofs_refused", "audit_failed"}
    assert [row["kind"] for row in world.get("/v1/alarms", "dan").json()["alarms"]] == ["dispute_due"]
    assert world.get("/v1/alarms", "other-user").json()["alarms"] == []


def test_a_timeline_checks_every_proof(world):
    told = world.get(f"/v1/contracts/{world.settled.hex()}/timeline", "dan").json()
    kinds = [step["kind"] for step in told["steps"]]
    assert [k for k in kinds if k in {"bid", "start", "end", "settlement", "closing", "certificate"}] == [
        "bid", "start", "end", "settlement", "closing", "certificate",
    ]  # fmt: skip
    checks = [step["checks"] for step in told["steps"] if step["kind"] in {"start", "proof", "end"}]
    assert checks == [{"signature": True, "place": True, "register": True}] * 3
    assert world.get(f"/v1/contracts/{world.settled.hex()}/timeline", "other-user").status_code == 404


# --- traces --------------------------------------------------------------------------------------------------------------

OWN_ROUTES = {
    "order": "/v1/orders/{}",
    "contract": "/v1/contracts/{}",
    "block": "/v1/blocks/{}",
    "pile": "/v1/piles/{}",
    "party": "/v1/parties/{}",
}
LISTS = ("/v1/orders", "/v1/contracts", "/v1/postings", "/v1/piles", "/v1/parties", "/v1/blocks", "/v1/whoami")


def all_of(world, path, party):
    """Every row of every page, as text; what it may not list is empty."""
    text, cursor = "", ""
    while cursor is not None:
        answer = world.get(f"{path}{'&' if '?' in path else '?'}limit=200{cursor and '&cursor=' + cursor}", party)
        if answer.status_code != 200:
            return ""
        text += answer.text
        cursor = answer.json().get("next")
    return text


def readable(world, party):
    """Everything that a party may read by all routes but traces."""
    text = "".join(all_of(world, path, party) for path in LISTS)
    for height in range(1, world.chain.engine.height + 1):
        text += world.get(f"/v1/blocks/{height}", party).text
    for name in (world.settled.hex(), world.disputed.hex()):
        text += "".join(world.get(f"/v1/contracts/{name}{part}", party).text for part in ("", "/trace", "/proofs"))
    for pile in ("pile-1", "pile-2"):
        text += world.get(f"/v1/piles/{pile}/proofs", party).text
    return text


def everything(world):
    """(kind, id) of all there is in the world, as its operator sees it."""
    found = {("block", str(height)) for height in range(1, world.chain.engine.height + 1)}
    found |= {("pile", "pile-1"), ("pile", "pile-2")} | {("party", party) for party in ROLES}
    found |= {("order", row["id"]) for row in world.get("/v1/orders").json()["items"]}
    for contract in world.get("/v1/contracts").json()["items"]:
        found.add(("contract", contract["id"]))
        for proof in world.get(f"/v1/contracts/{contract['id']}/proofs").json()["items"]:
            found.add(("proof", proof["hash"]))
    for row in world.get("/v1/postings").json()["items"]:
        found.add(("posting", f"{row['contract']}/1/{row['item']}"))
    for height in range(1, world.chain.engine.height + 1):
        for tx in world.get(f"/v1/blocks/{height}").json()["transactions"]:
            found.add(("transaction", tx["id"]))
    return sorted(found)


@pytest.mark.parametrize("party", ROLES)
def test_nothing_is_reached_by_trace_that_is_not_readable_anyway(world, party):
    known = readable(world, party)
    names = {row["id"] for row in world.get("/v1/parties").json()["items"]} | {"operator", "grid", "auditor", "pile-2"}
    reached = 0
    for kind, name in everything(world):
        answer = world.get(f"/v1/trace/{kind}/{name}", party)
        if answer.status_code == 404:
            assert kind not in {"block", "transaction"}, name
            continue
        assert answer.status_code == 200, (kind, name, answer.text)
        reached += 1
        told = answer.json()
        if kind in OWN_ROUTES and not (kind == "party" and name in {"operator", "grid", party}):  # genesis has no row
            assert world.get(OWN_ROUTES[kind].format(name), party).status_code == 200, (kind, name)
        for step in [*told["steps"], *(step for story in told["stories"] for step in story["steps"])]:
            if step["kind"] in OWN_ROUTES and step["kind"] != "block":
                assert world.get(OWN_ROUTES[step["kind"]].format(step["id"]), party).status_code == 200, step
        said = json.dumps([told["stories"], told["steps"]])
        for digest in re.findall(r"[0-9a-f]{64}", said):
            assert digest in known, (kind, name, digest)
        for word in set(re.findall(r"[a-z]+(?:-[a-z0-9]+)*", said)) & names - {"operator", "grid"}:
            assert f'"{word}"' in known, (kind, name, word)
    assert reached > 10


def test_the_operator_traces_everything_from_everything(world):
    for kind, name in everything(world):
        for asked in (kind, "any") if kind != "transaction" else (kind,):
            answer = world.get(f"/v1/trace/{asked}/{name}")
            if kind == "party" and answer.status_code == 404:
                continue  # one that never acted
            assert answer.status_code == 200, (asked, name, answer.text)
            assert answer.json()["found"] == {"kind": kind, "id": name}


def test_others_things_look_like_nothing(world):
    missing = world.get(f"/v1/trace/contract/{'0' * 64}", "other-user")
    others = world.get(f"/v1/trace/contract/{world.settled.hex()}", "other-user")
    assert (missing.status_code, missing.text) == (404, others.text)
    assert world.get(f"/v1/trace/any/{world.settled.hex()[:10]}", "other-user").text == missing.text
    assert world.get(f"/v1/trace/any/{world.settled.hex()[:10]}", "dan").json()["found"]["id"] == world.settled.hex()
    orders = [world.get(f"/v1/trace/block/{height}", "dan").json()["steps"] for height in (2, 5)]
    assert "olga" not in json.dumps(orders)


# --- anonymous orders -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hidden(tmp_path_factory):
    """A world with a named and two anonymous orders."""
    world = AnonymousWorld(tmp_path_factory.mktemp("anonymous"), pages=False)
    yield world
    world.close()


def test_whatever_names_a_user_says_whether_it_is_nobody(hidden):
    chain = hidden.chain
    names = {chain.named.hex(): False, chain.anonymous.hex(): True, chain.disputed.hex(): True}
    users = {"dan": False, chain.nobody: True, chain.objector: True, "olga": False}
    for path, key, expected in (
        ("/v1/contracts", "id", names), ("/v1/deviations", "contract", names), ("/v1/orders", "party", users),
        ("/v1/postings", "user", users), ("/v1/disputes", "party", users), ("/v1/pile-states", "user", users),
        ("/v1/statistics/user", "name", {"anon-all": True, "dan": False}),
    ):  # fmt: skip
        rows = hidden.get(path).json()["items"]
        assert rows, path
        assert [row["anonymous"] for row in rows] == [expected[row[key]] for row in rows], path
    for name, anonymous in names.items():
        trace = hidden.get(f"/v1/contracts/{name}/trace").json()
        assert [trace[part]["anonymous"] for part in ("contract", "bid", "listing")] == [anonymous, anonymous, False]
        assert all(said["anonymous"] == users[said["party"]] for said in trace["confirmations"])
        assert hidden.get(f"/v1/contracts/{name}/timeline").json()["anonymous"] == anonymous
        assert [s["anonymous"] for s in hidden.get(f"/v1/trace/contract/{name}").json()["stories"]] == [anonymous]


def test_an_anonymous_order_is_its_pile_owner_s_and_nobody_else_s(hidden):
    path = f"/v1/contracts/{hidden.chain.anonymous.hex()}"
    found = {party: hidden.get(path, party).status_code for party in ROLES}
    assert found == {"operator": 200, "grid": 200, "olga": 200, "dan": 404, "judge-1": 404, "other-owner": 404, "other-user": 404}  # fmt: skip
    assert hidden.get(f"/v1/contracts/{hidden.chain.disputed.hex()}", "judge-1").json()["anonymous"] is True
    for name in (hidden.chain.nobody, "anon-all"):
        with pytest.raises(TokenError, match="nobody"):
            hidden.store.add(name, "ev-owner", now_ms=1, days=1)


def test_everybody_is_told_among_how_many_a_payer_hides(hidden):
    answers = [hidden.get("/v1/anonymity", party) for party in ROLES]
    assert {answer.text for answer in answers} == {answers[0].text}
    told = answers[0].json()
    height = hidden.chain.engine.height
    assert (told["ledger_height"], told["ring"], told["issues_notes"]) == (height, 16, True)
    assert (told["unit_micro"], told["bin_age_ms"]) == (NOTES["unit_micro"], NOTES["bin_age_ms"])
    state = hidden.chain.engine.state
    for row, kind in zip(told["denominations"], state.each(Denomination), strict=True):
        assert (row["value_micro"], row["issued"], row["spent"]) == (kind.value_micro, kind.issued, kind.spent)
        assert (row["outstanding"], row["sealed"], row["live"], row["is_whole"]) == (
            kind.issued - kind.spent,
            1,
            1,
            True,
        )
        assert row["filling"] == kind.issued - 16 == 16 - row["missing"]
        assert row["by_unspent"] == [{"size": 16 - kind.spent, "bins": 1}]
        assert row["by_origins"] == [{"size": USERS, "bins": 1}]
        assert row["by_largest"] == [{"size": 2, "bins": 1}]  # each bought two of the sixteen
    assert told["denominations"][0]["filling"] == WAITING
    assert sum(row["outstanding_micro"] for row in told["denominations"]) == state.balance_micro("N")


def test_bins_tell_who_bought_and_not_who_was_refunded():
    """A bin of one buyer, and one that refunds of ended orders fill: each is an origin of its own."""
    note = [bytes(32), bytes(32)]
    buyer, other, orders = bytes([1]) * 32, bytes([2]) * 32, [bytes([3, n]) * 16 for n in range(10)]
    sources = [buyer] * 4 + [other] * 2 + orders
    bins = [
        NoteBin(bin_id(0, 7), [[*note, buyer]] * 16, [b"i"] * 15, 1000, 0),
        NoteBin(bin_id(0, 8), [[*note, source] for source in sources], [], 60_500, 0),
        NoteBin(bin_id(0, 9), [[*note, buyer]] * 5, [], 0, 0),
    ]
    spent = NoteBin(bin_id(0, 3), [[*note, buyer]] * 16, [b"i"] * 16, 1000, 1)  # an open order still confirms over it
    kind = Denomination(bytes((0,)), 100_000, 9, 149, 128)
    rules = NoteRules("note-rules", 100_000, 1, 60_000)
    row_of = {store_key(type(one), one.key): one.encoded() for one in (spent, *bins, kind)}
    ledger = SimpleNamespace(
        height=lambda: 5,
        snapshot=nullcontext,
        state_between=lambda a, b, most: [row_of[key] for key in sorted(row_of) if a <= key <= b][-most:],
    )
    engine = sa.create_engine("sqlite://")
    schema.metadata.create_all(engine)
    with engine.connect() as db:
        bought = [(1, n, name, BuyNotes.TYPE, "dan", "ok") for n, name in enumerate((buyer, other))]
        sent = [(2, n, name, "anonymous-bid", f"anon-{n}", "ok") for n, name in enumerate(orders)]
        db.execute(schema.tx.insert(), [dict(zip(schema.tx.c.keys(), row, strict=True)) for row in bought + sent])
        db.execute(schema.block.insert().values((1, 61_000, bytes(32), "solo", 12, 12)))
        db.execute(schema.note_bin.insert().values((0, 8, 1, 1)))
        told = anonymity(db, SimpleNamespace(notes=rules), ledger)
        alone = anonymity(db, None, None)
        nothing = anonymity(db, SimpleNamespace(notes=None), ledger)
    engine.dispose()
    assert (nothing["issues_notes"], nothing["denominations"][0]["issued"]) == (False, None)
    assert (alone["issues_notes"], [row["sealed"] for row in alone["denominations"]]) == (None, [9])
    (row,) = told["denominations"]
    assert (row["live"], row["aging"], row["filling"], row["missing"]) == (2, 1, 5, 11)
    assert row["by_unspent"] == [{"size": 1, "bins": 1}, {"size": 16, "bins": 1}]
    assert row["by_origins"] == [{"size": 1, "bins": 1}, {"size": 11, "bins": 1}]  # dan bought twice, and ten refunds
    assert row["by_largest"] == [{"size": 6, "bins": 1}, {"size": 16, "bins": 1}]


def test_metrics_count_notes_and_what_closed_while_the_server_ran(hidden):
    """The arbiters let the time of the dispute pass: the anonymous contract closes, and its escrow becomes notes."""
    chain = hidden.chain
    chain.tick(chain.genesis.params.dispute_window_ms + 1000)
    chain.block(chain.tick())
    wanted = {
        'pilechain_contracts_closed_total{user="anonymous"} 1.0',
        'pilechain_contracts_closed_total{user="named"} 0.0',
    }
    for kind in chain.engine.state.each(Denomination):
        left, label = kind.issued - kind.spent, f'{{denomination="{kind.id[0]}"}}'
        wanted.add(f"pilechain_notes_outstanding{label} {float(left)}")
    give_up_s = time.monotonic() + 20
    while wanted - set(hidden.get("/metrics").text.splitlines()):
        assert time.monotonic() < give_up_s, wanted - set(hidden.get("/metrics").text.splitlines())
    worth = re.findall(r"^pilechain_notes_outstanding_micro{.*} (\S+)$", hidden.get("/metrics").text, re.MULTILINE)
    assert sum(map(float, worth)) == chain.engine.state.balance_micro("N")


# --- statistics ----------------------------------------------------------------------------------------------------------


def test_statistics_are_of_the_time_zone_that_is_asked_for(world):
    closing = next(row for row in world.get("/v1/contracts").json()["items"] if row["id"] == world.settled.hex())
    closed_ms = world.get(f"/v1/blocks/{closing['closed_height']}").json()["time_ms"]
    for zone, per, label in (
        ("", "day", "2023-11-15"),
        ("&tz=UTC", "day", "2023-11-14"),
        ("&tz=Asia/Kathmandu", "hour", "2023-11-15T05:45+05:45"),
        ("&tz=America/New_York", "quarter", "2023-Q4"),
        ("&tz=UTC", "year", "2023"),
        ("&tz=UTC", "month", "2023-11"),
    ):
        answer = world.get(f"/v1/statistics/owner?name=olga&per={per}{zone}", "olga").json()
        (row,) = [row for row in answer["items"] if row["contracts"]]
        assert row["start_ms"] <= closed_ms < row["end_ms"]
        assert row["period"][: len(label.partition("T")[0])] == label.partition("T")[0]
    assert world.get("/v1/statistics/owner?name=olga", "olga").json()["time_zone"] == "Asia/Shanghai"
    postings = world.get(f"/v1/postings?contract={world.settled.hex()}").json()["items"]
    fees = sum(row["amount_micro"] for row in postings if row["credit"] == "F")
    (row,) = world.get("/v1/statistics/all?per=year").json()["items"]
    assert (row["contracts"], row["measured_wh"], row["fee_micro"], row["disputed"]) == (1, 2000, fees, 0)
    assert row["user_micro"] == row["owner_micro"] + row["grid_micro"] + row["fee_micro"]
    assert row["idle_permille"] is not None
    for wrong in (
        "tz=Mars/Base",
        "tz=../../etc/passwd",
        "since=2026-13",
        "since=2027&until=2026",
        "since=1999",
        "until=2201",
    ):
        answer = world.get(f"/v1/statistics/all?{wrong}")
        assert (answer.status_code, answer.json()["code"] in {"time", "time_zone", "wrong_request"}) == (422, True), (
            wrong,
            answer.text,
        )
    assert world.get("/v1/statistics/all?name=north").json()["code"] == "name"


def test_statistics_have_pages_and_the_same_rows_as_csv(world):
    path = "/v1/statistics/zone?name=north&per=day&since=2023-11-10&until=2023-11-20"
    rows, cursor = [], ""
    while cursor is not None:
        page = world.get(f"{path}&limit=3{cursor and '&cursor=' + cursor}").json()
        rows += page["items"]
        cursor = page["next"]
    assert len(rows) == 10
    for answer in (world.get(path + "&format=csv"), world.get(path, accept="text/csv")):
        assert answer.headers["content-type"] == "text/csv; charset=utf-8"
        assert "attachment" in answer.headers["content-disposition"]
        told = list(csv.DictReader(io.StringIO(answer.text)))
        assert told == [
            {name: "" if value is None else str(as_text(value)) for name, value in row.items()} for row in rows
        ]
    assert world.get(path, accept="text/csv, application/json").headers["content-type"] == "application/json"
    too_many = world.get("/v1/statistics/all?per=hour&since=2001&until=2199&format=csv")
    assert (too_many.status_code, too_many.json()["code"]) == (422, "too_many_rows")
    ranked = world.get("/v1/statistics/pile?format=csv", "olga")
    assert [row["name"] for row in csv.DictReader(io.StringIO(ranked.text))] == ["pile-1"]


def test_no_cell_is_a_formula():
    for text in ("=1+1", "+1", "-cmd", "@SUM(A1)", "\t=1", "\r=1"):
        assert as_text(text) == "'" + text
    assert [as_text(value) for value in ("olga", -5, None, "", True)] == ["olga", -5, None, "", "true"]


# --- exports -------------------------------------------------------------------------------------------------------------


def test_one_contract_in_every_format(world):
    base = f"/v1/contracts/{world.settled.hex()}/exports"
    found = {
        form: world.get(f"{base}/{form}", "dan")
        for form in ("certificate", "ocmf", "xml", "ocpp", "cdr", "csv", "postings")
    }
    assert {form: answer.status_code for form, answer in found.items()} == dict.fromkeys(found, 200)
    assert verify_order(found["certificate"].content, world.chain.genesis).terms.contract_id() == world.settled
    assert [line[:5] for line in found["ocmf"].text.splitlines()] == ["OCMF|"] * 2
    assert found["xml"].text.count("<signedData ") == 2
    assert [value["encodingMethod"] for value in found["ocpp"].json()] == ["OCMF"] * 2
    (record,) = found["cdr"].json()
    assert record["total_energy"] == 2.0
    assert len(record["signed_data"]["signed_values"]) == 2
    (row,) = csv.DictReader(io.StringIO(found["csv"].text))
    assert (row["contract"], row["measured_wh"]) == (world.settled.hex(), "2000")
    postings = world.get(f"/v1/postings?contract={world.settled.hex()}").json()["items"]
    told = [int(row["amount_micro"]) for row in csv.DictReader(io.StringIO(found["postings"].text))]
    assert sorted(told) == sorted(row["amount_micro"] for row in postings)
    for answer in found.values():
        assert "attachment" in answer.headers["content-disposition"]
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_parquet_is_there_or_says_what_is_missing(world):
    answer = world.get(f"/v1/contracts/{world.settled.hex()}/exports/parquet")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = parquet.read_table(io.BytesIO(answer.content)).to_pylist()
    assert [row["contract"] for row in rows] == [world.settled.hex()]


def test_without_pyarrow_a_problem_says_so(world, monkeypatch):
    import sys
    from types import SimpleNamespace

    from pile_coordinator.web import exporting
    from pile_coordinator.web.problems import Refused

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(Refused) as refused:
        exporting._write_parquet(io.BytesIO(), [])
    assert (refused.value.status, refused.value.code) == (409, "no_parquet")
    bare = SimpleNamespace(certificates=None, config=SimpleNamespace(genesis=None))
    with pytest.raises(Refused) as refused:
        exporting._Maker(bare, "csv")
    assert refused.value.code == "no_ledger"


@pytest.mark.parametrize("party", ROLES)
def test_exports_follow_the_contract(world, party):
    seen = {
        name: world.get(f"/v1/contracts/{name}", party).status_code
        for name in (world.settled.hex(), world.disputed.hex())
    }
    settled, disputed = (world.get(f"/v1/contracts/{name}/exports/csv", party) for name in seen)
    assert settled.status_code == seen[world.settled.hex()]
    wanted = {200: (409, "no_evidence"), 404: (404, "not_found")}[seen[world.disputed.hex()]]
    assert (disputed.status_code, disputed.json()["code"]) == wanted
    bulk = world.get("/v1/exports/csv", party)
    rows = list(csv.DictReader(io.StringIO(bulk.text)))
    assert len(rows) == (settled.status_code == 200)
    assert bulk.headers["pilechain-orders"] == str(len(rows))


def test_a_bulk_export_is_a_zip_of_the_same_files(world):
    for form, suffix in (("certificate", "cbor"), ("xml", "xml"), ("cdr", "cdr.json")):
        answer = world.get(f"/v1/exports/{form}", "olga")
        assert (answer.headers["pilechain-orders"], answer.headers["pilechain-refused"]) == ("1", "0")
        archive = zipfile.ZipFile(io.BytesIO(answer.content))
        assert archive.namelist() == [f"{world.settled.hex()}.{suffix}"]
        alone = world.get(f"/v1/contracts/{world.settled.hex()}/exports/{form}", "olga")
        assert archive.read(archive.namelist()[0]) == alone.content
    closing = world.get(f"/v1/contracts/{world.settled.hex()}").json()["closed_height"]
    closed_ms = world.get(f"/v1/blocks/{closing}").json()["time_ms"]
    for query, count in ((f"since_ms={closed_ms}&until_ms={closed_ms + 1}", "1"), (f"since_ms={closed_ms + 1}", "0")):
        assert world.get(f"/v1/exports/csv?{query}").headers["pilechain-orders"] == count
