"""The driver's page without a browser: pairing, receipts, what was paid, orders that count once, words."""

import asyncio
import re
import stat
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from guide_market import Deal
from served import PILE, Served
from settled import Chain, deliver
from world import HOUR, leaf_of

from pile_coordinator.advice import NEXT
from pile_coordinator.chain.contracts import CALLED_OFF, CONFIRMED, DEFAULTED, NO_SHOW, RESOLVED, SETTLED, UNSIGNED
from pile_coordinator.chain.orders import CANCELLED, EXPIRED, UNFILLED
from pile_coordinator.chain.records import ACTIVE, DISPUTED, MEASURED, PROPOSED, SIGNED
from pile_coordinator.chain.rejections import CODES, Rejection
from pile_coordinator.chain.settlement import CAUSES, decode_statement
from pile_coordinator.chain.transactions import AT_MARKET, Confirm, List, Object, Rule
from pile_coordinator.dashboard import words
from pile_coordinator.driver import receipt, serve
from pile_coordinator.driver.new_page import energy_wh
from pile_coordinator.driver.order_page import paid_micro
from pile_coordinator.driver.pairing import CODE_S, DEVICE_S, MAX_DEVICES, MAX_TRIES, WAIT_S, Pairing, PairingError
from pile_coordinator.driver.session import REPEAT_FOR_S, REPEAT_S, Clerk, Driver, Wish, market_limit
from pile_coordinator.quote import FILLS, PART, REFUNDED, REFUSED, RESTS
from pile_coordinator.verify import VerifyError
from pile_coordinator.wallet import START, WalletError
from pile_hil.broker import Mosquitto, find_mosquitto
from pile_hil.requirements import require
from pile_shared import topics
from pile_shared.errors import ConfigError
from pile_shared.proof import BEGIN, END, NO_PREVIOUS, REASON_NAMES, Origin, Proof, proof_hash
from pile_shared.reading import Reading
from pile_shared.terms import LEAF_SETTLEMENT

# --- pairing -------------------------------------------------------------------------------------------------------------


class Watch:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now_s = 1_000_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def watch():
    return Watch()


@pytest.fixture
def pairing(tmp_path, watch):
    return Pairing(tmp_path / "dan.devices", clock_s=watch, date_s=watch)


def refusal(pairing, code):
    with pytest.raises(PairingError) as refused:
        pairing.pair(code)
    return refused.value.code


def test_a_code_pairs_one_browser_once(pairing):
    code = pairing.new_code()
    assert re.fullmatch(r"[0-9A-HJKMNP-TV-Z]{5}-[0-9A-HJKMNP-TV-Z]{5}", code)
    assert code != pairing.new_code()
    assert refusal(pairing, code) == "wrong_code", "a newer one makes it void"
    code = pairing.new_code()
    token = pairing.pair(f" {code.lower().replace('-', ' ').replace('0', 'o')} ")
    assert pairing.knows(token)
    assert refusal(pairing, code) == "wrong_code"
    assert not pairing.knows("")
    assert not pairing.knows(token[:-1] + ("0" if token[-1] != "0" else "1"))


def test_before_there_is_a_code_none_is_good(pairing):
    assert refusal(pairing, "") == refusal(pairing, "0000000000") == "wrong_code"


def test_a_code_grows_old(pairing, watch):
    code = pairing.new_code()
    watch.now_s += CODE_S
    assert refusal(pairing, code) == "wrong_code"


def test_wrong_codes_void_the_right_one(pairing, watch):
    code = pairing.new_code()
    assert [refusal(pairing, "00000-00000") for _ in range(MAX_TRIES)] == ["wrong_code"] * MAX_TRIES
    assert refusal(pairing, code) == "wait"
    fresh = pairing.new_code()
    assert refusal(pairing, fresh) == "wait", "a new code does not end the wait"
    watch.now_s += WAIT_S
    assert refusal(pairing, code) == "wrong_code"
    assert pairing.pair(fresh)


def test_devices_outlive_the_process_and_their_file_opens_nothing(pairing, tmp_path, watch):
    token = pairing.pair(pairing.new_code())
    path = tmp_path / "dan.devices"
    assert token not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    again = Pairing(path, clock_s=watch, date_s=watch)
    assert again.knows(token)
    watch.now_s += DEVICE_S
    assert not again.knows(token)


def test_devices_are_bounded_and_can_be_forgotten(pairing):
    tokens = [pairing.pair(pairing.new_code()) for _ in range(MAX_DEVICES + 1)]
    assert [pairing.knows(token) for token in tokens] == [False, *[True] * MAX_DEVICES]
    assert pairing.forget() == MAX_DEVICES
    assert not any(map(pairing.knows, tokens))


@pytest.mark.parametrize("text", ["", "[]", '{"devices": [{}]}', '{"devices": [{"sha256": "", "paired_s": "x"}]}'])
def test_a_broken_file_of_devices_is_told(tmp_path, text):
    path = tmp_path / "dan.devices"
    path.write_text(text)
    with pytest.raises(ConfigError, match="no file of paired devices"):
        Pairing(path)


def test_the_terminals_code_opens_the_pairing_page():
    assert serve.pairing_url("http://192.168.1.5:8420", "ABCDE-FGHJK") == "http://192.168.1.5:8420/pair#ABCDE-FGHJK"
    drawn = serve.terminal_qr("http://192.168.1.5:8420/pair#ABCDE-FGHJK")
    assert len(drawn.splitlines()) < 24, "it fits a terminal"


@pytest.mark.parametrize(
    ("listen", "hosts"),
    [
        (serve.Listen(), {"127.0.0.1:8420", "localhost:8420"}),
        (serve.Listen("192.168.1.5", 80, ("pi.local",)), {"192.168.1.5", "192.168.1.5:80", "pi.local", "pi.local:80"}),
        (serve.Listen("fd00::5"), {"[fd00::5]:8420"}),
    ],
)
def test_the_names_it_answers_under(listen, hosts):
    assert listen.place().hosts == hosts


# --- receipts ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def proven(tmp_path_factory):
    chain = Chain(tmp_path_factory.mktemp("settled"))
    chain.admit()
    certificate = deliver(chain, delivered_wh=5000, reason=REASON_NAMES.index("contracted energy reached"))
    chain.close()
    return receipt.prove(certificate.encoded(), chain.genesis), chain.genesis


def test_a_receipt_names_its_certificate_and_no_other(proven):
    found, _ = proven
    told = receipt.parse(found.receipt.text())
    assert told == found.receipt
    assert receipt.check(told, found) is True
    assert len(found.receipt.text()) <= receipt.MAX_TEXT
    assert receipt.check(replace(told, file=bytes(32)), found) is False, "another copy is as good"
    wrong = {"chain_id": "other-00000000", "contract": bytes(32), "height": told.height + 1, "header": bytes(32)}
    for name, value in wrong.items():
        with pytest.raises(VerifyError, match="not what the receipt speaks of"):
            receipt.check(replace(told, **{name: value}), found)


def test_what_is_no_receipt_is_told(proven):
    good = proven[0].receipt.text()
    parts = good.split(":")
    bad = ["", "pilechain-receipt:1", good + ":x", good.replace(":1:", ":2:", 1), good[:-1], good.upper(), "é" + good]
    bad += [":".join([*parts[:4], height, *parts[5:]]) for height in ("", "-1", "01", "1" * 300, "x", "²")]
    for text in bad:
        with pytest.raises(ConfigError, match="no receipt"):
            receipt.parse(text)


# --- what was paid -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "kwh"),
    [
        ("contracted energy reached", "10"),
        ("stopped by the user", "10.5"),
        ("vehicle full", "6"),
        ("stopped by the user", "0"),
        ("pile fault", "6"),
    ],
)
@pytest.mark.parametrize("ruling", [None, "pile", "user"])
def test_what_the_page_says_was_paid_has_left_the_account(reason, kwh, ruling):
    deal = Deal()
    deal.measure(reason, kwh)
    contract = deal.world.contract()
    escrow = deal.world.holds()[f"E:{contract.id.hex()}"]
    statement, bond = decode_statement(contract.statement), 0
    if ruling is None:
        deal.world.send("user-1", Confirm(contract.id, statement.digest()))
        deal.world.send("owner-1", Confirm(contract.id, statement.digest()))
        deal.world.ok()
    else:
        bond = deal.world.state.params.objection_bond_micro
        deal.world.send("user-1", Object(contract.id, "cause", 1, "no"))
        deal.world.ok()
        deal.world.send("auditor", Rule(contract.id, statement.measured_wh, ruling))
        statement = closing(deal.world.ok())
    found = {"escrow_micro": escrow, "postings": [[p.debit, p.credit, p.amount_micro] for p in statement.postings]}
    assert paid_micro(found, bond) == deal.before["dan"] - deal.balances()["dan"]


def closing(outcome):
    (leaf,) = [row for row in map(leaf_of, outcome.leaves) if row[0] == LEAF_SETTLEMENT]
    return decode_statement(leaf[1])


@pytest.mark.parametrize(("text", "wh"), [("12.5", 12_500), ("12,5", 12_500), (" 3 ", 3000), ("0.1", 100)])
def test_energy_is_read_exactly(text, wh):
    assert energy_wh(text) == wh


@pytest.mark.parametrize("text", ["", "0", "-1", "0.05", "1.2345", "1e3", "x", "1.1234567", "٣"])
def test_what_is_no_energy_is_refused(text):
    with pytest.raises(ValueError):
        energy_wh(text)


@pytest.mark.parametrize(
    ("price", "top", "limit"), [(0, 100, 0), (600_001, 10**7, 630_002), (600_000, 610_000, 610_000), (700, 600, 700)]
)
def test_the_limit_of_an_order_at_market(price, top, limit):
    assert market_limit({"limit_micro_per_kwh": price, "band_micro_per_kwh": [0, top]}) == limit


# --- a real coordinator --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    require(find_mosquitto() is not None, "mosquitto is not installed")
    folder = tmp_path_factory.mktemp("driver")
    with Mosquitto(folder / "broker") as broker, pytest.MonkeyPatch.context() as patch:
        patch.setattr("pile_coordinator.service.log", lambda _: None)
        served = Served(folder / "site", broker.port)
        served.admit()
        with served.site.wallet("olga") as olga:
            now = served.site.clock.now_ms()
            olga.send(List("pile-1", now - HOUR, now + 40 * HOUR, 50_000, AT_MARKET, False))
        yield served
        served.close()


@pytest.fixture
def driver(served):
    with served.site.wallet("dan") as wallet:
        wallet.ask("account")
        yield Driver(wallet, served.site.genesis)


def wish(served, hours=0, **over):
    now = served.site.clock.now_ms()
    fields = {
        "zone": "north",
        "pile": "",
        "energy_wh": 1000,
        "start_ms": now + hours * HOUR,
        "end_ms": now + (hours + 2) * HOUR,
    }
    return Wish(**fields | {"limit_micro_per_kwh": 0} | over)


def test_an_order_placed_twice_is_one_order(served, driver):
    offer = driver.quote(wish(served, hours=2))
    assert offer.can_be_placed
    before = driver.wallet.ask("account")["sequence"]
    order = driver.place(offer)
    assert driver.place(offer) == order
    assert driver.wallet.ask("account")["sequence"] == before + 1
    (contract,) = driver.story(order).contracts
    assert contract["price_micro_per_kwh"] == offer.quote["fills"][0][2]
    assert contract["escrow_micro"] == offer.quote["most_micro"]
    driver.call_off(contract["id"])
    driver.call_off(contract["id"])
    assert driver.story(order).contracts[0]["phase"] == "cancelled"
    assert driver.wallet.ask("account")["sequence"] == before + 2


def test_of_two_orders_that_two_processes_signed_at_once_one_counts(served, driver):
    """A killed process's order may still be on its way when the next one signs: they have one number."""
    offers = [driver.quote(wish(served, hours=4, energy_wh=wh, limit_micro_per_kwh=1)) for wh in (1000, 1100)]
    for offer in offers:
        offer.tx = driver.wallet.prepare(offer.bid)
    order = driver.place(offers[0])
    with pytest.raises(Rejection) as refused:
        driver.place(offers[1])
    assert refused.value.code == "replayed"
    assert [row["id"] for row in driver.home().orders if row["kind"] == "bid"] == [order]
    assert driver.story(order).bid["limit_micro_per_kwh"] == 1
    driver.cancel(order)
    driver.cancel(order)  # what is not there any more is not cancelled
    assert driver.story(order).ended["outcome"] == CANCELLED
    assert driver.home().past[0] | {"ended_ms": 0} == {
        "id": order,
        "kind": "bid",
        "ended_ms": 0,
        "energy_wh": 1000,
        "measured_wh": None,
        "outcome": CANCELLED,
        "pile": "",
        "price_micro_per_kwh": 1,
    }


def test_a_start_is_said_again_until_the_pile_proves_it_or_for_so_long(served):
    clock = Watch()
    with served.site.wallet("dan") as wallet:
        driver = Driver(wallet, served.site.genesis, clock_s=clock)
        wallet.ask("account")
        order = driver.place(driver.quote(wish(served, hours=6)))
        contract = driver.story(order).contracts[0]["id"]
        while served.raw.get(0) is not None:
            pass
        driver.start(contract)
        heard = [driver.story(order).commanded, sessions(served)]
        clock.now_s += REPEAT_S
        heard += [driver.story(order).commanded, driver.story(order).commanded, sessions(served)]
        clock.now_s += REPEAT_FOR_S
        heard += [driver.story(order).commanded, sessions(served)]
        assert heard == [START, 1, START, START, 1, 0, 0]
        driver.call_off(contract)


def sessions(served) -> int:
    """How many commands reached a pile since the last look; a question in between shows that all have come."""
    served.raw.publish(topics.pile_topic(served.chain_id, "pile-1", "session"), b"mark")
    count = 0
    while True:
        topic, payload = served.raw.get(10)
        if payload == b"mark":
            return count
        count += topic.endswith("/session")


def test_an_order_that_cannot_be_had_is_not_placed(served, driver):
    offer = driver.quote(wish(served, energy_wh=400_000))
    assert not offer.can_be_placed
    assert offer.quote["reason"] == "supply"
    with pytest.raises(WalletError):
        driver.place(offer)
    assert offer.tx == b""


def test_what_is_confirmed_is_what_was_looked_at_and_once(served, driver):
    order = driver.place(driver.quote(wish(served)))
    contract = driver.story(order).contracts[0]["id"]
    now = served.site.clock.now_ms() + 1000
    begin = Proof(
        1,
        NO_PREVIOUS,
        contract,
        BEGIN,
        [Reading(now, 2, bytes(8), 0, 0, 1)],
        0,
        Origin("SDM630", "1", "eastron-sdm630", b"\x01" * 8),
    )
    message = begin.sign(PILE, served.chain_id)
    served.proof(message)
    reason = REASON_NAMES.index("stopped by the user")
    end = Proof(2, proof_hash(message), contract, END, [Reading(now + 1000, 2, bytes(8), 990, 0, 1)], reason, None)
    served.proof(end.sign(PILE, served.chain_id))
    story = wait(lambda: driver.story(order), lambda story: story.contracts[0]["phase"] == MEASURED)
    found = story.contracts[0]
    assert (found["began_ms"], found["proven_ms"]) == (now, now + 1000)
    before = driver.wallet.ask("account")["sequence"]
    with pytest.raises(Rejection) as refused:
        driver.confirm(contract, bytes(32))
    assert refused.value.code == "digest"
    after_refusal = driver.wallet.ask("account")["sequence"]
    driver.confirm(contract, found["digest"])
    driver.confirm(contract, found["digest"])
    driver.object_to(contract, "cause", "too late")
    assert driver.wallet.ask("account")["sequence"] == after_refusal + 1 >= before + 1
    assert "dan" not in driver.story(order).contracts[0]["awaits"]
    with served.site.wallet("olga") as olga:
        olga.confirm(contract)
        assert olga.ask("history")[0]["id"] == contract
        with pytest.raises(WalletError) as refused:
            olga.ask("order", order)
        assert refused.value.code == "not_yours"
    assert driver.home().past[0]["outcome"] == CONFIRMED
    assert driver.proven(contract).verified.terms.contract_id() == contract


def wait(look, is_good):
    deadline = time.monotonic() + 15
    while not is_good(found := look()):
        assert time.monotonic() < deadline, found
        time.sleep(0.05)
    return found


def test_an_order_that_the_chain_does_not_know_is_nothing(driver):
    story = driver.story(bytes(32))
    assert (story.contracts, story.bid, story.ended) == ([], None, None)


def test_zones_and_offers_name_nobody(served, driver):
    (zone,) = driver.zones()
    assert (zone["zone"], zone["offers"]) == ("north", 1)
    (offer,) = driver.offers("north")
    assert (offer["pile"], offer["rated_power_w"]) == ("pile-1", 7000)
    assert "olga" not in str((zone, offer))
    assert driver.offers("nowhere") == []


# --- the clerk -----------------------------------------------------------------------------------------------------------


def test_pages_that_look_at_the_same_share_an_answer_and_acting_makes_it_old():
    asked, gate = [], threading.Event()

    class Fake:
        def look(self) -> int:
            gate.wait(10)
            asked.append("look")
            return len(asked)

        def act(self) -> None:
            asked.append("act")

    async def story() -> list[int]:
        clerk, fake = Clerk(Fake()), Fake()
        first = asyncio.gather(*(clerk.look(fake.look) for _ in range(5)))
        await asyncio.sleep(0)
        gate.set()
        seen = await first
        seen.append(await clerk.look(fake.look))
        await clerk.do(fake.act)
        seen.append(await clerk.look(fake.look))
        clerk.close()
        return seen

    assert asyncio.run(story()) == [1, 1, 1, 1, 1, 1, 3]
    assert asked == ["look", "act", "look"]


# --- words ---------------------------------------------------------------------------------------------------------------

SOURCES = "\n".join(path.read_text() for path in sorted(Path(serve.__file__).parent.glob("*.py")))
DRIVER = {key.removeprefix("driver.") for key in words.table("en") if key.startswith("driver.")}


def test_every_text_is_there_in_both_languages_and_used():
    assert {key for key in words.table("zh") if key.startswith("driver.")} == {f"driver.{key}" for key in DRIVER}
    named = set(re.findall(r"[\"']([a-z_]+)[\"']", SOURCES))
    families = set(re.findall(r"f\"(?:driver\.)?([a-z]+)[._]\{", SOURCES)) | set(
        re.findall(r"word\(\"([a-z]+)\"", SOURCES)
    )
    unused = {key for key in DRIVER if key not in named and key.partition(".")[0].partition("_")[0] not in families}
    assert unused == set()


@pytest.mark.parametrize(
    ("family", "names"),
    [
        ("state", {PROPOSED, SIGNED, ACTIVE, MEASURED, DISPUTED, CONFIRMED, SETTLED, RESOLVED, DEFAULTED, NO_SHOW}),
        ("state", {CALLED_OFF, UNSIGNED, EXPIRED, CANCELLED, UNFILLED, "filled", "open"}),
        ("cause", set(CAUSES)),
        ("quote", {FILLS, PART, RESTS, REFUNDED, REFUSED}),
        ("why", {"paused", "limit", "band", "supply", "crowded", "funds"}),
    ],
)
def test_every_word_of_the_chain_is_a_drivers_word(family, names):
    assert {f"{family}.{name}" for name in names} <= DRIVER


def test_what_quote_finds_missing_has_a_drivers_word():
    source = Path(serve.__file__).parents[1].joinpath("quote.py").read_text().split("def _missing")[1]
    said = set(re.findall(r'"((?:no|every) [a-z ]+)"', source))
    assert len(said) == 6
    assert {f"missing.{sentence}" for sentence in said} <= DRIVER


# What only those meet who do other things than drivers, and what the page cannot send.
FOREIGN = {"exists", "unknown_candidate", "unknown_withdrawal", "unknown_party", "evidence", "band", "unknown_type"}
FOREIGN |= {"malformed", "wrong_chain", "unknown_note", "spent"}


def test_every_refusal_that_a_driver_can_meet_says_what_to_do():
    told = {key.removeprefix("error.") for key in DRIVER if key.startswith("error.")}
    assert set(CODES) - told == FOREIGN
    assert told - {"other", "paused"} <= set(NEXT)
