"""The driver's page in a real Chromium of a phone's size: a real broker, coordinator and wallet process, a simulated pile."""

import json
import os
import re
import signal
import ssl
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
import segno

from pile_coordinator.chain.transactions import AT_MARKET, List, Rule
from pile_coordinator.cli import main
from pile_coordinator.driver.receipt import parse
from pile_coordinator.driver.view import exact
from pile_hil.broker import Mosquitto, find_mosquitto, free_port, make_certificates
from pile_hil.browser import MISSING, browser, has_browser
from pile_hil.requirements import require
from pile_hil.site import HOUR_MS, PileSpec, Site, SiteProcess, wait_for

PILE = "garage-17"
OPENING_MICRO = 60_000_000
RATE = 120  # 3 kWh at 7 kW take 13 s
PHONE = {"width": 390, "height": 844}
pytestmark = pytest.mark.timeout(240)


@dataclass
class Home:
    """A driver's home: a wallet process that can be killed and comes back at the same port."""

    site: Site
    broker: Mosquitto
    port: int
    process: SiteProcess | None = None
    asked: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> str:
        """Start the page; its pairing code."""
        words = ["wallet", "--key", str(self.site.key_file("dan")), "--genesis", str(self.site.folder / "genesis.json")]
        words += ["--broker", f"127.0.0.1:{self.broker.port}", "--json", "page", "--port", str(self.port)]
        log = self.site.folder / "page.log"
        log.unlink(missing_ok=True)
        self.process = self.site.start("page", sys.executable, "-m", "pile_coordinator.cli", *words)
        wait_for(lambda: "code" in self.process.text(), 30, "the page", self.process)
        told = json.loads(self.process.text().splitlines()[0])
        assert told["url"] == self.url
        return told["code"]

    def orders(self) -> list[dict]:
        with self.site.wallet("dan") as dan:
            return dan.ask("orders")

    def sequence(self) -> int:
        with self.site.wallet("dan") as dan:
            return dan.ask("account")["sequence"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    require(find_mosquitto() is not None, "mosquitto is not installed")
    require(has_browser(), MISSING)
    folder = tmp_path_factory.mktemp("home")
    pile = PileSpec(PILE, "olga", {"kind": "tcp"}, "eastron-sdm630", "SDM630", 63000117, battery_wh=100_000)
    with Mosquitto(folder / "broker") as broker, Site(folder / "site", [pile], rate=RATE, port=broker.port) as site:
        site.start_rig()
        site.start_coordinator()
        site.admit({"olga": ("pile-owner", 20_000_000), "dan": ("ev-owner", OPENING_MICRO)})
        site.start_pile(PILE)
        site.rig.command(do="plug", pile=PILE)
        with site.wallet("olga") as olga:
            now = site.clock.now_ms()
            olga.send(List(PILE, now, now + 96 * HOUR_MS, 90_000, AT_MARKET, False))
        home = Home(site, broker, free_port())
        home.code = home.start()
        yield home


@pytest.fixture(scope="module")
def phone(home):
    """One phone, paired once for all tests: what its pages said and asked for is looked at in the end."""
    with browser() as chromium:
        context = chromium.new_context(viewport=PHONE, locale="en-GB", device_scale_factor=2, accept_downloads=True)
        page = context.new_page()
        page.on("request", lambda request: home.asked.append(request.url))
        page.on("console", lambda message: home.said.append(message.text) if message.type == "error" else None)
        page.set_default_timeout(60_000)
        page.goto(f"{home.url}/pair#{home.code}")
        page.click("button")
        page.wait_for_selector("[data-test=balance]")
        assert "#" not in page.url
        yield page
        foreign = [url for url in home.asked if not url.startswith((home.url, "data:", "blob:", "about:"))]
        assert foreign == [], "nothing comes from the internet"
        lost = re.compile("ERR_CONNECTION_REFUSED|WebSocket|ERR_|status of 50")  # the process was killed under it
        assert [text for text in home.said if not lost.search(text)] == []


def shot(page, name: str) -> None:
    """Keep a picture where PILECHAIN_SHOTS says, to be looked at."""
    if folder := os.environ.get("PILECHAIN_SHOTS"):
        page.wait_for_timeout(300)
        page.screenshot(path=Path(folder) / f"driver-{name}.png", full_page=True)


def quote(page, home, energy: str = "3", limit: str = "") -> None:
    page.goto(home.url + "/new")
    page.fill("input[data-test=energy]", energy)
    if limit:
        page.click("[data-test=how] button >> nth=1")
        page.fill("input[data-test=limit]", limit)
    page.click("[data-test=ask]")
    page.wait_for_selector("[data-test=quote]")


def order(page, home, **wish: str) -> str:
    """Quote and order; the order's id."""
    quote(page, home, **wish)
    page.click("[data-test=place]")
    page.wait_for_url("**/order/*")
    return page.url.rsplit("/", 1)[1]


def confirmed_by_olga(home, contract: str) -> None:
    with home.site.wallet("olga") as olga:
        olga.confirm(bytes.fromhex(contract))


# --- the whole way -------------------------------------------------------------------------------------------------------


def test_a_driver_charges_on_a_phone_and_keeps_a_receipt(home, phone, tmp_path, capsys):
    before = home.sequence()
    quote(phone, home)
    shot(phone, "quote")
    assert "Not anonymous: your account pays" in phone.inner_text("[data-test=quote]")
    phone.dblclick("[data-test=place]")  # an order however often it is pressed
    phone.wait_for_url("**/order/*")
    number = phone.url.rsplit("/", 1)[1]
    assert home.sequence() == before + 1
    phone.wait_for_selector("[data-test=start]")
    shot(phone, "reserved")
    assert "not anonymous" in phone.inner_text("body")
    phone.reload()  # nothing that counts was in the browser
    phone.click("[data-test=start]")
    phone.wait_for_selector("[data-test=metered]")
    seen = phone.inner_text("[data-test=metered]")
    phone.wait_for_function("text => document.querySelector('[data-test=metered]')?.innerText != text", arg=seen)
    shot(phone, "charging")
    phone.reload()
    phone.wait_for_selector("[data-test=confirm]")
    shot(phone, "settlement")
    total = phone.inner_text("[data-test=total]")
    phone.dblclick("[data-test=confirm]")
    phone.wait_for_selector("[data-test=confirm]", state="detached")
    assert home.sequence() == before + 2
    confirmed_by_olga(home, number)
    phone.wait_for_selector("[data-test=verified]")
    shot(phone, "receipt")
    assert phone.inner_text("[data-test=total]") == total
    paid = OPENING_MICRO - balance(home)
    assert total == f"{exact(paid)}\u00a0CNY"
    check_receipt(home, phone, tmp_path, capsys)


def balance(home) -> int:
    with home.site.wallet("dan") as dan:
        return dan.ask("account")["balance_micro"]


def check_receipt(home, phone, folder, capsys) -> None:
    """The certificate is downloaded and accepted offline, by its receipt; the code on the screen says that receipt."""
    with phone.expect_download() as download:
        phone.click("[data-test=download]")
    file = folder / download.value.suggested_filename
    download.value.save_as(file)
    told = re.search(r"'(pilechain-receipt:.*)'", phone.inner_text("[data-test=verified]")).group(1)
    genesis = str(home.site.folder / "genesis.json")
    assert main(["verify", str(file), "--genesis", genesis, "--receipt", told, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["receipt"] == "same file"
    other = told.replace(f":{parse(told).height}:", f":{parse(told).height + 1}:")
    assert main(["verify", str(file), "--genesis", genesis, "--receipt", other]) == 1
    assert "not what the receipt speaks of" in capsys.readouterr().out
    assert main(["verify", str(file), "--genesis", genesis, "--receipt", "https://example.com"]) == 2
    assert modules(phone) == [[bool(dark) for dark in row] for row in segno.make(told, error="m", micro=False).matrix]


def modules(phone) -> list[list[bool]]:
    """The dark and light squares of the code, as the browser drew them."""
    return phone.evaluate(
        """async () => {
            const img = document.querySelector('img[data-test=qr]'); await img.decode();
            const n = Math.round(img.naturalWidth) - 8, k = 8, canvas = document.createElement('canvas');
            canvas.width = canvas.height = (n + 8) * k;
            const g = canvas.getContext('2d'); g.fillStyle = '#fff'; g.fillRect(0, 0, canvas.width, canvas.height);
            g.drawImage(img, 0, 0, canvas.width, canvas.height);
            const dark = (x, y) => g.getImageData((x + 4.5) * k, (y + 4.5) * k, 1, 1).data[0] < 128;
            return [...Array(n).keys()].map(y => [...Array(n).keys()].map(x => dark(x, y)));
        }"""
    )


def test_an_order_that_waits_is_taken_back_and_one_that_was_stopped_is_objected_to(home, phone):
    number = order(phone, home, energy="2", limit="0.3")
    phone.wait_for_selector("[data-test=cancel]")
    shot(phone, "waiting")
    phone.click("[data-test=cancel]")
    phone.click("[data-test=sure]")
    phone.wait_for_selector("[data-test=state]:has-text('Called off')")
    assert number not in {row["id"].hex() for row in home.orders()}
    before_micro = balance(home)
    order(phone, home, energy="5")
    phone.click("[data-test=start]")
    phone.wait_for_function("(document.querySelector('[data-test=metered]')?.innerText || '0.000') > '0.3'")
    phone.click("[data-test=stop]")
    phone.click("[data-test=sure]")
    phone.wait_for_selector("[data-test=object]")
    shot(phone, "stopped")
    phone.click("[data-test=object]")
    assert "5.00\u00a0CNY" in phone.inner_text(".pd-dialog")  # the bond, before anything is signed
    shot(phone, "objection")
    phone.click("[data-test=object_do]")  # without a sentence
    before = home.sequence()
    phone.fill("textarea[data-test=text]", "<b>my car</b> says 'less'")
    phone.fill("input[data-test=claimed]", "0.1")
    phone.click("[data-test=object_do]")
    phone.wait_for_selector("text=my car")
    shot(phone, "disputed")
    assert phone.locator("b:has-text('my car')").count() == 0, "what parties write is text"
    assert home.sequence() == before + 1
    with home.site.wallet("auditor") as auditor:
        (row,) = auditor.ask("disputes")
        assert (row["ground"], row["claimed_wh"]) == ("energy", 100)
        auditor.send(Rule(row["id"], 100, "pile"))
    phone.wait_for_selector("[data-test=verified]")
    shot(phone, "ruled")
    assert "Dispute decided" in phone.inner_text("[data-test=receipt]")
    assert phone.inner_text("[data-test=total]") == f"{exact(balance(home) - before_micro)}\u00a0CNY"
    assert "You get" in phone.inner_text("[data-test=receipt]"), "the owner's bond is worth more than what he took"


def test_it_says_why_there_is_no_price(home, phone):
    quote(phone, home, energy="200")
    assert phone.locator("[data-test=place]").count() == 0
    shot(phone, "no-price")
    assert "less energy left" in phone.inner_text("[data-test=why]")
    phone.fill("input[data-test=energy]", "0.05")
    phone.click("[data-test=ask]")
    phone.wait_for_selector("text=in steps of 0.1 kWh.")


# --- what goes wrong -----------------------------------------------------------------------------------------------------


def test_a_wallet_killed_between_order_and_confirmation_goes_on(home, phone):
    number = order(phone, home)
    phone.wait_for_selector("[data-test=start]")
    home.process.kill()
    home.start()
    phone.reload()  # the same browser is still paired, and the order is on the chain
    phone.click("[data-test=start]")
    phone.wait_for_selector("[data-test=metered]")
    home.process.kill()
    home.start()
    phone.goto(f"{home.url}/order/{number}")
    phone.wait_for_selector("[data-test=confirm]")
    before = home.sequence()
    phone.click("[data-test=confirm]")
    phone.wait_for_selector("[data-test=confirm]", state="detached")
    assert home.sequence() == before + 1
    confirmed_by_olga(home, number)
    phone.wait_for_selector("[data-test=verified]")
    phone.goto(home.url)
    phone.wait_for_selector("[data-test=item]")
    shot(phone, "home")


def test_a_broker_that_goes_is_told_and_comes_back_by_itself(home, phone):
    phone.goto(home.url)
    phone.wait_for_selector("[data-test=balance]")
    home.broker.stop()
    phone.wait_for_selector("[data-test=away]:visible")
    shot(phone, "away")
    assert phone.locator("[data-test=balance]").count() == 1, "what was known stays"
    home.broker.start()
    phone.wait_for_selector("[data-test=away]", state="hidden")


def test_it_is_there_in_chinese(home, phone):
    phone.goto(home.url + "/new")
    phone.click("[data-test=language]")
    phone.wait_for_selector("text=查询价格")
    assert phone.url == home.url + "/new"
    shot(phone, "zh-new")
    phone.goto(home.url)
    phone.wait_for_selector("[data-test=item]")
    shot(phone, "zh-home")
    phone.click("[data-test=item]:has-text('已确认') >> nth=0")
    phone.wait_for_selector("[data-test=verified]")
    shot(phone, "zh-receipt")
    assert "非匿名" in phone.inner_text("body")
    phone.click("[data-test=language]")
    phone.wait_for_selector("text=Verified on this machine")


# --- who may come in -----------------------------------------------------------------------------------------------------


def test_without_pairing_nothing_is_given_away(home):
    with httpx.Client(base_url=home.url) as stranger:
        for path in (
            "/",
            "/new",
            "/devices",
            "/order/" + "ab" * 32,
            f"/order/{'ab' * 32}/certificate",
            "/language/zh",
            "/docs",
        ):
            answer = stranger.get(path)
            assert (answer.status_code, answer.text) == (403, "Pair this browser first."), path
            shown = stranger.get(path, headers={"Accept": "text/html"})
            assert (shown.status_code, shown.headers["location"]) == (303, "/pair")
        assert stranger.get("/_nicegui/3.18.0/static/nicegui.js").status_code == 403
        page = stranger.get("/pair").text
        assert not re.search(f"dan|olga|{home.site.genesis.chain_id}|nicegui|pilechain", page, re.IGNORECASE)
        for host in ("evil.example", f"evil.example:{home.port}", "127.0.0.1", "127.0.0.1:1"):
            assert stranger.get("/pair", headers={"Host": host}).status_code == 421, host
        mine = {"Origin": home.url}
        assert stranger.post("/pair", data={"code": "x"}).status_code == 421  # a browser says where a form came from
        assert stranger.post("/pair", data={"code": "x"}, headers={"Origin": "http://evil.example"}).status_code == 421
        assert stranger.post("/pair", data={"code": home.code}, headers=mine).status_code == 403, "it was used"
        for _ in range(4):
            assert stranger.post("/pair", data={"code": "00000-00000"}, headers=mine).status_code == 403
        assert stranger.post("/pair", data={"code": "00000-00000"}, headers=mine).status_code == 429


def test_a_page_of_somebody_else_opens_no_socket(home, phone):
    """With the cookie and all: what counts is where the page came from."""
    from websockets.exceptions import InvalidStatus
    from websockets.sync.client import connect

    cookies = "; ".join(f"{one['name']}={one['value']}" for one in phone.context.cookies())
    (paired,) = [one for one in phone.context.cookies() if one["name"].startswith("pilechain_page")]
    assert (paired["httpOnly"], paired["sameSite"]) == (True, "Strict")
    socket = home.url.replace("http", "ws") + "/_nicegui_ws/socket.io/?EIO=4&transport=websocket"
    with connect(socket, origin=home.url, additional_headers={"Cookie": cookies}):
        pass
    for origin, jar in (("http://evil.example", cookies), (None, cookies), (home.url, "")):
        with pytest.raises(InvalidStatus):
            connect(socket, origin=origin, additional_headers={"Cookie": jar}).close()


def test_with_a_certificate_it_is_served_by_https(home, tmp_path):
    made, port = make_certificates(tmp_path / "tls"), free_port()
    words = ["wallet", "--key", str(home.site.key_file("dan")), "--genesis", str(home.site.folder / "genesis.json")]
    words += ["--broker", f"127.0.0.1:{home.broker.port}", "--json", "page", "--port", str(port), "--name", "localhost"]
    words += ["--tls-cert", str(made["broker.pem"]), "--tls-key", str(made["broker-key.pem"])]
    process = home.site.start("tls-page", sys.executable, "-m", "pile_coordinator.cli", *words)
    wait_for(lambda: "code" in process.text(), 30, "the page", process)
    told = json.loads(process.text().splitlines()[0])
    assert told["url"] == f"https://localhost:{port}"
    trusted = ssl.create_default_context(cafile=str(made["ca.pem"]))
    with httpx.Client(base_url=told["url"], verify=trusted) as client:
        answer = client.post("/pair", data={"code": told["code"]}, headers={"Origin": told["url"]})
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
        assert all(word in answer.headers["set-cookie"] for word in ("Secure", "HttpOnly", "SameSite=strict"))
        assert client.get("/").status_code == 200
    process.stop()


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--listen", "0.0.0.0"], "name one address"),
        (["--listen", "8.8.8.8"], "needs --tls-cert"),
        (["--listen", "localhost"], "expected an address"),
        (["--tls-cert", "x.pem"], "belong together"),
        (["--port", "0"], "port"),
    ],
)
def test_where_it_must_not_be_served(home, words, why, capsys):
    options = ["--key", str(home.site.key_file("dan")), "--genesis", str(home.site.folder / "genesis.json")]
    status = main(["wallet", *options, "--broker", f"127.0.0.1:{home.broker.port}", "page", *words])
    assert status in {1, 2}
    assert why in capsys.readouterr().err


def test_it_ends_when_it_is_told_to(home):
    """The last of this file: the process goes, at once and with status 0."""
    pid = home.process.pid
    os.kill(pid, signal.SIGTERM)
    wait_for(lambda: not home.process.running, 10, "the page to end")
    assert not subprocess.run(["ps", "-p", str(pid), "-o", "pid="], capture_output=True, check=False).stdout.strip()
