"""The detail pages in a real headless Chromium, against a real server; their figures against what the chain's blocks say."""
# ruff: noqa: F811 - fixtures of another module are taken by their names

import csv
import io
import subprocess
import sys

import httpx
import pytest
from anonymous_world import USERS, AnonymousWorld
from note_world import NOTES
from settled import JUDGES
from test_dashboard import SIZES, chromium, make_world, visitor, world  # noqa: F401 - fixtures
from web_world import NASTY, WebWorld
from world import HOUR, key

from pile_coordinator.chain import settlement, transactions
from pile_coordinator.chain.proofs import parse_proof
from pile_coordinator.chain.records import Denomination
from pile_coordinator.chain.settlement import decode_statement
from pile_coordinator.chain.transactions import RegisterPile, Rule, SubmitProofs, decode_transaction
from pile_coordinator.dashboard import details, words, written
from pile_coordinator.dashboard.pages import anonymity
from pile_coordinator.dashboard.pages.orders import OUTCOMES
from pile_coordinator.evidence import alarms, trace
from pile_coordinator.evidence.calendar import PERIODS
from pile_coordinator.evidence.contracts import STATES, contracts
from pile_coordinator.evidence.scopes import DEVIATED, EVERYTHING, NONE, OWN, View
from pile_coordinator.evidence.tallies import DIMENSIONS
from pile_coordinator.evidence.timeline import STEPS
from pile_coordinator.exports.order import read_order
from pile_coordinator.web.exporting import FORMATS
from pile_hil.browser import MISSING, has_browser
from pile_hil.requirements import require
from pile_shared.codec import decode, items
from pile_shared.proof import proof_hash
from pile_shared.terms import LEAF_SETTLEMENT

_TX_TYPES = [v.TYPE for v in vars(transactions).values() if isinstance(v, type) and hasattr(v, "TYPE")]
_TOLD_STEPS = set(STEPS) - {"start", "proof", "end"}  # which stand in one table
_NEEDED = set(alarms.KINDS) - {alarms.DATABASE_AWAY}  # which is always judged

TITLES = {
    "en-US": {
        "/orders": "Orders", "/settlements": "Settlements", "/deviations": "Deviations", "/disputes": "Disputes",
        "/statistics": "Statistics", "/statistics?by=pile&per=year": "Statistics", "/network": "Network", "/alarms": "Alarms",
        "/anonymity": "Anonymity",
        "/search": "Search", "/search?q=nothing-like-it": "Search", "/blocks/4": "block 4", "/trace/dan": "Party dan",
        "/trace/pile:pile-1": "Pile pile-1",
    },
    "zh-CN": {
        "/orders": "订单", "/settlements": "结算", "/deviations": "偏差", "/disputes": "争议", "/statistics": "统计",
        "/statistics?by=pile&per=year": "统计", "/network": "网络", "/alarms": "告警", "/search": "查找", "/anonymity": "匿名性",
        "/search?q=nothing-like-it": "查找", "/blocks/4": "区块 4", "/trace/dan": "参与方 dan", "/trace/pile:pile-1": "充电桩 pile-1",
    },
}  # fmt: skip


# --- what the chain says, without the evidence -----------------------------------------------------------------------------


def _blocks(chain):
    return [chain.engine.block(height) for height in range(1, chain.engine.height + 1)]


def _proofs(chain, contract):
    """(hash, parsed) of every proof of a contract that blocks carry, in order."""
    sent = [decode_transaction(tx).body for block in _blocks(chain) for tx in block.txs]
    told = [message for body in sent if isinstance(body, SubmitProofs) for message in body.proofs]
    return [(proof_hash(m).hex(), p) for m, p in ((m, parse_proof(m)[1]) for m in told) if p.contract == contract]


def _statements(chain, contract):
    """(height, statement) of every settlement that blocks say of a contract, in order."""
    rows = [(b.header.height, items(decode(leaf, 65_536), 16)) for b in _blocks(chain) for leaf in b.leaves]
    told = [(height, decode_statement(row[1])) for height, row in rows if row[0] == LEAF_SETTLEMENT]
    return [(height, statement) for height, statement in told if statement.contract == contract]


def _text(page, selector=".nicegui-content"):
    return page.inner_text(selector)


def _cells(page, selector):
    """A table's lines, each as its cells' texts."""
    lines = page.locator(selector).locator("tbody tr").all()
    return [[cell.strip() for cell in line.locator("td").all_inner_texts()] for line in lines]


# --- every page ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("locale", TITLES)
@pytest.mark.parametrize("size", SIZES)
def test_every_page_in_both_languages_on_desk_and_phone(world, visitor, size, locale):
    visit = visitor(size=size, locale=locale)
    order = {"en-US": "Order", "zh-CN": "订单"}[locale]
    proof = _proofs(world.chain, world.settled)[0][0]
    titles = TITLES[locale] | {
        f"/orders/{i.hex()}": f"{order} {i.hex()[:10]}…" for i in (world.settled, world.disputed)
    }
    titles |= {f"/trace/{proof}": {"en-US": "Metering proof", "zh-CN": "计量证明"}[locale] + f" {proof[:10]}…"}
    posting = f"/trace/{world.settled.hex()}/1/0"
    titles |= {posting: {"en-US": "Posting", "zh-CN": "分录"}[locale] + f" {world.settled.hex()[:10]}…"}
    for path, title in titles.items():
        page = visit.open(path)
        assert page.inner_text("h1") == title, path
        width, inner = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert width <= inner, f"{path} scrolls sideways"
        if path == "/anonymity":
            assert words.text(locale[:2], "anonymity.no_notes") in _text(page)
        if locale == "zh-CN":
            page.wait_for_selector("[data-test=alarms]:has-text('告警')")


def test_navigation_fits_the_desk_for_who_sees_all(visitor):
    for locale in TITLES:
        page = visitor(locale=locale).open("/orders")
        assert page.evaluate("(e => e.scrollWidth <= e.clientWidth)(document.querySelector('.pc-nav'))"), locale


# --- the walk --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lively(tmp_path_factory):
    """A world of its own, which the tests change: judges will rule, and a pile is called like a party."""
    require(has_browser(), MISSING)
    world = WebWorld(tmp_path_factory.mktemp("pages"))
    world.block()
    pile = RegisterPile("other-user", "other-owner", key("other-user/pile").public, "SDM630", "125", "south", 7000)
    world.later += 1000
    world.chain.block(world.later, ("operator", pile))
    yield world
    world.close()


def _rule(world):
    rulings = [
        (judge, Rule(world.disputed, 2000, "user")) for judge in JUDGES[: world.chain.genesis.params.rulings_needed]
    ]
    world.later += HOUR
    world.chain.block(world.later, *rulings)
    world.later += 1000
    world.chain.block(world.later)


@pytest.mark.parametrize("size", SIZES)
def test_operator_finds_a_disputed_order_and_traces_it(lively, visitor, tmp_path, size):
    """Overview, disputes, the order's life, a proof's check; while the order is open judges rule; certificate and exports."""
    contract, name = lively.disputed, lively.disputed.hex()
    is_first = len(_statements(lively.chain, contract)) == 1
    page = visitor(size=size, world=lively).open("/")
    _follow_menu(page, size, "Settlements")
    page.click(".pc-tabs a:has-text('Disputes')")
    page.wait_for_selector("h1:has-text('Disputes')")
    if is_first:
        assert "Open disputes: 1" in _text(page)
    page.locator(f"a[title='{name}']").first.click()
    page.wait_for_selector(f"h1:has-text('Order {name[:10]}')")

    proofs = _proofs(lively.chain, contract)
    height, first = _statements(lively.chain, contract)[0]
    rows = _cells(page, "[data-step=proofs]")
    begin_wh = proofs[0][1].readings[0].energy_wh
    assert [row[0] for row in rows] == [str(proof.sequence) for _, proof in proofs]
    since_wh = [proof.readings[-1].energy_wh - begin_wh for _, proof in proofs]
    assert [row[4] for row in rows] == [written.energy(wh).split(" ")[0] for wh in since_wh] or size == "phone"
    assert since_wh[-1] == first.measured_wh
    told = _text(page, "[data-step=settlement] >> nth=0")
    assert f"block {height}" in told
    assert f"measured {written.energy(first.measured_wh)}" in told
    assert NASTY in _text(page, "[data-step=dispute]")

    page.click(f"[data-step=proofs] td a:text-is('{proofs[-1][1].sequence}')")
    page.wait_for_selector("h1:has-text('Metering proof')")
    shown = page.locator("[data-test=checks] span").all_inner_texts()
    assert [text.strip() for text in shown] == ["✓ signature", "✓ chain", "✓ register"]
    assert page.locator(f"a[title='{proofs[-1][0]}']").count() == 1
    assert page.locator(f"a[title='{proofs[-1][1].previous.hex()}']").count() == 1
    page.locator(f"a[title='{name}']").first.click()
    page.wait_for_selector(f"h1:has-text('Order {name[:10]}')")

    if is_first:
        assert "when the contract closes" in _text(page)
        page.wait_for_function("window.did_handshake === true")
        _rule(lively)
    page.wait_for_selector("[data-step=certificate]")  # the open page follows the chain
    assert page.locator("[data-step=ruling]").count() == lively.chain.genesis.params.rulings_needed
    last = _statements(lively.chain, contract)[-1][1]
    _compare_postings(page, last)
    _take_files(page, lively, name, tmp_path, last)


def _follow_menu(page, size, name):
    if size == "phone":
        page.click(".pc-menu")
        page.click(f".pc-drawer a:has-text('{name}')")
    else:
        page.click(f".pc-nav a:has-text('{name}')")
    page.wait_for_selector(f"h1:has-text('{name}')")


def _compare_postings(page, statement):
    sides = {
        "U": "driver dan",
        "H": "owner olga",
        "E": "escrow",
        "B": "owner's bond",
        "D": "objection's bond",
        "G": "grid",
        "F": "fees",
    }
    expected = [[sides[p.debit], sides[p.credit], written.money_exact(p.amount_micro)] for p in statement.postings]
    shown = _cells(page, "[data-step=postings] .pc-scroll >> nth=0")
    assert [row[1:] for row in shown] == expected
    balance = _cells(page, "[data-step=postings] .pc-scroll >> nth=1")
    assert balance[-1] == ["together", written.money_exact(0)]


def _take_files(page, world, name, folder, statement):
    with page.expect_download() as certificate:
        page.click(".pc-files a:has-text('Certificate')")
    path = folder / certificate.value.suggested_filename
    certificate.value.save_as(path)
    assert path.name == f"{name}.cbor"
    assert path.read_bytes() == world.get(f"/v1/contracts/{name}/certificate").content
    command = _text(page, "[data-test=verify]").split()
    assert command == ["pilechain", "verify", path.name, "--genesis", "genesis.json"]
    genesis = world.folder / "genesis.json"
    told = subprocess.run(
        [sys.executable, "-m", "pile_coordinator.cli", "verify", str(path), "--genesis", str(genesis)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert told.returncode == 0, told.stdout + told.stderr
    page.click("button:has-text('Check it here and now')")
    page.wait_for_selector("[data-test=verified]:has-text('It holds')")
    with page.expect_download() as postings:
        page.click(".pc-files a:has-text('Postings as CSV')")
    postings.value.save_as(folder / "postings.csv")
    lines = list(csv.DictReader(io.StringIO((folder / "postings.csv").read_text())))
    amounts = [int(line["amount_micro"]) for line in lines if line["number"] == "2"] if "number" in lines[0] else None
    assert (amounts or [int(line["amount_micro"]) for line in lines]) == [p.amount_micro for p in statement.postings]


# --- search ----------------------------------------------------------------------------------------------------------------


def test_the_box_in_the_head_finds_any_id(world, visitor):
    contract = world.settled.hex()
    bid = next(r["bid"] for r in contracts(world.chain.evidence.db, EVERYTHING, contract=world.settled)[0])
    proof = _proofs(world.chain, world.settled)[0][0]
    block = world.chain.engine.block(4).header.hash().hex()
    page = visitor().open("/")
    for text, title in (
        (contract[:8], f"Order {contract[:10]}"), (bid, f"Order {contract[:10]}"), (proof, f"Metering proof {proof[:10]}"),
        ("4", "block 4"), (block[:12], "block 4"), (f"{contract}/1/0", "Posting"), ("pile-1", "Pile pile-1"), ("dan", "Party dan"),
    ):  # fmt: skip
        page.fill(".pc-wide .pc-find input", text)
        page.press(".pc-wide .pc-find input", "Enter")
        page.wait_for_selector(f"h1:has-text('{title}')")
        page.wait_for_function("window.did_handshake === true")


def test_an_id_of_several_things_is_a_choice(lively, visitor):
    page = visitor(world=lively).open("/search?q=other-user")
    assert [row[0] for row in _cells(page, ".pc-scroll")] == ["Pile", "Party"]
    page.click(".pc-table a >> nth=0")
    page.wait_for_selector("h1:has-text('Pile other-user')")


@pytest.mark.parametrize(
    "text", [NASTY, "<img src=x onerror=alert(1)>", "{{7*7}}", "%00", "ä" * 40, "' OR 1=1 --", "9" * 40]
)
def test_what_is_no_id_is_shown_as_text_and_finds_nothing(visitor, text):
    visit = visitor()
    page = visit.page
    page.goto(str(httpx.URL(visit.world.url + "/search", params={"q": text})))
    page.wait_for_function("window.did_handshake === true")
    assert f"Nothing is called “{text}”" in _text(page)
    assert page.input_value(".pc-form input[name=q]") == text
    page.goto(str(httpx.URL(visit.world.url + "/orders", params={"pile": text})))
    page.wait_for_function("window.did_handshake === true")
    assert f"“{text.strip()}” is no id" in _text(page)
    assert page.input_value("input[name=pile]") == text


def test_a_hash_is_copied_whole(world, visitor):
    page = visitor().open(f"/orders/{world.settled.hex()}")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.click(".pc-copy >> nth=0")
    page.wait_for_selector(".pc-copy[data-done]")
    shown = page.get_attribute(".pc-hash a >> nth=0", "title")
    assert page.evaluate("navigator.clipboard.readText()") == shown
    assert len(shown) == 64


# --- lists and sums --------------------------------------------------------------------------------------------------------


def test_orders_are_filtered_by_what_the_address_says(world, visitor):
    visit = visitor()
    names = {"": {world.settled, world.disputed}, "?state=disputed": {world.disputed}, "?state=confirmed": {world.settled},
             "?state=closed": {world.settled}, "?pile=pile-2": set(), "?party=olga": {world.settled, world.disputed},
             "?party=other-user": set(), "?until=2023-11-15": set(), "?since=2023-11-15&until=2023-11-16":
             {world.settled, world.disputed}}  # fmt: skip
    for query, expected in names.items():
        page = visit.open(f"/orders{query}")
        shown = {bytes.fromhex(a.get_attribute("title")) for a in page.locator(".pc-table .pc-hash a").all()}
        assert shown == expected, query
    page = visit.open("/orders?since=yesterday")
    assert "is no date" in _text(page)


def test_settlements_and_statistics_say_what_the_certificate_proves(world, visitor):
    order = read_order(world.chain.certificate(world.settled).encoded(), world.chain.genesis)
    money = order.money(order.verified.statement)
    amounts = (money.user_paid_micro, money.owner_earned_micro, money.grid_micro, money.fees_micro)
    shown = [written.money(micro) for micro in amounts]
    visit = visitor()
    line, total = _cells(visit.open("/settlements"), ".pc-scroll")
    assert line[-4:] == total[-4:] == shown
    measured = written.energy(order.verified.statement.measured_wh).split(" ")[0]
    assert line[8] == measured
    page = visit.open("/statistics?per=month")
    line, total = _cells(page, ".pc-scroll")
    assert line[:4] == ["2023-11", "1", "5.000", measured]
    assert line[4:8] == total[4:8] == shown
    with page.expect_download() as table:
        page.click("a:has-text('All of it as CSV')")
    (row,) = csv.DictReader(io.StringIO(table.value.path().read_text()))
    assert (row["period"], int(row["user_micro"]), int(row["contracts"])) == ("2023-11", money.user_paid_micro, 1)


def test_the_most_idle_pile_comes_first_and_leads_to_its_own_history(world, visitor):
    page = visitor().open("/statistics?by=pile")
    idle = [row[-2] for row in _cells(page, ".pc-scroll")[:-1]]
    assert idle == sorted(idle, reverse=True)
    page.click(".pc-table a:has-text('pile-1')")
    page.wait_for_function("location.search.includes('name=pile-1')")
    assert page.input_value("input[name=name]") == "pile-1"


def test_alarms_are_counted_in_the_head(visitor):
    page = visitor().open("/alarms")
    page.wait_for_function("/alarms \\d/.test(document.querySelector('[data-test=alarms]').innerText)")
    rows = _cells(page, ".pc-card >> nth=0")
    assert page.inner_text("[data-test=alarms]") == f"alarms {len(rows)}"
    assert {"The chain stands still", "A dispute is almost due"} <= {row[1] for row in rows}
    assert "critical" in rows[0][0]


def test_the_network_page_says_that_a_solo_chain_is_one(visitor, world):
    page = visitor().open("/network")
    assert "elects no accounting nodes" in _text(page)
    newest = _cells(page, ".pc-card >> nth=7")[0]
    assert newest[0] == str(world.chain.engine.height)
    assert newest[4] == "3 / 3"


# --- anonymous orders ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hidden(tmp_path_factory):
    """A world with a named and two anonymous orders."""
    require(has_browser(), MISSING)
    world = AnonymousWorld(tmp_path_factory.mktemp("hidden"))
    yield world
    world.close()


PAYERS = {"en-US": ("anonymous", "not anonymous"), "zh-CN": ("匿名", "非匿名")}


@pytest.mark.parametrize(
    ("locale", "size", "lists"),
    [
        ("en-US", "desk", {"/settlements": 2, "/deviations": 3, "/disputes": 2, "/trace/pile:pile-1": 3}),
        ("zh-CN", "phone", {"/orders": 3, "/disputes": 2}),
    ],
)
def test_every_order_says_whether_its_payer_is_anonymous(hidden, visitor, locale, size, lists):
    chain, (nobody, named) = hidden.chain, PAYERS[locale]
    visit = visitor(world=hidden, locale=locale, size=size)
    payers = {chain.named.hex(): named, chain.anonymous.hex(): nobody, chain.disputed.hex(): nobody}
    for path, count in lists.items():
        page = visit.open(path)
        lines = page.locator(".pc-table tbody tr:has(a[href^='/orders/'])").all()
        assert len(lines) == count, path
        for line in lines:
            contract = line.locator("a[title]").first.get_attribute("title")
            assert line.locator(".pc-mark").all_inner_texts()[-1] == payers[contract], path
        width, inner = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert width <= inner, f"{path} scrolls sideways"
        assert chain.nobody not in _text(page)  # only as much of it as tells it from others
    page = visit.open(f"/orders/{chain.named.hex()}")
    assert page.locator(".pc-bar .pc-mark").all_inner_texts()[-1] == named


def test_a_user_s_confirmation_is_that_of_one_of_sixteen(hidden, visitor):
    chain, visit = hidden.chain, visitor(world=hidden)
    page = visit.open(f"/orders/{chain.anonymous.hex()}")
    assert page.locator(".pc-bar .pc-mark").all_inner_texts()[-1] == "anonymous"
    owners, users = page.locator("[data-step=confirmation]").all_inner_texts()
    assert "olga" in owners
    assert users.startswith("Confirmed by one of 16")
    worth = written.money(sum(note.value_micro for note in chain.paid), "CNY")
    assert f"notes: {len(chain.paid)}, worth {worth}" in _text(page, "[data-step=bid]")
    assert "one of 16: nobody can tell which" in _text(page, ".pc-rows")
    assert "user-1" not in _text(page)
    page.click(".pc-rows a:has-text('Anonymity')")
    page.wait_for_selector("h1:has-text('Anonymity')")
    assert "one of 16" in _text(visit.open(f"/orders/{chain.disputed.hex()}"), "[data-step=dispute]")
    page = visit.open("/statistics?by=user")
    assert [row[:2] for row in _cells(page, ".pc-scroll")[:-1]] == [["all anonymous orders", "1"], ["dan", "1"]]
    assert "1\nof them anonymous" in _text(visit.open("/statistics"), ".pc-cards")


def test_the_page_on_anonymity_counts_what_the_chain_has(hidden, visitor):
    kinds = hidden.chain.engine.state.each(Denomination)
    page = visitor("other-user", world=hidden).open("/anonymity")
    page.wait_for_function("document.querySelectorAll('canvas').length === 2")
    rows = _cells(page, ".pc-scroll")
    assert [row[:3] for row in rows] == [
        [written.money(kind.value_micro), str(kind.issued - kind.spent), str(kind.spent)] for kind in kinds
    ]
    assert [row[5:] for row in rows] == [
        [f"{kind.issued - 16} / 16", str(USERS), "2", str(16 - kind.spent)] for kind in kinds
    ]
    assert written.money(hidden.chain.engine.state.balance_micro("N"), "CNY") in _text(page, ".pc-cards")
    assert written.span(NOTES["bin_age_ms"]) in _text(page, ".pc-cards")
    assert page.locator("[data-test=hides] li").count() == len(anonymity._SAYS)


# --- who sees what ---------------------------------------------------------------------------------------------------------


def test_guessed_addresses_tell_an_owner_nothing_of_others(world, visitor):
    contract, proof = world.settled.hex(), _proofs(world.chain, world.settled)[0][0]
    row = contracts(world.chain.evidence.db, EVERYTHING, contract=world.settled)[0][0]
    visit = visitor("other-owner", expect=["404"])
    paths = [
        f"/orders/{contract}", f"/contracts/{contract}", f"/orders/{row['bid']}", f"/orders/{row['listing']}",
        f"/trace/{proof}", f"/trace/proof:{proof}", f"/trace/{contract}/1/0", "/trace/pile:pile-1", "/parties/dan", "/trace/olga",
        "/statistics?by=owner&name=olga", "/statistics?by=pile&name=pile-1",
    ]  # fmt: skip
    for path in paths:
        page = visit.open(path)
        assert "not yours to see" in _text(page), path
        assert not any(name in _text(page) for name in ("dan", "olga", "pile-1", "5.000")), path
    for path in (
        "/orders",
        "/settlements",
        "/deviations",
        "/disputes",
        "/orders?party=dan",
        "/orders?pile=pile-1",
        "/alarms",
    ):
        page = visit.open(path)
        assert not any(name in _text(page) for name in ("dan", "olga", contract[:10])), path
    page = visit.open("/blocks/5")  # blocks are everybody's; who sent what is not
    assert "dan" not in _text(page)


def test_the_grid_sees_deviations_and_no_orders_of_others(world, visitor):
    page = visitor("grid", expect=["404"]).open("/deviations")
    assert world.settled.hex()[:10] in _text(page)
    assert {o.text_content() for o in visitor("grid").open("/statistics").locator("select[name=by] option").all()} == {
        "everything", "zone", "operator",
    }  # fmt: skip
    row = contracts(world.chain.evidence.db, EVERYTHING, contract=world.settled)[0][0]
    page = visitor("grid").open(f"/orders/{world.settled.hex()}")
    assert "block 4" in _text(page)
    assert page.locator("[data-step=bid]").count() == 0  # its role sees no orders
    assert row["bid"][:10] not in _text(page, ".pc-line")


def test_files_are_for_who_is_signed_in_and_may_have_them(world):
    path = f"/files/v1/contracts/{world.settled.hex()}/certificate"

    def get(party, path=path, **headers):
        cookies = {"pilechain_token": world.tokens[party]} if party else {}
        return httpx.get(world.url + path, cookies=cookies, headers=headers)

    assert get("operator").content == world.get(path.removeprefix("/files")).content
    assert get("dan").status_code == 200
    assert get("other-owner").status_code == 404
    assert get(None).status_code == 401
    assert get(None, authorization=f"Bearer {world.tokens['operator']}").status_code == 401
    assert (
        get("dan", authorization=f"Bearer {world.tokens['operator']}", path="/files/v1/exports/csv").text.count("\n")
        == 2
    )
    assert get("judge-1", path="/files/v1/statistics/all?format=csv").status_code == 403
    for other in (
        "/files/v1/orders",
        "/files/v1/whoami",
        "/files/metrics",
        "/files/v1/contracts",
        f"{path}/../../x",
        "/files/",
    ):
        assert get("operator", path=other).status_code == 404, other
    assert httpx.post(world.url + path, cookies={"pilechain_token": world.tokens["operator"]}).status_code in {404, 405}


# --- the questions behind the pages ----------------------------------------------------------------------------------------


def test_contracts_are_those_in_view_page_by_page(world):
    db = world.chain.evidence.db
    every, following = contracts(db, EVERYTHING)
    assert [row["id"] for row in every] == [world.disputed.hex(), world.settled.hex()]
    assert following is None
    first, place = contracts(db, EVERYTHING, limit=1)
    second, end = contracts(db, EVERYTHING, limit=1, after=place)
    assert (first + second, end) == (every, None)
    assert [row["user_micro"] is None for row in every] == [True, False]  # nothing is paid before the closing
    views = {("olga", OWN): 2, ("dan", OWN): 2, ("other-user", OWN): 0, ("grid", DEVIATED): 2, ("judge-1", NONE): 0}
    for (party, scope), count in views.items():
        view = View(party, NONE, scope, NONE, NONE, senders=False)
        assert len(contracts(db, view)[0]) == count, party
        assert len(contracts(db, view, party="dan")[0]) == count, party


@pytest.mark.parametrize(
    ("off_wh", "of_wh", "text"),
    [
        (0, 5000, "0.0 %"),
        (-3000, 5000, "\N{MINUS SIGN}60.0 %"),
        (1, 3, "+33.3 %"),
        (2, 3, "+66.7 %"),
        (None, 5, ""),
        (5, 0, ""),
    ],
)
def test_deviations_in_percent_are_rounded_half_away_from_zero(off_wh, of_wh, text):
    assert details.share(off_wh, of_wh) == text


@pytest.mark.parametrize(
    ("family", "names"),
    [
        ("cause", settlement.CAUSES), ("ground", transactions.GROUNDS), ("basis", settlement.BASES), ("step", _TOLD_STEPS),
        ("contract", (*STATES, *OUTCOMES)), ("alarm", alarms.KINDS), ("todo", alarms.KINDS), ("needs", _NEEDED),
        ("thing", trace.KINDS), ("period", PERIODS), ("dimension", DIMENSIONS), ("tx", _TX_TYPES), ("format", FORMATS[1:]),
        ("side", "UHEBDGF"), ("check", ("signature", "place", "register")), ("funding", ("anonymous", "named")),
        ("hides", anonymity._SAYS),
    ],
)  # fmt: skip
def test_every_word_that_pages_show_has_a_word(family, names):
    assert [name for name in names if f"{family}.{name}" not in words.table("en")] == []
