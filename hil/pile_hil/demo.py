"""`pilechain demo`: the whole path once, for real, in about half a minute.

Two simulated meters served over real Modbus, one pile on CPython and one under MicroPython, an MQTT broker, a coordinator
as a process of its own, two drivers. What is printed is what happened: every number comes from the chain.
"""

import shutil
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from pile_coordinator.amounts import money
from pile_coordinator.certificates import decode_order_certificate
from pile_coordinator.chain.transactions import AT_MARKET, List, PlaceBid
from pile_coordinator.guest import Guest
from pile_coordinator.verify import Verified, verify_order
from pile_coordinator.wallet import START, Wallet
from pile_edge.board.bundle import find_micropython
from pile_hil.demo_anonymous import NEIGHBOURS, NOTE_MICRO, Payments, fill_a_bin
from pile_hil.life import live_on
from pile_hil.network_site import NetworkSite
from pile_hil.site import HOUR_MS, PileSpec, Site, SiteError, SiteProcess, wait_for
from pile_shared.units import LOT_WH

RATE = 180  # three minutes of charging a second
NETWORK_RATE = 90  # blocks of a network take a second, in which this much passes
ZONE = "north"
SETTLE_SECONDS = 40 * RATE  # of the site's time

DAN_WH, EVA_WH, EVA_BATTERY_WH = 4000, 3000, 1500
AGAIN_WH = 1000  # of dan's second order, which a note pays for
DAN_CAP, EVA_LIMIT = 800_000, 680_000  # micro per kWh: above and below the price under both orders' load


ANON = "anon"  # who the user is to the ledger, but for the number


@dataclass
class _Story:
    """What the chapters share."""

    site: Site
    console: Console
    orders: dict[str, bytes]
    chapter: int = 0
    notes_micro: int = 0  # of all purses, when the story last looked

    def head(self, text: str) -> None:
        """The first line of the next chapter; its bold part ends with [/]."""
        self.chapter += 1
        self.say(f"[bold]{self.chapter}. {text}")

    def say(self, text: str) -> None:
        self.console.print(text)

    def contract(self, wallet: Wallet, who: str) -> dict[str, object]:
        return wallet.contract(self.orders[who])


def run(out: Path, *, network: bool = False, keep: bool = False) -> int:
    """Run the demo and write certificates and genesis into `out`; the exit status.

    Args:
        out: where certificates, genesis, ledger and logs go.
        network: with four accounting nodes on CometBFT, two operators with a coordinator each, instead of one coordinator.
        keep: let the site live on with its dashboard open, until Ctrl-C or SIGTERM.
    """
    console = Console(highlight=False, soft_wrap=True)
    out.mkdir(parents=True, exist_ok=True)
    for old in (*out.glob("*.cbor"), *out.glob("*.log"), *out.glob("genesis.json"), *out.glob("ledger.sqlite")):
        old.unlink()
    with tempfile.TemporaryDirectory(prefix="pilechain-demo-") as folder:
        try:
            piles = _piles(console)
            make = (
                NetworkSite(Path(folder), piles, rate=NETWORK_RATE) if network else Site(Path(folder), piles, rate=RATE)
            )
            with make as site:
                story = _Story(site, console, {})
                _tell(story, out)
                if keep:
                    live_on(site, site.start_web("operator", "operator"), console, chapter=story.chapter + 1)
        finally:
            logs = (*Path(folder).glob("*.log"), *Path(folder).glob("network/*.log"))
            ledgers = (
                *Path(folder).glob("coordinator/ledger.sqlite"),
                *Path(folder).glob("network/auditor/data/ledger.sqlite"),
            )
            for left in (*logs, *ledgers):
                shutil.copy(left, out)
    return 0


def _piles(console: Console) -> list[PileSpec]:
    board = find_micropython() is not None
    if not board:
        console.print("No MicroPython wheel for this platform: both piles run on CPython.")
    return [
        PileSpec("pile-1", "olga", {"kind": "tcp"}, "eastron-sdm630", "SDM630", 63000117, battery_wh=20_000),
        PileSpec(
            "pile-2",
            "otto",
            {"kind": "rtu", "baud": 9600},
            "abb-b23",
            "B23",
            23000042,
            battery_wh=EVA_BATTERY_WH,
            interpreter="micropython" if board else "cpython",
        ),
    ]


def _tell(story: _Story, out: Path) -> None:
    site = story.site
    piles = _open_site(story)
    with site.wallet("dan") as dan, site.wallet("eva") as eva, site.wallet("olga") as olga, site.wallet("otto") as otto:
        _list_piles(story, olga, otto)
        has_notes = not isinstance(site, NetworkSite)  # whose blocks take a second: sixteen purchases would be a minute
        if has_notes:
            _sell_notes(story, {"dan": dan, "eva": eva})
        _order(story, dan, eva)
        _charge(story, dan, "dan", "pile-1", piles)
        _settle(story, "dan", dan, olga)
        _fill_resting(story, eva)
        _charge(story, eva, "eva", "pile-2", piles)
        _settle(story, "eva", eva, otto)
        asked = {"dan": dan, "eva": eva}
        if has_notes:
            anon = _order_anonymously(story)
            with anon:
                _charge(story, anon, ANON, "pile-1", piles)
                _settle(story, ANON, anon, olga)
                _change(story)
                _certificates(story, asked | {ANON: anon}, out)
        else:
            _certificates(story, asked, out)
        _balances(story, {"dan": dan, "eva": eva, "olga": olga, "otto": otto}, out)


def _open_site(story: _Story) -> list[SiteProcess]:
    site = story.site
    story.head(f"A site opens[/] (time runs {site.clock.rate} times as fast)")
    broker = site.start_broker()
    site.start_rig()
    coordinator = site.start_coordinator()
    deposit = 20_000_000
    roles = {"olga": "pile-owner", "otto": "pile-owner", "dan": "ev-owner", "eva": "ev-owner"}
    site.admit({party: (role, deposit) for party, role in roles.items()})
    piles = [site.start_pile(pile) for pile in site.piles]
    for process in piles:
        wait_for(lambda p=process: "connected" in p.text(), 20, f"{process.name} to connect", process)  # type: ignore[misc]
    for pile in site.piles.values():
        bus = "Modbus TCP" if pile.bus["kind"] == "tcp" else "Modbus RTU on a pty"
        agent = f"MicroPython, {pile.heap}B heap" if pile.interpreter == "micropython" else "CPython"
        story.say(f"   {pile.id} of {pile.owner}: {pile.model} over {bus}, agent on {agent}")
    story.say(
        f"   accounting nodes {', '.join(v.party for v in site.genesis.validators)}; every account opens with 20 CNY"
    )
    if isinstance(site, NetworkSite):
        story.say("   each runs CometBFT and its own ledger; operator-1 and operator-2 serve piles and wallets")
    return [broker, coordinator, *piles]


def _list_piles(story: _Story, olga: Wallet, otto: Wallet) -> None:
    now_ms = story.site.clock.now_ms()
    for wallet, pile in ((olga, "pile-1"), (otto, "pile-2")):
        wallet.send(List(pile, now_ms, now_ms + 48 * HOUR_MS, 50_000, AT_MARKET, explicit=False))
    story.say("   olga and otto list their piles at market: the load sets the price")


def _sell_notes(story: _Story, drivers: dict[str, Wallet]) -> None:
    count = fill_a_bin(story.site, drivers)
    story.notes_micro = count * NOTE_MICRO
    story.say(
        f"   {count} drivers buy a note of {money(NOTE_MICRO)} CNY each:"
        f" dan, eva, and {len(NEIGHBOURS)} neighbours without a car"
    )


def _order_anonymously(story: _Story) -> Guest:
    """A bid that a note of dan's pays for; the connection on which it is confirmed."""
    story.head("dan orders once more, and pays with a note[/] (which of 16 paid is nowhere in the ledger)")
    payments = Payments(story.site, "dan")
    bid = replace(_bid(story, AGAIN_WH, DAN_CAP, pile="pile-1", market=True), expires_ms=0)
    market, choice = payments.quote(bid)
    spending = payments.payer.bid(market, choice, bid)
    story.orders[ANON] = bytes.fromhex(spending.transaction)
    story.say(
        f"   one note of {money(choice.worth_micro)} CNY pays; it hides among {choice.owners} owners,"
        f" of whom {len(NEIGHBOURS)} have no car here: who saw the car knows better"
    )
    anon = payments.order(spending)
    story.say(f"   to the ledger the user is {anon.party}, who has never ordered before and never will again")
    return anon


def _change(story: _Story) -> None:
    left = Payments(story.site, "dan").waiting_micro()
    story.notes_micro += left - NOTE_MICRO
    story.say(
        f"   what is left became notes again, {money(left)} CNY, of keys that only dan has; less than 0.1 went to the fees"
    )


def _show_price(story: _Story, wallet: Wallet, when: str) -> None:
    quote = wallet.quote(_bid(story, LOT_WH, DAN_CAP, market=True))
    load_wh, price = cast("int", quote["load_wh"]), cast("int", quote["now_micro_per_kwh"])
    story.say(f"   price at {load_wh / 1000:.1f} kWh of load: {money(price)} CNY/kWh {when}")


def _bid(story: _Story, energy_wh: int, limit: int, *, pile: str = "", market: bool) -> PlaceBid:
    now_ms = story.site.clock.now_ms()
    return PlaceBid(
        ZONE,
        pile,
        energy_wh,
        window_start_ms=now_ms,
        window_end_ms=now_ms + 12 * HOUR_MS,
        limit_micro_per_kwh=limit,
        market=market,
        expires_ms=now_ms + 11 * HOUR_MS,
        divisible=False,
        explicit=False,
    )


def _order(story: _Story, dan: Wallet, eva: Wallet) -> None:
    story.head("Two orders meet a curve[/] (P = B / (S x CRR), CRR = 4/5)")
    _show_price(story, dan, "(nobody charges: the catalog price)")
    order = _bid(story, DAN_WH, DAN_CAP, pile="pile-1", market=True)
    quote = dan.quote(order)
    cost, hold = money(cast("int", quote["cost_micro"])), money(cast("int", quote["hold_micro"]))
    story.say(f"   dan asks first: {DAN_WH / 1000:.1f} kWh would cost him {cost} CNY with the fee; he puts up {hold}")
    story.orders["dan"], _ = dan.send(order)
    found = story.contract(dan, "dan")
    price = money(cast("int", found["price_micro_per_kwh"]))
    story.say(f"   dan buys {DAN_WH / 1000:.1f} kWh at market: contract signed at {price} CNY/kWh")
    _show_price(story, dan, "(dan's order raised it)")
    order = _bid(story, EVA_WH, EVA_LIMIT, pile="pile-2", market=False)
    would = money(cast("int", eva.quote(order)["curve_micro_per_kwh"]))
    story.orders["eva"], _ = eva.send(order)
    is_resting = any(row["kind"] == "bid" for row in cast("list[dict[str, object]]", eva.ask("orders")))
    story.say(
        f"   eva wants {EVA_WH / 1000:.1f} kWh at {money(EVA_LIMIT)} or less; it would be {would}:"
        f" her order {'rests' if is_resting else 'fills'}"
    )


def _charge(story: _Story, wallet: Wallet, who: str, pile: str, watched: list[SiteProcess]) -> None:
    site, found = story.site, story.contract(wallet, who)
    assert site.rig is not None
    story.head(f"{who} charges on {pile}[/] (contract checked by the pile itself, then energised)")
    contract, energy_wh = cast("bytes", found["id"]), cast("int", found["energy_wh"])
    reserved = next(process for process in watched if process.name == pile)
    wait_for(lambda: f"contract {contract.hex()[:8]}" in reserved.text(), 20, "the pile to be reserved", *watched)
    before_wh = cast("int", site.rig.truth(pile)["energy_wh"])
    site.rig.command(do="plug", pile=pile)
    wallet.command(pile, contract, START, site.clock.now_ms(), energy_wh)
    with Progress(
        TextColumn("   {task.description}"), BarColumn(), TextColumn("{task.completed} Wh"), TimeElapsedColumn(),
        console=story.console, transient=True, disable=not story.console.is_terminal,
    ) as progress:  # fmt: skip
        bar = progress.add_task("metered and proven", total=energy_wh)
        settle_s = SETTLE_SECONDS // site.clock.rate
        deadline = time.monotonic() + settle_s
        while found["phase"] in {"signed", "active"}:
            if time.monotonic() > deadline:
                logs = "\n".join(process.text()[-2000:] for process in watched)
                raise SiteError(f"{who}'s session did not end in {settle_s} s\n{logs}")
            time.sleep(0.2)
            found = story.contract(wallet, who)
            progress.update(bar, completed=cast("int", found["measured_wh"]))
    truth_wh = cast("int", site.rig.truth(pile)["energy_wh"]) - before_wh
    why = {"user": "the car is full", "pile": "the pile could not go on"}.get(str(found["cause"]), "as contracted")
    story.say(f"   {found['measured_wh']} Wh metered, proven and chained ({why}); the car drew {truth_wh} Wh")


def _settle(story: _Story, who: str, user: Wallet, owner: Wallet) -> None:
    found = story.contract(user, who)
    for wallet in (user, owner):
        wallet.confirm(cast("bytes", found["id"]))
    names = {"U": who, "H": owner.party, "G": "grid", "F": "fees", "E": "escrow", "B": "bond"}
    story.head(f"{who} and {owner.party} confirm, the contract settles itself[/]")
    for debit, credit, amount in cast("list[tuple[str, str, int]]", found["postings"]):
        story.say(f"   {names[debit]:<6} -> {names[credit]:<6} {money(amount):>10} CNY  {_why(debit, credit)}")
    _show_price(story, user, "(the load fell, and so did the price)")


def _why(debit: str, credit: str) -> str:
    return {
        "EH": "energy at the contract's price",
        "EG": "what was used beyond the contract, at the catalog price",
        "GE": "what was not used, bought by the grid at the catalog price",
        "EF": "service fee",
        "EU": "rest of the escrow",
        "BH": "bond returned",
        "BE": "shortfall of the pile",
    }[debit + credit]


def _fill_resting(story: _Story, eva: Wallet) -> None:
    found = story.contract(eva, "eva")
    story.say(
        f"   eva's resting order fills in the same block: {EVA_WH / 1000:.1f} kWh at"
        f" {money(cast('int', found['price_micro_per_kwh']))} CNY/kWh"
    )


def _certificates(story: _Story, wallets: dict[str, Wallet], out: Path) -> None:
    story.head("One certificate per order, checked offline against the genesis alone[/]")
    (out / "genesis.json").write_bytes((story.site.folder / "genesis.json").read_bytes())
    for who, wallet in wallets.items():
        data = cast("bytes", wallet.ask("certificate", story.orders[who]))
        path = out / f"{who}.cbor"
        path.write_bytes(data)
        verified: Verified = verify_order(data, story.site.genesis)
        attested = len(decode_order_certificate(data).closing.certificate.attestations)
        nodes = len(story.site.genesis.validators)
        story.say(
            f"   {path}: {len(data)} bytes, {verified.proofs} metering proofs, {attested} of {nodes} accounting nodes,"
            f" {verified.outcome} by {' and '.join(verified.confirmed_by)}"
        )


def _balances(story: _Story, wallets: dict[str, Wallet], out: Path) -> None:
    story.head("Balances[/]")
    deposits = 20_000_000 * len(wallets) + (NOTE_MICRO * len(NEIGHBOURS) if story.notes_micro else 0)
    with story.site.wallet("grid") as grid:
        rows = {who: cast("dict[str, int]", w.ask("account"))["balance_micro"] for who, w in wallets.items()}
        rows["grid"] = cast("dict[str, int]", grid.ask("account"))["balance_micro"]
        rows["fees"] = cast("dict[str, int]", grid.ask("account"))["fees_micro"]
    if story.notes_micro:
        rows["notes"] = story.notes_micro
    rows["outside"] = -deposits
    for who, balance in rows.items():
        story.say(f"   {who:<8} {money(balance):>12} CNY")
    total = sum(rows.values())
    story.say(f"   {'sum':<8} {money(total):>12} CNY")
    if total != 0:
        raise SiteError("the balances do not sum to zero")
    story.say(f"Check them yourself: .venv/bin/pilechain verify {out}/*.cbor")
