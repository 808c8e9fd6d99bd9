"""A site that lives on: drivers who come, charge, confirm and come again, until somebody stops it.

For `pilechain demo --keep`, where the dashboard shall have something to show, and for looking at a whole site for hours. Every
order takes the way of the demo's: quote, bid, contract, the pile's relay, its meter, its proofs, both confirmations.
"""

import random
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self, cast

from rich.console import Console

from pile_coordinator.chain.rejections import Rejection
from pile_coordinator.chain.transactions import AT_MARKET, CancelBid, Deposit, List, PlaceBid
from pile_coordinator.wallet import START, Wallet, WalletError
from pile_hil.process import RigProcess
from pile_hil.site import HOUR_MS, Site, Web
from pile_shared.errors import LinkError

ENERGIES_WH = 1000, 2000, 3000, 4000
PAUSE_S = 1.0, 6.0  # between two charges of one driver, of real time
SESSION_S = 180.0  # an order that has not ended by then is left to the chain, which ends it itself
LISTED_MS = 24 * HOUR_MS
LOW_MICRO, TOP_UP_MICRO = 6_000_000, 20_000_000


@dataclass(frozen=True, slots=True)
class Regular:
    """A driver who always charges at one pile."""

    driver: str
    owner: str
    pile: str


class Life:
    """Regulars who charge, each in a thread of its own. Use as a context manager."""

    def __init__(
        self, site: Site, rig: RigProcess, regulars: list[Regular], tell: Callable[[str], None], seed: int
    ) -> None:
        """Begin at once. `tell` hears one line for each order that ended, and for each that could not be had."""
        self._site, self._rig, self._tell = site, rig, tell
        self._stop = threading.Event()
        self._rig_lock = threading.Lock()  # the rig answers one command at a time
        self._threads = [
            threading.Thread(target=self._live, args=(regular, random.Random(f"{seed} {regular.driver}")), daemon=True)  # noqa: S311 - chance, not secrets
            for regular in regulars
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let nobody begin anew, and wait until everybody has noticed."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _live(self, regular: Regular, chance: random.Random) -> None:
        with self._site.wallet(regular.driver) as driver, self._site.wallet(regular.owner) as owner:
            listed_until_ms, number = 0, 0
            while not self._stop.wait(chance.uniform(*PAUSE_S)):
                try:
                    listed_until_ms = self._offer(owner, regular.pile, listed_until_ms)
                    number = self._fund(driver, number)
                    self._charge(driver, owner, regular.pile, chance.choice(ENERGIES_WH))
                except (Rejection, WalletError, LinkError) as error:
                    self._tell(f"{regular.driver}: {error}")

    def _offer(self, owner: Wallet, pile: str, until_ms: int) -> int:
        """Until when the pile is listed: a listing that ends soon is followed by another."""
        now_ms = self._site.clock.now_ms()
        if now_ms + LISTED_MS // 2 < until_ms:
            return until_ms
        begin_ms = max(now_ms, until_ms)
        owner.send(List(pile, begin_ms, begin_ms + LISTED_MS, 50_000, AT_MARKET, explicit=False))
        return begin_ms + LISTED_MS

    def _fund(self, driver: Wallet, number: int) -> int:
        if cast("dict[str, int]", driver.ask("account"))["balance_micro"] >= LOW_MICRO:
            return number
        with self._site.wallet("grid") as grid:
            grid.send(
                Deposit(driver.party, TOP_UP_MICRO, f"top-up-{driver.party}-{number}-{self._site.clock.now_ms()}")
            )
        return number + 1

    def _charge(self, driver: Wallet, owner: Wallet, pile: str, energy_wh: int) -> None:
        now_ms = self._site.clock.now_ms()
        bid = PlaceBid(
            "north",
            pile,
            energy_wh,
            window_start_ms=now_ms,
            window_end_ms=now_ms + 6 * HOUR_MS,
            limit_micro_per_kwh=0,
            market=True,
            expires_ms=now_ms + 5 * HOUR_MS,
            divisible=False,
            explicit=False,
        )
        least = cast("int", driver.quote(bid)["curve_micro_per_kwh"])
        order, _ = driver.send(replace(bid, limit_micro_per_kwh=least * 6 // 5))
        if not self._wait(lambda: self._is_contract(driver, order)):
            self._tell(f"{driver.party}'s order rests")
            driver.send(CancelBid(order))
            return
        contract = cast("bytes", driver.contract(order)["id"])
        with self._rig_lock:
            self._rig.command(do="plug", pile=pile, battery_wh=2 * energy_wh)
        # A pile hears of its contract with the next block; a command before that would be for nobody.
        self._wait(lambda: self._started(driver, pile, contract, energy_wh))
        self._wait(lambda: driver.contract(contract)["phase"] not in {"signed", "active"})
        if self._stop.is_set():
            return
        found = driver.contract(contract)
        if found["phase"] == "measured":
            for wallet in (driver, owner):
                wallet.confirm(contract)
        self._tell(f"{driver.party} charged {cast('int', found['measured_wh']) / 1000:.3f} kWh on {pile}")

    def _started(self, driver: Wallet, pile: str, contract: bytes, energy_wh: int) -> bool:
        driver.command(pile, contract, START, self._site.clock.now_ms(), energy_wh)
        return not self._stop.wait(1) and driver.contract(contract)["phase"] != "signed"

    def _is_contract(self, driver: Wallet, order: bytes) -> bool:
        try:
            return bool(driver.contract(order))
        except WalletError:
            return False

    def _wait(self, condition: Callable[[], bool]) -> bool:
        """Whether it came true within a session's time, and before the site stops."""
        for _ in range(int(SESSION_S / 0.5)):
            if condition():
                return True
            if self._stop.wait(0.5):
                break
        return False


def live_on(site: Site, web: Web, console: Console, chapter: int) -> None:
    """Let the drivers of a demo's site go on, its dashboard open, until Ctrl-C or SIGTERM."""
    assert site.rig is not None
    drivers = ("dan", "eva")
    regulars = [Regular(driver, pile.owner, pile.id) for driver, pile in zip(drivers, site.piles.values(), strict=True)]
    console.print(f"[bold]{chapter}. The site lives on: dan and eva keep charging[/]")
    console.print(f"   dashboard: {web.url}/ with the token {web.token}")
    console.print(f"   dan's own page: .venv/bin/pilechain wallet {_of(site, 'dan')} page")
    console.print("   Ctrl-C ends it")
    stopped = threading.Event()
    before = {
        number: signal.signal(number, lambda *_: stopped.set())
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        with Life(site, site.rig, regulars, lambda line: console.print(f"   {line}"), seed=1):
            stopped.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _of(site: Site, party: str) -> str:
    return f"--key {site.key_file(party)} --genesis {site.folder / 'genesis.json'} --broker 127.0.0.1:{site.port}"
